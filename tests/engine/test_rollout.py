"""minirlhf.engine.rollout: what is drawn, and with what probability the sampler says it was."""

import copy

import pytest
import torch

from minirlhf.engine.batches import Encoder, PromptBatch
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


def lucks(count, seed=0):
    return torch.rand(count, generator=generator(seed), dtype=torch.float64)


def test_draws_follow_the_softmax():
    """20,000 draws from 5 tokens: the standard error of a share is below 0.0036."""
    logp = torch.tensor([1.0, 0.0, -1.0, 2.0, -3.0]).log_softmax(0)
    drawn = _draw(logp.expand(20_000, 5), lucks(20_000), 1.0, 0)
    share = torch.bincount(drawn, minlength=5) / 20_000
    assert torch.allclose(share, logp.exp(), atol=0.015)


def test_a_draw_is_where_luck_falls_among_the_cumulated_probabilities():
    """p = .2, 0, .5, .3: the borders stand at .2 and .7, and nothing is drawn that has none."""
    logp = torch.tensor([0.2, 0.0, 0.5, 0.3]).log()
    luck = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 1 - 2**-53], dtype=torch.float64)
    drawn = _draw(logp.expand(6, 4), luck, 1.0, 0)
    assert drawn.tolist() == [0, 0, 2, 2, 3, 3]


def test_top_p_draws_from_the_smallest_set_that_has_it():
    """p = .5, .3, .15, .05: 0.6 needs the first two, 0.5 the first alone, 0.81 three."""
    logp = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().expand(4000, 4)
    for top_p, kept in ((0.6, {1, 3}), (0.5, {1}), (0.81, {0, 1, 3}), (1.0, {0, 1, 2, 3})):
        assert set(_draw(logp, lucks(4000), top_p, 0).tolist()) == kept, top_p
    share = (_draw(logp, lucks(4000), 0.6, 0) == 1).float().mean().item()
    assert share == pytest.approx(0.5 / 0.8, abs=0.03)


def test_top_k_draws_from_the_likeliest_and_goes_before_top_p():
    logp = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().expand(4000, 4)
    for top_k, kept in ((1, {1}), (2, {1, 3}), (3, {0, 1, 3}), (4, {0, 1, 2, 3})):
        assert set(_draw(logp, lucks(4000), 1.0, top_k).tolist()) == kept, top_k
    # of .5 and .3, rescaled to .625 and .375, the first alone has 0.6
    assert set(_draw(logp, lucks(4000), 0.6, 2).tolist()) == {1}
    share = (_draw(logp, lucks(4000), 1.0, 2) == 1).float().mean().item()
    assert share == pytest.approx(0.5 / 0.8, abs=0.03)


def slow_sample(backbone, role, batch, tokens, seed, temperature, top_p=1.0, top_k=0, samples=1):
    """The reference: row by row, no cache, no padding, transformers' own forward, a plain loop."""
    eos = backbone.tokenizer.eos_token_id
    luck = torch.rand(
        len(batch.prompt_ids) * samples, tokens, generator=generator(seed), dtype=torch.float64
    )
    found = []
    for row, fate in enumerate(luck.tolist()):
        ids = batch.prompt_ids[row // samples][batch.prompt_mask[row // samples]].tolist()
        response = []
        while len(response) < tokens and eos not in response:
            with backbone.active(role) as model, torch.no_grad():
                logits = model(input_ids=torch.tensor([ids + response])).logits[0, -1].double()
            probs = (logits / temperature).softmax(-1)
            order = probs.argsort(descending=True).tolist()
            kept = order[:top_k] if top_k else order
            total, few = sum(probs[i].item() for i in kept), []
            while not few or sum(probs[i].item() for i in few) < top_p * total:
                few.append(kept[len(few)])
            target, passed = fate[len(response)] * sum(probs[i].item() for i in few), 0.0
            for token in sorted(few):
                passed += probs[token].item()
                if passed > target:
                    break
            response.append(token)
        found.append(response)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.5, "top_k": 9},
        {"top_p": 0.8},
        {"top_p": 0.9, "top_k": 20, "samples": 3},
    ],
)
def test_the_same_tokens_as_a_slow_loop(ready, lengths_differ, options):
    options = {"temperature": 1.0} | options
    for seed in range(3):
        rollout = sample(ready, "reference", lengths_differ, 10, generator(seed), **options)
        slow = slow_sample(ready, "reference", lengths_differ, 10, seed, **options)
        fast = [
            ids[mask].tolist()
            for ids, mask in zip(rollout.response_ids, rollout.response_mask, strict=True)
        ]
        assert fast == slow


def test_a_response_does_not_depend_on_its_neighbours(ready, lengths_differ):
    """Rows leave the batch when they end; the others go on as if nothing had happened."""
    for seed in range(4):
        greedy = draw(ready, lengths_differ, seed, temperature=0)
        for row in range(len(TEXTS)):
            alone = PromptBatch(*(tensor[row : row + 1] for tensor in lengths_differ))
            one = draw(ready, alone, seed, temperature=0)
            length = int(one.lengths[0])
            assert torch.equal(one.response_ids[0], greedy.response_ids[row, :length])
            assert torch.allclose(one.logprobs[0], greedy.logprobs[row, :length], atol=1e-5)


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
    values = response_values(ready, "value", rollout)
    assert values.shape == rollout.response_ids.shape
    assert not values[~rollout.response_mask].any()
    start = ready.values("value", rollout.prompt_ids, rollout.prompt_mask)[:, -1]
    assert torch.allclose(values[:, 0], start, atol=1e-5)
    row = int(rollout.lengths.argmax())
    t = int(rollout.lengths[row]) // 2
    changed = rollout.response_ids.clone()
    changed[row, t] = 7 if changed[row, t] != 7 else 8
    moved = response_values(ready, "value", rollout._replace(response_ids=changed))
    assert torch.allclose(moved[row, : t + 1], values[row, : t + 1], atol=1e-6)
    assert (moved[row, t + 1] - values[row, t + 1]).abs() > 1e-4


def test_rows_pick_the_same_rows_everywhere_and_drop_empty_columns(ready, lengths_differ):
    rollout = draw(ready, lengths_differ, seed=1)
    rollout = rollout._replace(trunk=torch.rand(*rollout.input_ids.shape, 4))
    index = rollout.lengths.argsort()[:2]  # not the longest response
    part = rollout.rows(index)
    assert isinstance(part, Rollout)
    end = int(part.lengths.max())
    first = int((~rollout.prompt_mask[index]).sum(1).min())
    assert end < rollout.response_ids.shape[1] and part.response_ids.shape == (2, end)
    assert part.prompt_mask.any(0).all() and part.response_mask.any(0).all()
    whole = [tensor[index] for tensor in rollout]
    for found, expected in zip(part[:2], whole[:2], strict=True):
        assert torch.equal(found, expected[:, first:])
    for found, expected in zip(part[2:5], whole[2:5], strict=True):
        assert torch.equal(found, expected[:, :end])
    assert torch.equal(part.trunk, whole[5][:, first : part.trunk.shape[1] + first])
    assert part.trunk.shape[:2] == part.input_ids.shape


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
