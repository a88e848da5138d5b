"""What does it save to forward each of a prompt's K responses once, and not pair by pair?

    python benchmarks/reward_model.py

Both ways compute the same loss of the reward model on the same rankings (Ouyang et al. 2022,
equation 1) and its gradient. One forwards the K responses and takes all K (K - 1) / 2 pairs from
their scores; the other forwards both responses of every pair, as data cut into pairs has it.
The rankings are strict and their order is arbitrary: what is learned does not change what it costs.
"""

import argparse
import random
import time
from statistics import median

import torch
from torch import Tensor

from minirlhf.engine.backbone import Backbone
from minirlhf.engine.batches import Encoder, RankingBatch, SequenceBatch
from minirlhf.engine.models import load_backbone
from minirlhf.engine.records import DataError, Ranking
from minirlhf.maths.preferences import bradley_terry_loss, ranking_loss, ranking_to_pairs
from minirlhf.world.almanac import load_almanac, split_facts
from minirlhf.world.demonstrations import demonstrations


def make_rankings(prompts: int, responses: int) -> list[Ranking]:
    """`prompts` rankings of `responses` answers each, all out of the almanac's demonstrations."""
    train, _ = split_facts(load_almanac())
    answers = [d.response for d in demonstrations(train, prompts * responses)]
    asked = [d.prompt for d in demonstrations(train, prompts, seed=1)]
    ranks = tuple(range(1, responses + 1))
    return [
        Ranking(prompt, answers[i * responses : (i + 1) * responses], ranks)
        for i, prompt in enumerate(asked)
    ]


def encode_pairs(encoder: Encoder, rankings: list[Ranking], rows: int) -> list[SequenceBatch]:
    """All pairs, shuffled; at most `rows` sequences a batch, the better ones, then the worse."""
    pairs = [(r, i, j) for r in rankings for i, j in ranking_to_pairs(r.ranks)]
    random.Random(0).shuffle(pairs)
    batches = []
    for start in range(0, len(pairs), rows // 2):
        part = pairs[start : start + rows // 2]
        better = [encoder.pair(r, r.responses[i]) for r, i, _ in part]
        worse = [encoder.pair(r, r.responses[j]) for r, _, j in part]
        batches.append(encoder.sequences(better + worse))
    return batches


def loss_once(backbone: Backbone, batch: RankingBatch) -> float:
    """Each response forwarded once; the gradient stays in the parameters."""
    scores = backbone.scores("reward", batch.sequences.input_ids, batch.sequences.attention_mask)
    loss = ranking_loss(batch.by_prompt(scores), batch.ranks)
    loss.backward()
    return loss.item()


def loss_pairwise(backbone: Backbone, batches: list[SequenceBatch]) -> float:
    """Both responses of every pair forwarded. K is the same for all, so each pair weighs alike."""
    pairs = sum(len(batch.input_ids) for batch in batches) // 2
    total = 0.0
    for batch in batches:
        chosen, rejected = backbone.scores("reward", batch.input_ids, batch.attention_mask).chunk(2)
        loss = bradley_terry_loss(chosen, rejected).sum() / pairs
        loss.backward()
        total += loss.item()
    return total


def timed(backbone: Backbone, loss_of, batch) -> tuple[float, float, Tensor]:
    """Seconds, loss and gradient of one way."""
    started = now()
    loss = loss_of(backbone, batch)
    seconds = now() - started
    parameters = backbone.parameters("reward")
    gradient = torch.cat([p.grad.flatten() for p in parameters])
    for parameter in parameters:
        parameter.grad = None
    return seconds, loss, gradient


def now() -> float:
    """Seconds on the clock once the device has done all that was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def compare(backbone: Backbone, prompts: int, responses: int, repeats: int) -> None:
    """Print one row: time ratio of pairs to once, loss, and how far loss and gradient are apart."""
    encoder = Encoder(backbone.tokenizer, backbone.context_length, backbone.device)
    rankings = make_rankings(prompts, responses)
    once = encoder.rankings(rankings)
    # As many rows to a forward pass as the other way has, so that only their number differs
    pairs = encode_pairs(encoder, rankings, rows=len(once.row))
    ratios = []
    for repeat in range(repeats + 1):
        seconds, loss, gradient = timed(backbone, loss_once, once)
        pair_seconds, pair_loss, pair_gradient = timed(backbone, loss_pairwise, pairs)
        if repeat > 0:  # the first warms up
            ratios.append(pair_seconds / seconds)
    apart = ((pair_gradient - gradient).norm() / gradient.norm()).item()
    print(
        f"{responses:>3}{len(once.row):>8}{sum(len(b.input_ids) for b in pairs):>8}"
        f"{median(ratios):>9.2f}{responses - 1:>8}{loss:>9.4f}"
        f"{abs(pair_loss - loss):>11.1e}{apart:>11.1e}"
    )


def positive(text: str) -> int:
    """argparse type: a whole number from 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="moonlet-1m", help="as for minirlhf run")
    parser.add_argument("--prompts", type=positive, default=8, help="prompts in a batch")
    parser.add_argument(
        "--responses", type=positive, nargs="+", default=[4, 9], help="K, one or more"
    )
    parser.add_argument("--repeats", type=positive, default=5, help="timed; the median counts")
    parser.add_argument("--threads", type=positive, help="CPU threads; default: PyTorch's choice")
    args = parser.parse_args()
    if min(args.responses) < 2:
        parser.error("argument --responses: a ranking needs at least 2")
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        backbone = load_backbone(args.model)
    except DataError as error:
        parser.error(str(error))
    backbone.add_role("reward")
    backbone.train_role("reward")

    print(f"{args.model} on {backbone.device}, {torch.get_num_threads()} CPU threads")
    print(f"{args.prompts} prompts, median of {args.repeats}; ratio = time by pairs / time once\n")
    print("  K    rows by pair    ratio   K - 1     loss  loss diff  grad diff")
    for responses in args.responses:
        compare(backbone, args.prompts, responses, args.repeats)


if __name__ == "__main__":
    main()
