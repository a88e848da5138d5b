"""One step of reward-model training or of SFT against TRL 1.16.0's RewardTrainer or SFTTrainer.

    python benchmarks/trl_stages.py reward --model smollm2
    python benchmarks/trl_stages.py sft --model smollm2

reward: one ranking of 9 responses. TRL gets it as the 36 pairs that it stands for, in one batch,
and takes the mean of their losses; ours forwards each response once and divides the sum over the
36 pairs by 36, so that the loss is the same number. sft: 16 demonstrations, the loss on their
response tokens only. Prompts have 24 tokens, responses 32 with EOS; float32; LoRA of rank 16 on
all linears, or (random-1m) all weights. Both sides start from the same weights, head included, so
the first step's loss must agree; their optimisers differ in momentum, so later ones need not.
"""

import sys
import tempfile
from itertools import combinations
from pathlib import Path

import torch
from common import (
    Channel,
    Sides,
    Worker,
    add_sides,
    alternate,
    middle,
    parser_for,
    peer_python,
    prepare_model,
    report_sides,
    trained_in_full,
    words,
)
from flops import Shape
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from minirlhf.engine.backbone import LoRA
from minirlhf.engine.models import load_backbone
from minirlhf.engine.records import Demonstration, Ranking
from minirlhf.stages.reward import RewardConfig, RewardTraining
from minirlhf.stages.sft import SFT, SFTConfig

PEER = "trl==1.16.0"
PROMPT, RESPONSE, K, DEMONSTRATIONS, RANK = 24, 32, 9, 16, 16


def serve() -> None:
    """Our side: one step for each turn."""
    channel = Channel()
    settings = channel.settings
    rank, steps, texts = settings["rank"], settings["steps"], settings["texts"]
    backbone = load_backbone(
        settings["folder"], lora=LoRA(rank=rank) if rank else None, device="cpu"
    )
    if settings["stage"] == "reward":
        backbone.add_role("reward")
        backbone.heads["reward"].weight.data.copy_(load_file(settings["head"])["weight"])
        ranking = Ranking(settings["prompt"], tuple(texts), tuple(range(1, len(texts) + 1)))
        config = RewardConfig(epochs=1, batch_size=1, microbatch_size=1, learning_rate=1e-5)
        training = RewardTraining(config, backbone, [ranking] * steps, init="reward")
        name = "ranking_loss"
    else:
        rows = [Demonstration(settings["prompt"], text) for text in texts]
        config = SFTConfig(
            epochs=steps,
            batch_size=len(rows),
            microbatch_size=len(rows),
            learning_rate=1e-5,
            dropout=0.0,
        )
        training, name = SFT(config, backbone, rows), "train_loss"
    channel.serve(lambda: {"loss": next(training)[name]})


def peer_rows(stage: str, prompt: str, texts: list[str]) -> list[dict[str, str]]:
    """One step's examples as TRL wants them: all pairs of the ranking, or the demonstrations."""
    if stage == "reward":
        return [
            {"prompt": prompt + " ", "chosen": better, "rejected": worse}
            for better, worse in combinations(texts, 2)
        ]
    return [{"prompt": prompt + " ", "completion": text} for text in texts]


def report(sides: Sides, stage: str, shape: Shape) -> None:
    report_sides(sides, PEER, "s per step")
    print("loss of the first step:", " and ".join(f"{turn['loss']:.6f}" for turn in sides.first))
    rows, heads = (K, 0) if stage == "reward" else (DEMONSTRATIONS, RESPONSE)
    length = PROMPT + RESPONSE - (stage == "sft")  # what comes last predicts nothing
    count = shape.forward(rows, length, heads) + shape.backward(rows, length, heads)
    limit, spent = count / sides.gflops / 1e9, middle(sides.ours)
    print(
        f"arithmetic, each response once: {count / 1e9:.1f} GFLOP, {limit:.3f} s at that rate; "
        f"ours uses {limit / spent:.0%} of it, {rows * length / spent:.0f} tokens/s"
    )


def main() -> None:
    parser = parser_for(__doc__)
    add_sides(parser)
    parser.add_argument("stage", choices=("reward", "sft"), nargs="?")
    parser.add_argument(
        "--peer-checkpointing",
        action="store_true",
        help="TRL's default: recompute activations in backward (slower, leaner)",
    )
    args = parser.parse_args()
    if args.serve:
        return serve()
    if not args.stage:
        parser.error("the following arguments are required: stage")
    with tempfile.TemporaryDirectory() as work:
        folder = prepare_model(args.model, Path(work) / "model", eos=True)
        config = AutoConfig.from_pretrained(folder)
        head = torch.randn(1, config.hidden_size) / (config.hidden_size + 1) ** 0.5
        save_file({"weight": head}, Path(work) / "head.safetensors")
        [prompt] = words(1, PROMPT, config.vocab_size)
        count = K if args.stage == "reward" else DEMONSTRATIONS
        texts = words(count, RESPONSE - 1, config.vocab_size, seed=1)
        rows = peer_rows(args.stage, prompt, texts)
        settings = {
            "stage": args.stage,
            "folder": str(folder),
            "head": f"{work}/head.safetensors",
            "rank": 0 if trained_in_full(args.model) else RANK,
            "steps": args.repeats + 2,
        }
        peer = {
            "rows": rows,
            "batch": len(rows),
            "checkpointing": args.peer_checkpointing,
            "output": f"{work}/trl",
        }
        sides = alternate(
            args.repeats,
            Worker(sys.executable, "trl_stages.py", settings | {"prompt": prompt, "texts": texts}),
            None
            if args.alone
            else Worker(peer_python(PEER), "peers/trl_stages.py", settings | peer),
        )
    report(sides, args.stage, Shape.of(config, settings["rank"]))


if __name__ == "__main__":
    main()
