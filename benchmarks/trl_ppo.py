"""One PPO update against TRL 1.12.0's `trl.experimental.ppo`, the last release that has PPO.

    python benchmarks/trl_ppo.py --model smollm2
    python benchmarks/trl_ppo.py --model random-1m --repeats 9

Both sides: the same weights, the same prompts of 24 tokens, 16 of them to an update, 32 response
tokens each (nobody can say EOS, so no response is shorter), 4 epochs of one minibatch, float32;
SmolLM2 with LoRA of rank 16 on all linears of policy and value model, the 1M-parameter Llama
trained in full. That is `--setting like-for-like`. With `recommended` our side trains less than
the peer (adapters on the upper third of layers, the value head on the policy), also of the
1M-parameter Llama, which the peer still trains in full: a faster way to the same end, if it gets
there, and not the same work. The parameters that each side trains are printed.
"""

import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from common import (
    Channel,
    Sides,
    Worker,
    add_sides,
    alternate,
    middle,
    parser_for,
    peer_python,
    positive,
    prepare_model,
    report_sides,
    trained_in_full,
    words,
)
from flops import Shape, ppo_stages
from transformers import AutoConfig

from minirlhf.engine.backbone import LoRA
from minirlhf.engine.models import load_backbone
from minirlhf.engine.records import Prompt
from minirlhf.stages.ppo import PPO, PPOConfig

PEER = "trl==1.12.0"
ROWS, PROMPT, RESPONSE, EPOCHS, RANK = 16, 24, 32, 4, 16
# Our settings by name: the share of layers without adapters, and fields of PPOConfig
SETTINGS = {
    "like-for-like": (0.0, {}),
    "recommended": (2 / 3, {"value_model": "shared"}),
}


def lora_of(setting: str, model: str, layers: int) -> dict[str, int]:
    """Fields of our LoRA, {} = none: like for like, a model trained in full is so on our side."""
    first = int(layers * SETTINGS[setting][0])
    return {} if trained_in_full(model) and not first else {"rank": RANK, "first_layer": first}


class TimedPPO(PPO):
    """PPO with a stopwatch on its stages."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seconds = Counter()

    @contextmanager
    def clock(self, stage):
        started = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - started

    def collect_rollout(self, batch):
        with self.clock("sampling"):
            return super().collect_rollout(batch)

    def score_rollout(self, rollout, prompts):
        with self.clock("scoring"):
            return super().score_rollout(rollout, prompts)

    def _policy_gradient(self, experience, rows):
        with self.clock("policy epochs"):
            return super()._policy_gradient(experience, rows)

    def _value_gradient(self, experience, rows):
        with self.clock("value epochs"):
            return super()._value_gradient(experience, rows)


def serve() -> None:
    """Our side: one update for each turn."""
    channel = Channel()
    settings = channel.settings
    _, ppo = SETTINGS[settings["setting"]]
    lora = LoRA(**settings["lora"]) if settings["lora"] else None
    backbone = load_backbone(settings["folder"], lora=lora, device="cpu")
    backbone.add_role("reference")
    backbone.add_role("reward")
    trainer = TimedPPO(
        PPOConfig(
            updates=1_000_000,
            rollout_batch_size=settings["batch"],
            minibatch_size=settings["batch"],
            microbatch_size=settings["microbatch"],
            ppo_epochs=settings["epochs"],
            max_new_tokens=settings["response"],
            missing_eos="keep",
            policy_learning_rate=1e-5,
            value_learning_rate=1e-5,
            **ppo,
        ),
        backbone,
        [Prompt(text) for text in settings["prompts"]],
    )

    trained = [p for role in backbone.roles[1:] for p in backbone.parameters(role)]

    def update() -> dict:
        trainer.seconds.clear()
        stats = next(trainer)
        return {
            "tokens": round(stats["response_length"] * settings["batch"]),
            "ratio_error": stats["ratio_error"],
            "stages": dict(trainer.seconds),
            "trainable": sum(p.numel() for p in trained if p.requires_grad),
        }

    channel.serve(update)


def report(sides: Sides, args, config) -> None:
    report_sides(sides, PEER, "s per update")
    for turn in sides.first:
        print(f"{turn['tokens']} tokens sampled, {turn['trainable']:,} parameters trained")
    if args.setting != "like-for-like":
        print("our side trains less than the peer: the ratio is one of ways, not of the same work")
    if sides.peer:
        print(f"of the peer's update, sampling takes {middle(sides.peer, 'sampling'):.3f} s")
    _, ppo = SETTINGS[args.setting]
    lora = lora_of(args.setting, args.model, config.num_hidden_layers)
    shape = Shape.of(config, lora.get("rank", 0), lora.get("first_layer", 0))
    shared = ppo.get("value_model") == "shared"
    flops = ppo_stages(shape, ROWS, PROMPT, RESPONSE, EPOCHS, shared)
    print(f"\n{'our stage':<16}{'seconds':>9}{'GFLOP':>9}{'limit s':>9}{'used':>7}")
    rows = [(s, median(t["stages"].get(s, 0.0) for t in sides.ours), flops[s]) for s in flops]
    total = middle(sides.ours)
    rows.append(("other", total - sum(seconds for _, seconds, _ in rows), 0.0))
    rows.append(("update", total, sum(flops.values())))
    for stage, seconds, count in rows:
        limit = count / sides.gflops / 1e9
        used = f"{limit / seconds:7.0%}" if seconds > 0 else ""
        print(f"{stage:<16}{seconds:9.3f}{count / 1e9:9.1f}{limit:9.3f}{used}")


def main() -> None:
    parser = parser_for(__doc__)
    add_sides(parser)
    parser.add_argument("--setting", choices=SETTINGS, default="like-for-like", help="of our side")
    parser.add_argument("--microbatch-size", type=positive, default=ROWS, help="of our side")
    args = parser.parse_args()
    if args.serve:
        return serve()
    with tempfile.TemporaryDirectory() as work:
        folder = prepare_model(args.model, Path(work) / "model")
        config = AutoConfig.from_pretrained(folder)
        settings = {
            "folder": str(folder),
            "prompts": words(4 * ROWS, PROMPT, config.vocab_size),
            "rank": 0 if trained_in_full(args.model) else RANK,
            "batch": ROWS,
            "response": RESPONSE,
            "epochs": EPOCHS,
        }
        lora = lora_of(args.setting, args.model, config.num_hidden_layers)
        ours = {"setting": args.setting, "lora": lora, "microbatch": args.microbatch_size}
        sides = alternate(
            args.repeats,
            Worker(sys.executable, "trl_ppo.py", settings | ours),
            None
            if args.alone
            else Worker(
                peer_python(PEER), "peers/trl_ppo.py", settings | {"output": f"{work}/trl"}
            ),
        )
    report(sides, args, config)


if __name__ == "__main__":
    main()
