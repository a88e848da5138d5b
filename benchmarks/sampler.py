"""Tokens per second of the sampler against `generate` of transformers, on the same policy.

    python benchmarks/sampler.py --model smollm2
    python benchmarks/sampler.py --model random-1m

Both draw 48 tokens for each of some prompts of 24 tokens, from the whole distribution, and hand
back the log-probabilities of what they drew, as PPO needs them. Nobody can say EOS, so no row ever
stops early. They take turns in one process, on one model: SmolLM2 with a LoRA policy of rank 16 on
all linears, the 1M-parameter Llama as a full copy.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from common import (
    matmul_gflops,
    parser_for,
    positive,
    prepare_model,
    trained_in_full,
    words,
)

from minirlhf.engine.backbone import Backbone, LoRA
from minirlhf.engine.batches import Encoder, PromptBatch
from minirlhf.engine.models import load_backbone
from minirlhf.engine.records import Prompt
from minirlhf.engine.rollout import sample

PROMPT, RANK = 24, 16


def ours(backbone: Backbone, prompts: PromptBatch, tokens: int) -> int:
    """Tokens drawn by our sampler."""
    generator = torch.Generator(backbone.device).manual_seed(0)
    return sample(backbone, "policy", prompts, tokens, generator).response_ids.numel()


@torch.no_grad()
def generate(backbone: Backbone, prompts: PromptBatch, tokens: int) -> int:
    """Tokens drawn by transformers, its defaults but for what the task fixes."""
    with backbone.active("policy") as model:
        out = model.generate(
            input_ids=prompts.prompt_ids,
            attention_mask=prompts.prompt_mask.long(),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=tokens,
            pad_token_id=backbone.tokenizer.pad_token_id,
            return_dict_in_generate=True,
            output_scores=True,
        )
        model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
    return out.sequences.numel() - prompts.prompt_ids.numel()


def compare(backbone: Backbone, texts: list[str], tokens: int, repeats: int) -> None:
    """Print one row: tokens per second of both, and the ratio."""
    encoder = Encoder(backbone.tokenizer, backbone.context_length, backbone.device)
    prompts = encoder.prompts([encoder.prompt(Prompt(text)) for text in texts])
    rates = {ours: [], generate: []}
    for repeat in range(repeats + 1):
        for sampler in (ours, generate) if repeat % 2 else (generate, ours):
            started = time.perf_counter()
            drawn = sampler(backbone, prompts, tokens)
            assert drawn == len(texts) * tokens
            rates[sampler].append(drawn / (time.perf_counter() - started))
    mine, theirs = rates[ours][1:], rates[generate][1:]  # the first warms up
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    print(
        f"{len(texts):>5}{median(mine):12.0f}{median(theirs):12.0f}{median(ratios):9.2f}"
        f"   {min(ratios):.2f} to {max(ratios):.2f}",
        flush=True,
    )


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--batch", type=positive, nargs="+", default=[1, 8, 32], help="prompts")
    parser.add_argument("--max-new-tokens", type=positive, default=48)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = prepare_model(args.model, Path(work))
        lora = None if trained_in_full(args.model) else LoRA(rank=RANK)
        backbone = load_backbone(str(folder), lora=lora, device="cpu")
    backbone.add_role("policy")
    texts = words(max(args.batch), PROMPT, backbone.model.config.vocab_size)
    print(f"{args.model}, {args.max_new_tokens} tokens a row, median of {args.repeats} turns")
    print(f"matrix products at {matmul_gflops():.0f} GFLOP/s\n")
    print("batch  ours tok/s  generate     ratio   from, to")
    for batch in args.batch:
        compare(backbone, texts[:batch], args.max_new_tokens, args.repeats)


if __name__ == "__main__":
    main()
