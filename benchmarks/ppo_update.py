"""Where does the time of a PPO update go, and what would sampling with `generate` change?

    python benchmarks/ppo_update.py

Each update is timed phase by phase. Beside our own sampler, `generate` of transformers answers the
same prompts with the same policy and settings; its answers are thrown away. So both are timed in
one run, in turns, and whatever slows the machine slows both. The roles are fresh: an untrained
role costs what a trained one does, only that few of its answers end early.
"""

import argparse
import time
from collections import Counter
from contextlib import contextmanager

import torch

from minirlhf.engine.models import load_backbone
from minirlhf.engine.records import DataError
from minirlhf.engine.rollout import Rollout, response_logprobs
from minirlhf.maths.masked import response_mask
from minirlhf.stages.ppo import PPO, PPOConfig
from minirlhf.world.almanac import load_almanac, split_facts
from minirlhf.world.prompts import prompts

PHASES = ("sampling", "scoring", "policy", "value")


class TimedPPO(PPO):
    """PPO with a stopwatch on its phases, and `generate` run beside its own sampler."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seconds, self.steps = Counter(), Counter()

    @contextmanager
    def clock(self, phase):
        started = now()
        yield
        self.seconds[phase] += now() - started

    def collect_rollout(self, batch):
        samplers = {"sampling": super().collect_rollout, "generate": self.generate}
        if self.update % 2:  # neither is always the one that finds the caches warm
            samplers = dict(reversed(samplers.items()))
        rollouts = {}
        for name, sampler in samplers.items():
            with self.clock(name):
                rollouts[name] = sampler(batch)
            self.steps[name] += rollouts[name].response_ids.shape[1]
        return rollouts["sampling"]

    def score_rollout(self, rollout, prompts):
        with self.clock("scoring"):
            return super().score_rollout(rollout, prompts)

    def _policy_gradient(self, experience, rows):
        with self.clock("policy"):
            return super()._policy_gradient(experience, rows)

    def _value_gradient(self, experience, rows):
        with self.clock("value"):
            return super()._value_gradient(experience, rows)

    def generate(self, batch) -> Rollout:
        """What `collect_rollout` does, by transformers: answers and their log-probabilities."""
        ids, mask = self.encoder.prompts([self._prompt_ids[i] for i in batch])
        tokenizer = self.backbone.tokenizer
        with self.backbone.active("policy") as model:
            out = model.generate(
                input_ids=ids,
                attention_mask=mask.long(),
                do_sample=True,
                temperature=self.config.temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=self.config.max_new_tokens,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                return_dict_in_generate=True,
                output_scores=True,
            )
            logprobs = model.compute_transition_scores(
                out.sequences, out.scores, normalize_logits=True
            )
        response_ids = out.sequences[:, ids.shape[1] :]
        counted = response_mask(response_ids, tokenizer.eos_token_id)
        return Rollout(ids, mask, response_ids, counted, torch.where(counted, logprobs, 0.0))


def now() -> float:
    """Seconds on the clock once the device has done all that was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@torch.no_grad()
def disagreement(ppo: TimedPPO) -> float:
    """Largest gap between `generate`'s log-probabilities and ours for the same tokens, nats."""
    rollout = ppo.generate(range(min(8, len(ppo.prompts))))
    ours = response_logprobs(ppo.backbone, "policy", rollout, ppo.config.temperature)
    return (ours - rollout.logprobs).abs().max().item()


def report(ppo: TimedPPO, updates: int, total: float) -> None:
    """Print the shares of an update with our own sampler, and both ratios against `generate`."""
    seconds, steps = ppo.seconds, ppo.steps
    own = total - seconds["generate"]
    rest = own - sum(seconds[phase] for phase in PHASES)
    print(f"{'phase':<10}{'seconds':>9}{'share':>8}   (mean of {updates} updates)")
    for phase, spent in [*((p, seconds[p]) for p in PHASES), ("other", rest), ("update", own)]:
        print(f"{phase:<10}{spent / updates:9.3f}{spent / own:8.1%}")
    sampling, generate = (seconds[name] / steps[name] for name in ("sampling", "generate"))
    print(
        f"\ngenerate / our sampler, time per decoding step: {generate / sampling:.2f} "
        f"({steps['generate']} and {steps['sampling']} steps)\n"
        # at as many decoding steps as ours took, so that the luck of the draw does not count
        f"update with generate / our update: "
        f"{(own - seconds['sampling'] + generate * steps['sampling']) / own:.2f}"
    )


def positive(text: str) -> int:
    """argparse type: a whole number from 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def parse_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
    default = PPOConfig()
    parser.add_argument("--model", default="moonlet-1m", help="as for minirlhf run")
    parser.add_argument("--updates", type=positive, default=6, help="timed; one more warms up")
    parser.add_argument("--rollout-batch-size", type=positive, default=default.rollout_batch_size)
    parser.add_argument("--minibatch-size", type=positive, default=default.minibatch_size)
    parser.add_argument("--microbatch-size", type=positive, default=default.microbatch_size)
    parser.add_argument("--max-new-tokens", type=positive, default=default.max_new_tokens)
    parser.add_argument("--threads", type=positive, help="CPU threads; default: PyTorch's choice")
    return parser.parse_args()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    args = parse_args(parser)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)  # `generate` draws from the global generator
    try:
        config = PPOConfig(
            updates=args.updates + 1,
            rollout_batch_size=args.rollout_batch_size,
            minibatch_size=args.minibatch_size,
            microbatch_size=args.microbatch_size,
            max_new_tokens=args.max_new_tokens,
        )
        backbone = load_backbone(args.model)
        for role in ("reference", "reward"):
            backbone.add_role(role)
        ppo = TimedPPO(config, backbone, prompts(split_facts(load_almanac())[0]))
    except DataError as error:
        parser.error(str(error))

    print(f"{args.model} on {backbone.device}, {torch.get_num_threads()} CPU threads")
    print(f"log-probabilities, generate against ours: at most {disagreement(ppo):.1e} nats off\n")
    next(ppo)  # warms up
    ppo.seconds.clear()
    ppo.steps.clear()
    report(ppo, args.updates, total=sum(stats["seconds"] for stats in ppo))


if __name__ == "__main__":
    main()
