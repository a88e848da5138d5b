"""How much of everything: the full study and the quick one, and the jobs that sections share."""

from dataclasses import dataclass
from typing import Any

from minirlhf.study import answering, training
from minirlhf.study.graph import Job

# Minutes of a PPO run, roughly; only the order of jobs depends on them.
COST = {"moonlet-300k": 1.0, "moonlet-1m": 3.0, "moonlet-4m": 10.0}
TOKENS = {"api": 60, "almanac": 40}  # of an answer


@dataclass(frozen=True)
class Plan:
    """Sizes of a study. The data are the same for all seeds, what is drawn and trained is not.

    Jobs on the task `api` have policies of all sizes and one large reward model, as the paper;
    those on `almanac`, single questions, are cheaper, and stand where many runs are compared.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    sizes: tuple[str, ...] = ("moonlet-300k", "moonlet-1m", "moonlet-4m")
    middle: str = "moonlet-1m"  # where one size is enough
    prompts: int = 300  # held-out prompts
    pooled: int = 1_600  # instructions whose 4 to 9 responses are ranked
    pooled_questions: int = 800  # questions of the almanac with nine responses each
    held: int = 150  # of either, for validation
    sft_epochs: int = 4  # on instructions; single questions need two
    updates: int = 20
    episodes: int = 64  # per update
    items: int = 80  # of each task or probe that is no prompt
    long_sft: int = 16  # epochs
    ptx_coefs: tuple[float, ...] = (0.0, 0.5, 2.0)
    kl_coefs: tuple[float, ...] = (0.0, 0.15, 0.5)
    ranking_counts: tuple[int, ...] = (65, 200, 640)
    responses_read: int = 1_280  # by labelers, where K is compared
    # Reward models that are over-used, each with the rankings it learned from
    proxies: tuple[tuple[str, int], ...] = (
        ("moonlet-300k", 640),
        ("moonlet-1m", 65),
        ("moonlet-1m", 200),
        ("moonlet-1m", 640),
    )
    far: int = 36  # updates without a price on KL
    best_of: int = 80  # prompts of best-of-n, and of a policy's answers on its way
    real_folds: int = 2  # of the hand-made rankings
    real_updates: int = 16  # of SmolLM2
    ptx_coef: float = 0.5
    kl_coef: float = 0.15

    @property
    def largest(self) -> str:
        return self.sizes[-1]

    def swept(self, coefficient: str) -> tuple[float, ...]:
        """The values of a sweep, the plan's own among them."""
        return {"ptx_coef": self.ptx_coefs, "kl_coef": self.kl_coefs}[coefficient]

    def sft(self, size: str, seed: int, task: str = "api", needs: tuple = (), **config) -> Job:
        """An SFT model; `config` are fields of SFTConfig that differ from the plan's."""
        config = dict(epochs=self.sft_epochs if task == "api" else 2) | config
        settings = dict(model=size, task=task, seed=seed, config=config)
        name = f"sft-{task}-{short(size)}-{seed}"
        return Job(name, training.sft, settings, needs, COST[size] * config["epochs"] / 12)

    def pool(self, seed: int, task: str = "api") -> Job:
        """Responses to rank: of the SFT models of all sizes, or of one."""
        tokens = TOKENS[task]
        settings = dict(task=task, seed=seed, prompts=self.pooled, max_new_tokens=tokens)
        if task == "almanac":  # where K is compared
            settings |= {"prompts": self.pooled_questions, "all_nine": True}
        sizes = self.sizes if task == "api" else (self.middle,)
        needs = tuple(self.sft(size, seed, task) for size in sizes)
        return Job(f"pool-{task}-{seed}", training.pool, settings, needs, cost=20)

    def reward(self, seed: int, task: str = "api", size: str = "", **settings: Any) -> Job:
        """The reward model of a task, or one that differs in some settings."""
        size = size or (self.largest if task == "api" else self.middle)
        asked = dict(task=task, seed=seed, config=dict(epochs=1), valid=self.held) | settings
        needs = (self.sft(size, seed, task), self.pool(seed, task))
        name = f"reward-{task}-{short(size)}-{seed}"
        return Job(name, training.reward, asked, needs, COST[size])

    def policy(
        self,
        size: str,
        seed: int,
        name: str = "ppo",
        task: str = "api",
        reward: Job | None = None,
        probe: int = 0,
        algorithm: str = "ppo",
        **config: Any,
    ) -> Job:
        """A policy; `config` are fields of the algorithm's settings that differ from the plan's."""
        asked: dict[str, Any] = {}
        if algorithm != "dpo":
            asked = dict(updates=self.updates, rollout_batch_size=self.episodes,
                         max_new_tokens=TOKENS[task], kl_coef=self.kl_coef)  # fmt: skip
        if algorithm == "ppo":
            asked["ptx_coef"] = self.ptx_coef if name == "ppo-ptx" else 0.0
        asked |= config
        settings = dict(task=task, seed=seed, config=asked, algorithm=algorithm)
        if probe:
            settings |= dict(probe=probe, probe_prompts=self.best_of)
        needs = (self.sft(size, seed, task), reward or self.reward(seed, task))
        label = f"{name}-{task}-{short(size)}-{seed}"
        return Job(label, training.policy, settings, needs, COST[size])

    def base_answers(self, size: str, seed: int, task: str = "api") -> Job:
        """What the bare and the prompted base say to the held-out prompts."""
        settings = self._asked(seed, task) | dict(model=size)
        label = f"answers-base-{task}-{short(size)}-{seed}"
        return Job(label, answering.base, settings, (self.reward(seed, task),))

    def answers(self, sft: Job, reward: Job, *policy: Job) -> Job:
        """What an SFT model or a policy says to them, with that reward model's scores."""
        seed, task = sft.settings["seed"], sft.settings["task"]
        last = (sft, *policy)[-1]
        return Job(
            f"answers-{last.name}", answering.role, self._asked(seed, task), (sft, reward, *policy)
        )

    def _asked(self, seed: int, task: str) -> dict[str, Any]:
        return dict(task=task, seed=seed, prompts=self.prompts, max_new_tokens=TOKENS[task])


FULL = Plan()
QUICK = Plan(
    seeds=(0,),
    sizes=("moonlet-300k", "moonlet-4m"),
    prompts=120,
    pooled=160,
    pooled_questions=160,
    held=40,
    items=60,
    long_sft=5,
    ptx_coefs=(0.0, 0.5),
    kl_coefs=(0.0, 0.15),
    ranking_counts=(60, 120),
    responses_read=240,
    proxies=(("moonlet-300k", 60),),
    far=12,
    best_of=40,
    real_folds=0,
    sft_epochs=2,
    updates=8,
    episodes=32,
)


def short(size: str) -> str:
    """moonlet-300k -> 300k"""
    return size.rpartition("-")[2]
