"""The three stages end to end: one backbone, one run folder.

SFT -> rankings -> reward model -> PPO -> PPO-ptx -> answers, table, report

A run that was killed goes on from its bookmark to the very end it would have come to.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from minirlhf.engine import parallel
from minirlhf.engine.backbone import Backbone, LoRA
from minirlhf.engine.bookmark import Bookmark, Stage
from minirlhf.engine.checkpoint import load_role, put_right, save_role
from minirlhf.engine.decoder import FAMILIES
from minirlhf.engine.health import Watch
from minirlhf.engine.lock import WriteLock
from minirlhf.engine.metrics import MetricsLog, read_metrics
from minirlhf.engine.models import QUANTIZE, load_backbone
from minirlhf.engine.optimisation import NotFinite
from minirlhf.engine.records import (
    DataError,
    Ranking,
    checksum,
    read_records,
    write_records,
    write_text,
)
from minirlhf.engine.rollout import score_texts
from minirlhf.engine.settings import (
    MAX_SEED,
    read_settings,
    refuse_other_settings,
    setting,
    validated,
    write_settings,
)
from minirlhf.engine.snapshot import load_snapshot
from minirlhf.evaluation.evaluate import Answer, System, answer_prompts, summarise
from minirlhf.stages import ppo as ppo_stage
from minirlhf.stages import reward as reward_stage
from minirlhf.stages import sft as sft_stage
from minirlhf.tasks import Task, default_task, load_task

Progress = Callable[[Iterable[dict], int, str], Iterator[dict]]
POLICIES = {"ppo": "PPO", "ppo-ptx": "PPO-ptx"}  # checkpoint folder -> name of the system
ROLES = {"sft": "reference", "reward": "reward", "ppo": "policy", "ppo-ptx": "policy"}
COMPARISONS = "comparisons.jsonl"
ORDER = (*ROLES, "evaluate")  # what a run does; each stage makes the role above


@validated
@dataclass(frozen=True)
class RunConfig:
    """Settings of a whole run."""

    model: str = setting("moonlet-1m", "moonlet-1m, smollm2, a folder, or a hub id")
    quantize: str = setting("none", "4bit = NF4 with double quantisation", choices=QUANTIZE)
    task: str = setting("auto", "which data", choices=("auto", "almanac", "api", "handmade"))
    full: bool = setting(False, "tune all weights instead of LoRA adapters (small models)")
    checkpointing: bool = setting(
        False, "compute activations again in backward: far less memory, a third more time"
    )
    rankings: int = setting(1_000, "prompts whose K responses are ranked", paper=33_207, least=8)
    valid_rankings: int = setting(60, "of these, held out", paper=17_887, least=1)
    test_prompts: int = setting(300, "held-out prompts in the result table", least=1)
    temperature: float = setting(1.0, "sampling temperature of all answers", least=0)
    seed: int = setting(0, "data, initial adapters, answers", least=0, most=MAX_SEED)

    def held_out(self, rankings: int) -> int:
        """How many of so many rankings are held out; they come first in comparisons.jsonl."""
        return min(self.valid_rankings, rankings // 4)


@dataclass
class Settings:
    """All settings of a run, stage by stage."""

    run: RunConfig = field(default_factory=RunConfig)
    lora: LoRA = field(default_factory=LoRA)
    sft: sft_stage.SFTConfig = field(default_factory=sft_stage.SFTConfig)
    reward: reward_stage.RewardConfig = field(default_factory=reward_stage.RewardConfig)
    ppo: ppo_stage.PPOConfig = field(default_factory=lambda: ppo_stage.PPOConfig(ptx_coef=0.5))

    def stages(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}


def no_progress(steps: Iterable[dict], total: int, label: str) -> Iterator[dict]:
    """The quiet way to go through a stage."""
    return iter(steps)


def no_word(text: str) -> None:
    """The quiet way to hear of what the guards have found."""


def _checksum(task: Task) -> str:
    """Of all records and texts of a task."""
    return checksum([value for value in vars(task).values() if isinstance(value, list)])


class Run:
    """One run: a folder, the settings, the task and the backbone. Each method is one step of it.

    The folder is not touched before the first step of a stage has gone well, so that bad input
    leaves earlier results as they are; and it is this run's alone until `close`.

    Args:    resume: go on where the run in the folder was stopped; tell: is called with what the
             guards of `engine.health` find, a text each.
    Raises:  DataError, one line, also where another process writes the folder or nothing can be
             resumed there.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Settings,
        progress: Progress = no_progress,
        resume: bool = False,
        tell: Callable[[str], None] = no_word,
    ):
        self.folder, self.settings = Path(folder), settings
        self.progress, self.tell = progress, tell
        config = settings.run
        if settings.ppo.ptx_coef == 0:
            raise DataError("ppo.ptx_coef: 0.0 would make PPO-ptx the same as PPO")
        self.metrics = MetricsLog(self.folder / "metrics.jsonl")
        self._lock = WriteLock(self.folder) if parallel.is_main() else None
        try:
            name = default_task(config.model) if config.task == "auto" else config.task
            self.task: Task = load_task(name, config.seed)
            file = self.folder / "state.safetensors"
            self.bookmark = Bookmark(file, settings.stages(), _checksum(self.task))
            if resume:
                self._take_up()
            self.backbone = self._load_backbone()
        except BaseException:
            self.close()
            raise

    def _load_backbone(self) -> Backbone:
        config, settings = self.settings.run, self.settings
        backbone = load_backbone(
            config.model,
            config.quantize,
            None if config.full else settings.lora,
            seed=config.seed,
        )
        if config.checkpointing and not backbone.written_out:
            known = ", ".join(FAMILIES)
            raise DataError(f"run.checkpointing: only models of these kinds can: {known}")
        backbone.checkpointing = config.checkpointing
        context = backbone.context_length
        for name in ("max_new_tokens", "ptx_length"):
            if (value := getattr(settings.ppo, name)) >= context:
                raise DataError(f"ppo.{name}: {value} leaves no room in the context of {context}")
        return backbone

    def close(self) -> None:
        """Let others write the folder."""
        if self._lock:
            self._lock.release()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _take_up(self) -> None:
        """Find what a stopped run has left; where it had saved nothing yet, it starts over."""
        recorded = self.folder / "settings.yaml"
        if not recorded.is_file():
            raise DataError(f"{self.folder}: no such run; leave out --resume")
        for stage in ROLES:
            put_right(self.folder / stage)
        parallel.wait()
        if self.bookmark.file.is_file():
            self.bookmark.read()
        elif any((self.folder / stage).is_dir() for stage in ROLES):
            raise DataError(f"{self.folder}: no stage was stopped there, so none can be resumed")
        else:
            refuse_other_settings(self.folder, self.settings.stages(), read_settings(recorded))

    def _follow(
        self, stage: str, steps: Stage, label: str, rankings: Sequence[Ranking] = ()
    ) -> None:
        """Go through a stage's steps, show them, log every one; then save the role it made."""
        done = self.bookmark.restore(stage, steps)
        if done:
            self.metrics.restart(stage, done)
        steps_left = self.bookmark.follow(stage, steps, done)
        earlier = read_metrics(self.metrics.path) if done else []
        watch, step = Watch(row for row in earlier if row["stage"] == stage), done
        try:
            for stats in self.progress(steps_left, len(steps) - done, label):
                step += 1
                if step == 1:
                    self._begin(stage, rankings)
                self.metrics.write(stage, step, stats)
                for finding in watch.see(stats):
                    self.tell(f"{label}, {finding}")
        except NotFinite as error:
            good = self._last_good(stage, step)
            raise NotFinite(f"{stage}, step {step + 1}: {error}; {good}") from None
        if isinstance(steps, ppo_stage.PPO):
            steps.adopt_average()
        save_role(self.backbone, ROLES[stage], self.folder / stage)
        parallel.wait()  # another stage may load it
        self.bookmark.save(ORDER[ORDER.index(stage) + 1])

    @parallel.main_only
    def _begin(self, stage: str, rankings: Sequence[Ranking]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_settings(self.folder / "settings.yaml", self.settings.stages())
            if self.bookmark.file.exists():  # one of an earlier try would not fit the new metrics
                self.bookmark.save(stage)
            self.metrics.restart(stage)
            if rankings:
                write_records(self.folder / COMPARISONS, rankings)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written: {error.strerror}") from None

    def _last_good(self, stage: str, done: int) -> str:
        """Where weights are with which a step went well, for the line a stage stops with."""
        good = {"sft": [], "reward": ["sft"]}.get(stage, ["reward"])
        places = [f"{self.folder / before}" for before in good]
        if self.bookmark.stage == stage and 0 < self.bookmark.step < done:
            places.insert(0, f"{self.bookmark.file} (step {self.bookmark.step})")
        return f"the last good checkpoint: {', '.join(places) or 'none, this run had only begun'}"

    def make(self, stage: str) -> None:
        """Train a stage; in a run that is resumed, load it if it was finished."""
        next_stage = self.bookmark.stage
        if next_stage and ORDER.index(stage) < ORDER.index(next_stage):
            self.load(stage, ROLES[stage])
        elif stage in POLICIES:
            self.ppo(stage)
        else:
            {"sft": self.sft, "reward": self.reward}[stage]()

    def sft(self) -> None:
        """Stage 1: `reference`, from demonstrations; select=score asks this run's reward model."""
        task, config, score = self.task, self.settings.sft, None
        if config.select == "score":
            if not (self.folder / "reward").is_dir():
                raise DataError(
                    f"sft.select: 'score' needs a reward model in {self.folder}; run sft and "
                    "reward there first, then sft once more"
                )
            self.load("reward", "reward")
            score = partial(score_texts, self.backbone)
        steps = sft_stage.SFT(
            config,
            self.backbone,
            task.demonstrations,
            task.valid_demonstrations,
            score,
            task.pretraining,
        )
        self._follow("sft", steps, "SFT")

    def rankings(self) -> tuple[list[Ranking], list[Ranking]]:
        """Comparison data (train, held out), sampled from the SFT model where need be.

        A reward model that was stopped half-way takes those it began with.
        """
        config, started = self.settings.run, time.perf_counter()
        if self.bookmark.within("reward"):
            rankings = read_records(self.folder / COMPARISONS, Ranking)
        else:
            rankings = self.task.collect_rankings(
                self.backbone, config.rankings, config.seed, self.settings.ppo.max_new_tokens
            )
            self.bookmark.seconds["rankings"] = time.perf_counter() - started
        held_out = config.held_out(len(rankings))
        return rankings[held_out:], rankings[:held_out]

    def reward(self) -> None:
        """Stage 2: `reward`, from rankings."""
        train, valid = self.rankings()
        steps = reward_stage.RewardTraining(
            self.settings.reward, self.backbone, train, valid, self.task.demonstrations
        )
        self._follow("reward", steps, "reward model", valid + train)

    def ppo(self, stage: str) -> None:
        """Stage 3: `policy`, from the reward model; stage `ppo` or `ppo-ptx`."""
        config = self.settings.ppo
        if stage == "ppo":
            config = dataclasses.replace(config, ptx_coef=0.0)
        ppo = ppo_stage.PPO(
            config, self.backbone, self.task.prompts, pretraining=self.task.pretraining
        )
        self._follow(stage, ppo, POLICIES[stage])

    def everything(self) -> list[Answer]:
        """SFT, reward model, PPO and PPO-ptx in a row; returns the answers of all systems."""
        self.make("sft")
        self.make("reward")
        answers = self.evaluate(self.task.systems)
        for stage, name in POLICIES.items():
            self.make(stage)
            answers += self.evaluate([System(name, "policy")])
        return answers

    def finish(self) -> None:
        """Drop the bookmark, an earlier command's too, if nothing comes next but what was done."""
        with contextlib.suppress(DataError):
            if load_snapshot(self.bookmark.file)["stage"] == ORDER[-1]:
                self.bookmark.remove()

    def load(self, stage: str, role: str) -> None:
        """Take a role from this run's folder, as an earlier command left it."""
        load_role(self.backbone, role, self.folder / stage)

    def evaluate(self, systems: Iterable[System]) -> list[Answer]:
        """Each system's answers to the shown and the test prompts, in that order."""
        config, task = self.settings.run, self.task
        prompts = task.shown_prompts + task.test_prompts[: config.test_prompts]
        found: list[Answer] = []
        for system in systems:
            found += answer_prompts(
                self.backbone,
                system,
                prompts,
                self.settings.ppo.max_new_tokens,
                config.seed,
                config.temperature,
                task.judge,
                self.settings.ppo.microbatch_size,
            )
        return found

    def write_results(self, answers: list[Answer]) -> dict[str, Any]:
        """Write answers.jsonl and results.json; the table counts the test prompts alone."""
        shown = {p.prompt for p in self.task.shown_prompts}
        systems: dict[str, list[Answer]] = {}
        for answer in answers:
            if answer.prompt not in shown:
                systems.setdefault(answer.system, []).append(answer)
        results = {
            "prompts": len(next(iter(systems.values()))),
            "systems": {name: summarise(found) for name, found in systems.items()},
            "reward_model": self._reward_model(),
            "seconds": self._earlier_seconds() | self.bookmark.seconds,
        }
        rows = [json.dumps(dataclasses.asdict(a), ensure_ascii=False) for a in answers]
        write_text(self.folder / "answers.jsonl", "\n".join(rows) + "\n")
        write_text(self.folder / "results.json", json.dumps(results, indent=1))
        return results

    def _earlier_seconds(self) -> dict[str, float]:
        """What earlier commands of this run took, where they have left it."""
        path = self.folder / "results.json"
        return json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.is_file() else {}

    def _reward_model(self) -> dict[str, float]:
        """What the reward model reached on held-out rankings, as its last epoch logged it."""
        if not self.metrics.path.is_file():
            return {}
        rows = [r for r in read_metrics(self.metrics.path) if "valid_pair_accuracy" in r]
        return {"pair_accuracy": rows[-1]["valid_pair_accuracy"]} if rows else {}
