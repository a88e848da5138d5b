"""minirlhf.engine.rollout: what is drawn, and with what probability the sampler says it was."""

import copy

import pytest
import torch

from minirlhf.engine.batches import Encoder
from minirlhf.engine.records import Prompt
from minirlhf.engine.rollout import (
    Rollout,
    _draw,
    answers,
    response_logits,
    response_logprobs,
    response_values,
    sample,
    score_texts,
)

TEXTS = ["Hi", "What is the moon of the planet that is next to ours?", "Name a star."]


@pytest.fixture(scope="module")
def lengths_differ(tokenizer):
    encoder = Encoder(tokenizer, 128)
    return encoder.prompts([encoder.prompt(Prompt(text)) for text in TEXTS])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(backbone, batch, seed=0, temperature=1.0, tokens=16, role="reference", top_p=1.0):
    return sample(backbone, role, batch, tokens, generator(seed), temperature, top_p)


# What is drawn ----------------------------------------------------------------------------------


def test_same_seed_same_tokens(ready, lengths_differ):
    one, two, other = (draw(ready, lengths_differ, seed) for seed in (5, 5, 6))
    assert torch.equal(one.response_ids, two.response_ids)
    assert torch.equal(one.logprobs, two.logprobs)
    assert one.response_ids.tolist() != other.response_ids.tolist()


def test_sampling_leaves_the_global_generator_alone(ready, lengths_differ):
    state = torch.get_rng_state()
    draw(ready, lengths_differ)
    assert torch.equal(torch.get_rng_state(), state)


def test_greedy_is_what_transformers_generates(ready, lengths_differ, tokenizer):
    ours = draw(ready, lengths_differ, temperature=0)
    with ready.active("reference") as model:
        theirs = model.generate(
            input_ids=lengths_differ.prompt_ids,
            attention_mask=lengths_differ.prompt_mask.long(),
            do_sample=False,
            max_new_tokens=16,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )[:, lengths_differ.prompt_ids.shape[1] :]
    assert torch.equal(ours.response_ids, theirs)


def test_first_eos_counts_and_nothing_after(ready, lengths_differ, tokenizer):
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    seen = []
    for seed in range(6):
        rollout = draw(ready, lengths_differ, seed)
        for i, ids in enumerate(rollout.response_ids.tolist()):
            end = ids.index(eos) + 1 if eos in ids else len(ids)
            mask = rollout.response_mask[i].tolist()
            assert mask == [True] * end + [False] * (len(ids) - end)
            assert set(ids[end:]) <= {pad}
            assert rollout.logprobs[i, end:].tolist() == [0.0] * (len(ids) - end)
            assert rollout.lengths[i] == end
            assert rollout.ended(eos)[i] == (eos in ids)
            seen.append((end, eos in ids))
    assert len({end for end, _ in seen}) > 3  # rows of one batch ended at different places


def test_a_pad_that_is_the_eos_counts_once(ready, lengths_differ):
    """A tokenizer without a pad token gets its EOS as pad; only the first EOS is the response's."""
    before = [draw(ready, lengths_differ, seed) for seed in range(4)]
    ready.tokenizer = copy.deepcopy(ready.tokenizer)
    ready.tokenizer.pad_token = ready.tokenizer.eos_token
    for seed, own_pad in enumerate(before):
        rollout = draw(ready, lengths_differ, seed)
        assert torch.equal(rollout.response_mask, own_pad.response_mask)
        assert torch.equal(rollout.logprobs, own_pad.logprobs)


def test_sampling_stops_when_all_have_ended(ready, lengths_differ):
    for seed in range(4):
        rollout = draw(ready, lengths_differ, seed, tokens=100)
        assert rollout.response_ids.shape[1] == rollout.lengths.max() < 100
    assert draw(ready, lengths_differ, tokens=1).response_ids.shape == (3, 1)


def test_draws_follow_the_softmax():
    """20,000 draws from 5 tokens: the standard error of a share is below 0.0036."""
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0, -3.0])
    for temperature in (1.0, 0.5):
        drawn = _draw(logits.expand(20_000, 5), temperature, 1.0, generator())
        share = torch.bincount(drawn, minlength=5) / 20_000
        assert torch.allclose(share, torch.softmax(logits / temperature, 0), atol=0.015)


def test_top_p_draws_from_the_smallest_set_that_has_it():
    """p = .5, .3, .15, .05: 0.6 needs the first two, 0.5 the first alone, 0.81 three."""
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().expand(4000, 4)
    for top_p, kept in ((0.6, {1, 3}), (0.5, {1}), (0.81, {0, 1, 3}), (1.0, {0, 1, 2, 3})):
        assert set(_draw(logits, 1.0, top_p, generator()).tolist()) == kept, top_p
    share = (_draw(logits, 1.0, 0.6, generator()) == 1).float().mean().item()
    assert share == pytest.approx(0.5 / 0.8, abs=0.03)


def test_temperature_0_needs_no_generator_state(ready, lengths_differ):
    assert torch.equal(
        draw(ready, lengths_differ, 1, temperature=0).response_ids,
        draw(ready, lengths_differ, 2, temperature=0).response_ids,
    )


# Probabilities ----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_sampled_logprobs_are_teacher_forced_ones(ready, lengths_differ, temperature):
    """Cache, left padding and lengths of all sorts: the same number to 1e-5."""
    rollout = draw(ready, lengths_differ, temperature=temperature)
    again = response_logprobs(ready, "reference", rollout, temperature)
    assert rollout.logprobs.shape == again.shape
    assert (rollout.logprobs - again).abs().max() < 1e-5
    wrong = response_logprobs(ready, "reference", rollout, temperature + 0.1)
    assert (rollout.logprobs - wrong).abs().max() > 1e-3
    base = response_logprobs(ready, "base", rollout, temperature)
    assert (rollout.logprobs - base).abs().max() > 1e-2


def test_logprobs_of_a_row_alone_are_the_same(ready, lengths_differ, tokenizer):
    """By the plainest way: no padding, no cache, transformers' own forward pass, float64 sum."""
    rollout = draw(ready, lengths_differ)
    for i in range(len(TEXTS)):
        prompt = rollout.prompt_ids[i][rollout.prompt_mask[i]]
        response = rollout.response_ids[i][rollout.response_mask[i]]
        with ready.active("reference") as model, torch.no_grad():
            logits = model(input_ids=torch.cat([prompt, response])[None]).logits[0].double()
        table = logits[len(prompt) - 1 : -1].log_softmax(-1)
        expected = table[torch.arange(len(response)), response]
        found = rollout.logprobs[i][rollout.response_mask[i]].double()
        assert torch.allclose(found, expected, atol=1e-5)


def test_response_logits_predict_the_response(ready, lengths_differ):
    rollout = draw(ready, lengths_differ, temperature=0)
    logits = response_logits(ready, "reference", rollout, 1.0)
    assert logits.shape[:2] == rollout.response_ids.shape
    counted = rollout.response_mask
    assert torch.equal(logits.argmax(-1)[counted], rollout.response_ids[counted])
    half = response_logits(ready, "reference", rollout, 2.0)
    assert torch.allclose(half, logits / 2)


def test_values_are_of_the_state_before_the_token(ready, lengths_differ):
    """V(s_t) has seen the prompt and t tokens: changing token t moves V(s_t+1) but not V(s_t)."""
    ready.add_role("value", copy_of="reward")
    rollout = draw(ready, lengths_differ)
    values = response_values(ready, rollout)
    assert values.shape == rollout.response_ids.shape
    assert not values[~rollout.response_mask].any()
    start = ready.values("value", rollout.prompt_ids, rollout.prompt_mask)[:, -1]
    assert torch.allclose(values[:, 0], start, atol=1e-5)
    row = int(rollout.lengths.argmax())
    t = int(rollout.lengths[row]) // 2
    changed = rollout.response_ids.clone()
    changed[row, t] = 7 if changed[row, t] != 7 else 8
    moved = response_values(ready, rollout._replace(response_ids=changed))
    assert torch.allclose(moved[row, : t + 1], values[row, : t + 1], atol=1e-6)
    assert (moved[row, t + 1] - values[row, t + 1]).abs() > 1e-4


def test_rows_pick_the_same_rows_everywhere(ready, lengths_differ):
    rollout = draw(ready, lengths_differ)
    part = rollout.rows(torch.tensor([2, 0]))
    assert isinstance(part, Rollout)
    for whole, some in zip(rollout, part, strict=True):
        assert torch.equal(some, whole[[2, 0]])


# Texts ------------------------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_prompts(ready, lengths_differ):
    encoder = Encoder(ready.tokenizer, 128)
    ids = [encoder.prompt(Prompt(text)) for text in TEXTS]
    found = answers(ready, "reference", encoder, ids, 12, seed=3, temperature=0)
    back = answers(ready, "reference", encoder, ids[::-1], 12, seed=3, temperature=0, batch_size=2)
    assert found == back[::-1]
    rollout = draw(ready, lengths_differ, temperature=0, tokens=12)
    texts = encoder.text(rollout.response_ids, rollout.response_mask)
    assert [text for text, _ in found] == texts
    assert [end for _, end in found] == rollout.ended(ready.tokenizer.eos_token_id).tolist()


def test_scores_of_texts_are_the_reward_models(ready, demonstrations):
    responses = [d.response for d in demonstrations]
    scores = score_texts(ready, demonstrations, responses, batch_size=3)
    for d, score in zip(demonstrations, scores, strict=True):
        text = f"User: {d.prompt}\nAssistant: {d.response}<|endoftext|>"
        ids = torch.tensor([ready.tokenizer(text, add_special_tokens=False)["input_ids"]])
        alone = ready.scores("reward", ids, torch.ones_like(ids).bool())
        assert score == pytest.approx(alone.item(), abs=1e-5)


def test_an_answer_can_be_scored_however_it_is_spelled(ready, prompts):
    """A text may need more tokens than it was drawn with; that must not stop an evaluation."""
    long = "Zzz qqq xxx! " * 30
    assert len(ready.tokenizer(long)["input_ids"]) > ready.context_length
    assert len(score_texts(ready, prompts[:2], [long, "A star."])) == 2
