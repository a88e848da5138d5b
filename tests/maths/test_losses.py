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
    policy_loss,
    policy_penalty_loss,
    ptx_loss,
    sft_loss,
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
        (lambda *x: policy_loss(*x, clip_range=0), "clip_range must be positive, got 0"),
        (lambda *x: clip_fraction(*x, clip_range=NAN), "clip_range must be positive, got nan"),
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
