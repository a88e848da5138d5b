"""losses.py against torch, scipy, plain loops, enumeration and its own invariants."""

import math
from functools import partial

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirlhf.maths.kl import exact_kl
from minirlhf.maths.losses import (
    clip_fraction,
    entropy,
    grpo_loss,
    policy_loss,
    policy_penalty_loss,
    ptx_loss,
    reinforce_loss,
    sft_loss,
    token_weights,
    value_loss,
)
from minirlhf.maths.masked import gather_logprobs

float64 = partial(torch.tensor, dtype=torch.float64)
NAN = math.nan
penalty_loss = partial(policy_penalty_loss, penalty_coef=0.7)
# name -> loss, how many tensors it takes before the mask
LOSSES = {
    "sft_loss": (sft_loss, 1),
    "ptx_loss": (ptx_loss, 1),
    "policy_loss": (policy_loss, 3),
    "policy_penalty_loss": (penalty_loss, 3),
    "value_loss": (value_loss, 3),
}
every_loss = pytest.mark.parametrize(("loss", "inputs"), LOSSES.values(), ids=LOSSES)


@st.composite
def batches(draw):
    """Three float64 tensors (B, R), the second near the first, and a mask of prefixes."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    mask = torch.arange(5) < torch.tensor(lengths).unsqueeze(-1)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    numbers = torch.randn(3, len(lengths), 5, dtype=torch.float64, generator=generator)
    numbers[1] = numbers[0] + 0.4 * numbers[1]
    return numbers, mask


def one_batch(prompts=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(3, prompts, 5, dtype=torch.float64, generator=generator)
    numbers[1] = numbers[0] + 0.4 * numbers[1]
    lengths = torch.randint(1, 6, (prompts, 1), generator=generator)
    return numbers, torch.arange(5) < lengths


# --- what holds for every loss -------------------------------------------------------------


@every_loss
def test_micro_batches_with_count_add_up(loss, inputs):
    numbers, mask = one_batch()
    whole, parts = (numbers[0].clone().requires_grad_() for _ in range(2))
    total = loss(whole, *numbers[1:inputs], mask)
    total.backward()
    summed = 0.0
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        rest = [table[rows] for table in numbers[1:inputs]]
        part = loss(parts[rows], *rest, mask[rows], count=mask.sum())
        part.backward()
        summed += part.item()
    assert summed == pytest.approx(total.item(), abs=1e-14)
    assert torch.equal(whole.grad, parts.grad)


@every_loss
@pytest.mark.parametrize("rubbish", [NAN, math.inf, -math.inf])
def test_padding_and_batch_order_change_nothing(loss, inputs, rubbish):
    numbers, mask = one_batch()
    plain = numbers[0].clone().requires_grad_()
    wanted = loss(plain, *numbers[1:inputs], mask)
    wanted.backward()
    padded = torch.where(mask, numbers, rubbish).flip(1)
    padded = torch.cat([padded, torch.full_like(padded, rubbish)], 2)
    padded_mask = torch.cat([mask.flip(0), torch.zeros_like(mask)], 1)
    first = padded[0].clone().requires_grad_()
    got = loss(first, *padded[1:inputs], padded_mask)
    got.backward()
    assert got.item() == pytest.approx(wanted.item(), abs=1e-14)
    torch.testing.assert_close(first.grad[:, :5].flip(0), plain.grad, rtol=1e-14, atol=1e-15)
    assert not first.grad[~padded_mask].any()


@every_loss
def test_gradients_reach_only_what_is_trained(loss, inputs):
    numbers, mask = one_batch()
    tensors = [table.clone().requires_grad_() for table in numbers[:inputs]]
    loss(*tensors, mask).backward()
    assert tensors[0].grad.any()
    assert all(tensor.grad is None or not tensor.grad.any() for tensor in tensors[1:])


@every_loss
def test_gradients_agree_with_finite_differences(loss, inputs):
    numbers, mask = one_batch(seed=1)
    first = numbers[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, *numbers[1:inputs], mask), first)


@every_loss
def test_bad_input_is_refused(loss, inputs):
    numbers, mask = one_batch()
    tensors = numbers[:inputs]
    with pytest.raises(ValueError, match="the mask is empty"):
        loss(*tensors, torch.zeros_like(mask))
    with pytest.raises(ValueError, match="shapes differ: "):
        loss(*tensors, mask[:, :3])
    with pytest.raises(ValueError, match="a mask must be bool"):
        loss(*tensors, mask.float())
    with pytest.raises(ValueError, match="count must be positive, got 0"):
        loss(*tensors, mask, count=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda *x: policy_loss(*x, clip_range=0), "clip_range must be positive or None, got 0"),
        (lambda *x: clip_fraction(*x, clip_range=NAN), "clip_range must be .* None, got nan"),
        (lambda *x: value_loss(*x, clip_range=-1), "clip_range must be positive or None, got -1"),
        (lambda *x: policy_penalty_loss(*x, -1), "penalty_coef must not be negative, got -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(call, message):
    numbers, mask = one_batch()
    with pytest.raises(ValueError, match=message):
        call(*numbers, mask)


# --- cross-entropies -----------------------------------------------------------------------


@pytest.mark.parametrize("loss", [sft_loss, ptx_loss])
@given(seed=st.integers(0, 10_000))
def test_cross_entropies_agree_with_torch(loss, seed):
    """From logits, with the prompt and the padding marked -100 as transformers does it."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 9, dtype=torch.float64, generator=generator)
    ids = torch.randint(9, (2, 4), generator=generator)
    mask = torch.tensor([[False, True, True, True], [False, False, True, False]])
    labels = torch.where(mask, ids, -100)
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    got = loss(gather_logprobs(logits, ids), mask)
    assert got.item() == pytest.approx(wanted.item(), rel=1e-12)


# --- policy losses -------------------------------------------------------------------------


def slow_policy_loss(new, old, advantages, mask, clip_range):
    """PPO eq. 7 as an objective, token by token, then its sign turned."""
    terms = []
    for p, q, a, counts in zip(
        new.flatten().tolist(),
        old.flatten().tolist(),
        advantages.flatten().tolist(),
        mask.flatten().tolist(),
        strict=True,
    ):
        if counts:
            ratio = math.exp(p) / math.exp(q)
            held = min(max(ratio, 1 - clip_range), 1 + clip_range)
            terms.append(min(ratio * a, held * a))
    return -sum(terms) / len(terms)


@given(batches(), st.floats(0.01, 0.9))
def test_policy_loss_agrees_with_the_slow_loop(batch, clip_range):
    numbers, mask = batch
    wanted = slow_policy_loss(*numbers, mask, clip_range)
    assert policy_loss(*numbers, mask, clip_range).item() == pytest.approx(wanted, abs=1e-12)


@given(batches())
def test_before_any_update_the_loss_is_minus_the_mean_advantage(batch):
    (logprobs, _, advantages), mask = batch
    for loss in (policy_loss, penalty_loss):
        new = logprobs.clone().requires_grad_()
        value = loss(new, logprobs, advantages, mask)
        assert value.item() == pytest.approx(-advantages[mask].mean().item(), abs=1e-13)
        value.backward()  # and the gradient is REINFORCE's: -A / n
        wanted = torch.where(mask, -advantages / mask.sum(), 0.0)
        torch.testing.assert_close(new.grad, wanted, rtol=1e-12, atol=1e-15)


@given(batches())
def test_without_a_clip_range_nothing_is_held(batch):
    numbers, mask = batch
    new = numbers[0].clone().requires_grad_()
    loss = policy_loss(new, *numbers[1:], mask, clip_range=None)
    assert loss.item() == pytest.approx(slow_policy_loss(*numbers, mask, 1e300), abs=1e-12)
    loss.backward()
    ratio = torch.where(mask, (numbers[0] - numbers[1]).exp(), 0.0)
    torch.testing.assert_close(new.grad, -numbers[2] * ratio / mask.sum(), rtol=1e-12, atol=1e-15)
    assert clip_fraction(*numbers, mask, clip_range=None).item() == 0


@given(batches(), st.floats(0.01, 0.9))
def test_clip_fraction_counts_the_tokens_without_gradient(batch, clip_range):
    numbers, mask = batch
    new = numbers[0].clone().requires_grad_()
    policy_loss(new, *numbers[1:], mask, clip_range).backward()
    held = (new.grad == 0) & mask
    got = clip_fraction(*numbers, mask, clip_range).item()
    assert got == pytest.approx(held.sum().item() / mask.sum().item(), abs=1e-6)


def test_an_absurd_ratio_in_the_padding_leaves_the_gradient_finite():
    new = float64([[0.0, 2000.0]]).requires_grad_()
    old, advantages, mask = float64([[0.0, -2000.0]]), float64([[1.0, 1.0]]), torch.tensor([[1, 0]])
    for loss in (policy_loss, penalty_loss):
        (gradient,) = torch.autograd.grad(loss(new, old, advantages, mask), new)
        assert gradient.tolist() == [[-1.0, 0.0]]


def test_the_penalty_is_the_kl_from_the_old_policy():
    """Enumerated over all actions of the old policy: right in value and in gradient."""
    generator = torch.Generator().manual_seed(2)
    logits, old_logits = torch.randn(2, 6, dtype=torch.float64, generator=generator)
    logits.requires_grad_()
    policy, old = logits.log_softmax(-1), old_logits.log_softmax(-1)
    # One "response" per action; its share of the mean is made p_old through the weights.
    per_action = [
        policy_penalty_loss(
            policy[i].view(1, 1),
            old[i].view(1, 1),
            torch.zeros(1, 1).double(),
            torch.ones(1, 1).bool(),
            penalty_coef=1.0,
        )
        for i in range(6)
    ]
    penalty = (old.exp() * torch.stack(per_action)).sum()
    kl = exact_kl(old_logits, logits)
    assert penalty.item() == pytest.approx(kl.item(), rel=1e-12)
    gradients = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (penalty, kl)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


# --- value loss ----------------------------------------------------------------------------


@given(batches(), st.floats(0.01, 2))
def test_value_loss_agrees_with_the_slow_loop(batch, clip_range):
    numbers, mask = batch
    terms = []
    for v, old, target in numbers[:, mask].T.tolist():
        held = min(max(v, old - clip_range), old + clip_range)
        terms.append(max((v - target) ** 2, (held - target) ** 2) / 2)
    wanted = sum(terms) / len(terms)
    assert value_loss(*numbers, mask, clip_range).item() == pytest.approx(wanted, abs=1e-12)


@given(batches())
def test_value_loss_without_clipping_is_half_the_mean_squared_error(batch):
    (values, old_values, returns), mask = batch
    wanted = torch.nn.functional.mse_loss(values[mask], returns[mask]).item() / 2
    for clip_range in (None, 1e6):
        loss = value_loss(values, old_values, returns, mask, clip_range)
        assert loss.item() == pytest.approx(wanted, abs=1e-12)


@given(batches())
def test_clipping_never_lowers_the_value_loss(batch):
    numbers, mask = batch
    assert value_loss(*numbers, mask) >= value_loss(*numbers, mask, clip_range=None)


# --- entropy -------------------------------------------------------------------------------


@given(st.integers(0, 10_000))
def test_entropy_agrees_with_scipy_and_with_the_kl_from_uniform(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 3, 7, dtype=torch.float64, generator=generator)
    wanted = float64(scipy.stats.entropy(logits.softmax(-1).numpy(), axis=-1))
    torch.testing.assert_close(entropy(logits), wanted, rtol=1e-12, atol=1e-13)
    from_uniform = math.log(7) - exact_kl(logits, torch.zeros_like(logits))
    torch.testing.assert_close(entropy(logits), from_uniform, rtol=1e-12, atol=1e-12)


def test_entropy_with_forbidden_tokens():
    logits = float64([1.0, 1.0, -math.inf]).requires_grad_()
    value = entropy(logits)
    value.backward()
    assert value.item() == pytest.approx(math.log(2), abs=1e-15)
    assert logits.grad.isfinite().all()
    assert entropy(torch.zeros(4).bfloat16()).dtype == torch.float32


# --- RLOO and GRPO -------------------------------------------------------------------------


def slow_reinforce(logprobs, advantages, mask):
    terms = []
    for row, advantage, counts in zip(
        logprobs.tolist(), advantages.tolist(), mask.tolist(), strict=True
    ):
        terms.append(advantage * sum(p for p, c in zip(row, counts, strict=True) if c))
    return -sum(terms) / len(terms)


def slow_grpo(new, old, ref, advantages, mask, mean, clip_range, kl_coef, longest=7):
    """Shao et al., eq. 3 and 4, response by response and token by token, then the sign turned."""
    responses, tokens = [], int(mask.sum())
    for b, counts in enumerate(mask.tolist()):
        terms = []
        for t in [t for t, c in enumerate(counts) if c]:
            p, q, r = (math.exp(table[b, t].item()) for table in (new, old, ref))
            held = min(max(p / q, 1 - clip_range), 1 + clip_range)
            gain = min(p / q * advantages[b].item(), held * advantages[b].item())
            terms.append(gain - kl_coef * (r / p - math.log(r / p) - 1))
        size = {"response": len(terms), "token": tokens / len(mask), "constant": longest}[mean]
        responses.append(sum(terms) / size)
    return -sum(responses) / len(responses)


def four(batch):
    """logprobs, old, ref (B, R), advantages (B,), mask of a drawn batch."""
    (new, old, other), mask = batch
    return new, old, new - 0.5 * other, torch.where(mask, other, 0.0).sum(1), mask


def check_reinforce(loss):
    """By hand: A = 2 and -1, sums of log-probabilities -3 and -4: (2 * 3 - 1 * 4) / 2 = 1."""
    logprobs = float64([[-1.0, -2.0], [-4.0, -9.0]]).requires_grad_()
    mask = torch.tensor([[True, True], [True, False]])
    value = loss(logprobs, float64([2.0, -1.0]), mask)
    value.backward()
    wanted = [[-1.0, -1.0], [0.5, 0.0]]  # -A / B for each token that counts
    return value.item() == pytest.approx(1.0) and logprobs.grad.tolist() == wanted


def check_grpo(loss):
    """By hand, A = 2 and -1, ratios 1.8 and 1 | 0.5, clipped at 1.2 and 0.8; KL at price 0.1.

    k3(0.9, 0.45) = 0.5 - 1 + log 2 = 0.1931, k3(0.5, 0.5) = 0, k3(0.2, 0.4) = 2 - 1 - log 2.
    """
    new, old, ref = (
        float64(p).log().requires_grad_()
        for p in (
            [[0.9, 0.5], [0.2, 0.7]],
            [[0.5, 0.5], [0.4, 0.1]],
            [[0.45, 0.5], [0.4, 0.9]],
        )
    )
    mask = torch.tensor([[True, True], [True, False]])
    value = loss(new, old, ref, float64([2.0, -1.0]), token_weights(mask).double(), 0.2, 0.1)
    value.backward()
    first = (-2 * 1.2 + 0.1 * (math.log(2) - 0.5) - 2) / 2
    second = 0.8 + 0.1 * (1 - math.log(2))
    # the gradient of k3 in log pi is 1 - pi_ref / pi; clipped tokens have no other
    slopes = [[0.25 * 0.1 * 0.5, 0.25 * -2], [0.5 * 0.1 * -1, 0.0]]
    slopes_match = all(
        got == pytest.approx(wanted, abs=1e-7)
        for got, wanted in zip(new.grad.tolist(), slopes, strict=True)
    )
    reached = old.grad is None and ref.grad is None
    return (
        value.item() == pytest.approx((first + second) / 2, abs=1e-7) and slopes_match and reached
    )


def grpo_mutant(new, old, ref, advantages, weights, clip_range, kl_coef, wrong):
    mask = weights > 0
    ratio = torch.where(mask, new - old.detach(), 0.0).exp()
    held = ratio.clamp(1 - clip_range, 1 + clip_range)
    a = advantages[:, None]
    back = torch.where(mask, ref.detach() - new, 0.0)
    kl = -back if wrong == "k1" else back**2 / 2 if wrong == "k2" else back.exp() - 1 - back
    if wrong == "the other way round":
        kl = (-back).exp() - 1 + back
    if wrong == "reference missing":
        kl = 0 * back
    worse = torch.minimum if wrong == "minimum" else torch.maximum
    gain = -ratio * a if wrong == "no clip" else worse(-ratio * a, -held * a)
    sign = -1 if wrong == "sign flipped" else 1
    price = -kl_coef if wrong == "KL paid" else kl_coef
    weights = torch.full_like(weights, 1 / weights.numel()) if wrong == "mask" else weights
    return (weights * (sign * gain + price * kl)).sum()


REINFORCE_MUTANTS = {
    "sign flipped": lambda *x: -reinforce_loss(*x),
    "mask ignored": lambda p, a, m: reinforce_loss(p, a, torch.ones_like(m)),
    "mean over tokens": lambda p, a, m: -(a[:, None] * p)[m].sum() / m.sum(),
    "mean of a response": lambda p, a, m: -(a * (p * m).sum(1) / m.sum(1)).mean(),
    "sum over responses": lambda p, a, m: len(p) * reinforce_loss(p, a, m),
    "advantage missing": lambda p, a, m: reinforce_loss(p, torch.ones_like(a), m),
}
GRPO_MUTANTS = (
    "k1", "k2", "the other way round", "reference missing", "minimum", "no clip", "sign flipped",
    "KL paid", "mask",
)  # fmt: skip


def test_checks_of_the_neighbours_pass_what_is_right_and_no_mutant():
    assert check_reinforce(reinforce_loss)
    assert check_grpo(grpo_loss)
    assert check_grpo(partial(grpo_mutant, wrong="nothing"))  # the mutants' own ground is sound
    for name, mutant in REINFORCE_MUTANTS.items():
        assert not check_reinforce(mutant), name
    for wrong in GRPO_MUTANTS:
        assert not check_grpo(partial(grpo_mutant, wrong=wrong)), wrong


@given(batches())
def test_reinforce_agrees_with_the_slow_loop(batch):
    logprobs, _, _, advantages, mask = four(batch)
    wanted = slow_reinforce(logprobs, advantages, mask)
    assert reinforce_loss(logprobs, advantages, mask).item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("mean", ["response", "token", "constant"])
@given(batches(), st.floats(0.01, 0.9), st.floats(0, 2))
def test_grpo_agrees_with_the_slow_loop(mean, batch, clip_range, kl_coef):
    *tensors, mask = four(batch)
    weights = token_weights(mask, mean, longest=7).double()
    got = grpo_loss(*tensors, weights, clip_range, kl_coef).item()
    wanted = slow_grpo(*tensors, mask, mean, clip_range, kl_coef)
    assert got == pytest.approx(wanted, rel=1e-6, abs=1e-6)  # the weights are float32


@given(batches(), st.floats(0.01, 0.9))
def test_grpo_with_token_mean_and_without_kl_is_ppo(batch, clip_range):
    new, old, ref, advantages, mask = four(batch)
    weights = token_weights(mask, "token").double()
    for clip in (clip_range, None):
        got = grpo_loss(new, old, ref, advantages, weights, clip, kl_coef=0.0).item()
        spread = advantages[:, None].expand(new.shape)
        wanted = policy_loss(new, old, spread, mask, clip).item()
        assert got == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_token_weights_by_hand():
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    third = 1 / 3 / 2
    wanted = {
        "response": [[third] * 3 + [0], [0.5, 0, 0, 0]],
        "token": [[0.25] * 3 + [0], [0.25, 0, 0, 0]],
        "constant": [[0.05] * 3 + [0], [0.05, 0, 0, 0]],  # 2 responses of at most 10 tokens
    }
    for mean, rows in wanted.items():
        got = token_weights(mask, mean, longest=10)
        assert got[0].tolist() == pytest.approx(rows[0]), mean
        assert got[1].tolist() == pytest.approx(rows[1]), mean


@pytest.mark.parametrize("loss", ["reinforce", "grpo"])
def test_what_changes_nothing_for_the_neighbours(loss):
    """Micro-batches, the order of responses, rubbish in the padding."""
    numbers, mask = one_batch()
    new, old, ref, advantages, _ = four((numbers, mask))
    weights = token_weights(mask).double()

    def value(new, rows=slice(None)):
        if loss == "reinforce":
            return reinforce_loss(new[rows], advantages[rows], mask[rows], count=6)
        return grpo_loss(new[rows], old[rows], ref[rows], advantages[rows], weights[rows])

    whole, parts, odd = (new.clone().requires_grad_() for _ in range(3))
    value(whole).backward()
    for rows in ([4, 1], [0], [5, 3, 2]):
        value(parts, rows).backward()
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-14, atol=1e-16)
    value(torch.where(mask, odd, NAN)).backward()
    assert torch.equal(odd.grad, whole.grad)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, m: token_weights(m, "sum"), "mean must be 'response', .* got 'sum'"),
        (lambda p, m: token_weights(m.float()), "a mask must be bool"),
        (
            lambda p, m: reinforce_loss(p, p, m),
            r"shapes differ: responses \(6,\), advantages \(6, 5",
        ),
        (lambda p, m: reinforce_loss(p, p[:, 0], m, count=0), "count must be positive"),
        (lambda p, m: grpo_loss(p, p, p, p[:, 0], m.double(), 0.0), "clip_range must be positive"),
        (lambda p, m: grpo_loss(p, p, p, p[:, 0], m.double(), kl_coef=-1), "kl_coef must not be"),
        (lambda p, m: grpo_loss(p, p, p[:2], p[:, 0], m.double()), "shapes differ"),
    ],
)
def test_the_neighbours_refuse(call, message):
    numbers, mask = one_batch()
    with pytest.raises(ValueError, match=message):
        call(numbers[0], mask)
