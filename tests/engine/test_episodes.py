"""minirlhf.engine.episodes: what the online stages share, on made-up rollouts."""

import warnings

import pytest
import torch

from minirlhf.engine.batches import Encoder
from minirlhf.engine.episodes import (
    RatioWarning,
    ask,
    describe,
    guard_ratio,
    judge,
    microbatches,
    price_missing_eos,
    read_rows,
    shuffled,
)
from minirlhf.engine.rollout import Rollout, sample


def made_up(lengths, prompts=None):
    """A rollout whose row i holds the tokens 10 i, 10 i + 1, ... behind a prompt of ones."""
    width, prompts = max(lengths), prompts or [1] * len(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    ids = 10 * torch.arange(len(lengths))[:, None] + torch.arange(width)
    prompt_mask = torch.arange(max(prompts)).flip(0) < torch.tensor(prompts)[:, None]
    ones = torch.ones(prompt_mask.shape, dtype=torch.long)
    return Rollout(ones, prompt_mask, ids, mask, torch.where(mask, -1.0, 0.0))


def test_shuffled_hands_out_each_once_and_begins_anew_in_another_order():
    order = shuffled(7, seed=3)
    passes = [[next(order) for _ in range(7)] for _ in range(3)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert passes[0] != passes[1] != passes[2]
    again = shuffled(7, seed=3)
    assert [next(again) for _ in range(7)] == passes[0]


def test_microbatches_hold_each_row_once_those_of_like_length_together():
    rollout = made_up([4, 1, 3, 2, 5], prompts=[1, 6, 1, 1, 1])  # in all 5, 7, 4, 3, 6
    parts = microbatches(rollout, torch.arange(5), 2)
    assert [part.tolist() for part in parts] == [[3, 2], [0, 4], [1]]
    some = microbatches(rollout, torch.tensor([4, 3, 1]), 8)
    assert [part.tolist() for part in some] == [[3, 4, 1]]
    assert microbatches(rollout, torch.tensor([], dtype=torch.long), 2) == ()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_rows_come_back_in_their_order_and_at_full_width(size):
    rollout = made_up([4, 1, 3, 2, 5])
    tokens = read_rows(rollout, size, lambda part: part.response_ids * part.response_mask)
    assert torch.equal(tokens, rollout.response_ids * rollout.response_mask)
    assert read_rows(rollout, size, lambda part: part.lengths).tolist() == [4, 1, 3, 2, 5]
    seen = []
    read_rows(rollout, size, lambda part: seen.append(len(part.response_ids)) or part.lengths)
    assert max(seen) == size and sum(seen) == 5


@pytest.mark.parametrize("size", [2, 8])
def test_the_reward_model_and_a_plain_function_judge(ready, prompts, size):
    encoder = Encoder(ready.tokenizer, ready.context_length)
    batch = encoder.prompts([encoder.prompt(p, room=8) for p in prompts])
    rollout = sample(ready, "reference", batch, 8, torch.Generator().manual_seed(0))
    scores = judge(ready, encoder, rollout, prompts, size)
    whole = ready.scores("reward", rollout.input_ids, rollout.attention_mask)
    assert torch.allclose(scores, whole, atol=1e-5)
    assert not scores.requires_grad
    asked = []

    def reward(given, texts):
        asked.append((list(given), list(texts)))
        return range(8)

    assert judge(ready, encoder, rollout, prompts, size, reward).tolist() == [*range(8)]
    texts = encoder.text(rollout.response_ids, rollout.response_mask)
    assert asked == [(list(prompts), texts)]  # once, all of them, in order
    with pytest.raises(ValueError, match="must return 8 finite numbers"):
        judge(ready, encoder, rollout, prompts, size, lambda given, texts: [1.0] * 7)


def test_asking_several_times_puts_a_prompts_answers_side_by_side(ready, prompts):
    ready.add_role("policy", copy_of="reference")
    encoder = Encoder(ready.tokenizer, ready.context_length)
    batch = encoder.prompts([encoder.prompt(p, room=6) for p in prompts[:3]])
    rollout = ask(ready, batch, 6, torch.Generator().manual_seed(0), 1.0, samples=2)
    assert torch.equal(rollout.prompt_ids, batch.prompt_ids.repeat_interleave(2, 0))
    assert rollout.response_ids.shape[1] <= 6


def test_a_missing_eos_follows_its_rule():
    scores, ended = torch.tensor([1.0, 2.0]), torch.tensor([True, False])
    wanted = {"replace": [1.0, -3.0], "subtract": [1.0, -1.0], "keep": [1.0, 2.0]}
    for rule, rows in wanted.items():
        assert price_missing_eos(scores, ended, rule, -3.0).tolist() == rows


def test_a_minibatch_is_described_by_its_parts():
    """Entropy by hand: log 4 where the logits are equal, 0 where one token has it all."""
    rollout = made_up([1, 3])
    logits = torch.zeros(2, 3, 4)
    logits[1, :, 2] = 200.0
    now = rollout.logprobs + torch.tensor([[0.0, 9.0, 9.0], [0.1, 0.0, -0.2]])
    stats = {"entropy": 0.0, "ratio_error": 0.0, "largest_logit": 0.0}
    shares = []
    for row in (0, 1):
        part = rollout.rows(torch.tensor([row]))
        width = part.response_ids.shape[1]
        shares.append(
            describe(stats, part, logits[[row], :width], now[[row], :width], torch.tensor(4))
        )
    assert shares == [0.25, 0.75]
    assert stats["entropy"] == pytest.approx(0.25 * 1.386294, abs=1e-5)
    assert stats["ratio_error"] == pytest.approx(1 - 2.718281828**-0.2, abs=1e-5)
    assert stats["largest_logit"] == 200.0


@pytest.mark.parametrize(
    ("error", "logit", "dtype", "fires"),
    [
        (0.9e-5, 1.0, torch.float32, False),
        (1.1e-5, 1.0, torch.float32, True),
        (1.1e-5, 100.0, torch.float32, False),  # 32 roundings of 100 are 3.8e-4
        (5e-4, 100.0, torch.float32, True),
        (0.05, 1.0, torch.bfloat16, False),
        (0.2, 1.0, torch.bfloat16, True),
    ],
)
def test_the_guard_knows_what_rounding_does(error, logit, dtype, fires):
    stats = {"ratio_error": error, "largest_logit": logit}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        guard_ratio(7, stats, dtype)
    assert bool(caught) == fires
    if fires:
        assert caught[0].category is RatioWarning
        assert str(caught[0].message).startswith("update 7: ratio is off 1 by")
