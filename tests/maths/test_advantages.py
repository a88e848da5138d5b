"""advantages.py: sums, a linear solve, the forward view, and what must change nothing."""

import itertools
import math
from functools import partial

import numpy
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirlhf.maths.advantages import (
    gae,
    group_advantages,
    leave_one_out_advantages,
    token_rewards,
)

float64 = partial(torch.tensor, dtype=torch.float64)
NAN = math.nan
factors = st.sampled_from([0.0, 0.3, 0.95, 1.0])


@st.composite
def rollouts(draw):
    """lengths, mask (B, R) bool, and three float64 tensors (B, R) with nan in the padding."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    mask = torch.arange(6) < torch.tensor(lengths).unsqueeze(-1)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    numbers = torch.randn(3, len(lengths), 6, dtype=torch.float64, generator=generator)
    return lengths, mask, *torch.where(mask, numbers, NAN)


# --- token_rewards -------------------------------------------------------------------------


@given(rollouts(), st.floats(0, 3))
def test_rewards_sum_to_the_papers_objective(rollout, kl_coef):
    """R(x, y) = r(x, y) - kl_coef log(pi(y|x) / pi_ref(y|x)), from whole-response products."""
    lengths, mask, logprobs, ref_logprobs, scores = rollout
    scores = scores[:, 0]
    rewards = token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef)
    for row, length in enumerate(lengths):
        probability, ref_probability = (
            math.prod(math.exp(x) for x in table[row, :length].tolist())
            for table in (logprobs, ref_logprobs)
        )
        wanted = scores[row].item() - kl_coef * math.log(probability / ref_probability)
        assert rewards[row].sum().item() == pytest.approx(wanted, abs=1e-11)
    assert not rewards[~mask].any()


@given(rollouts())
def test_the_score_lands_on_one_token(rollout):
    lengths, mask, logprobs, ref_logprobs, scores = rollout
    with_score = token_rewards(scores[:, 0], logprobs, ref_logprobs, mask, 0.1)
    without = token_rewards(0 * scores[:, 0], logprobs, ref_logprobs, mask, 0.1)
    difference = with_score - without
    for row, length in enumerate(lengths):
        wanted = [0.0] * 6
        wanted[length - 1] = scores[row, 0].item()
        assert difference[row].tolist() == pytest.approx(wanted, abs=1e-12)


def test_while_policy_and_reference_agree_only_the_score_is_left():
    logprobs, mask = float64([[-1.0, -2.0, -3.0]]), torch.tensor([[True, True, True]])
    rewards = token_rewards(float64([4.0]), logprobs, logprobs, mask, kl_coef=1e9)
    assert rewards.tolist() == [[0.0, 0.0, 4.0]]


def test_rewards_keep_the_log_probabilities_type():
    scores, logprobs = torch.ones(1, dtype=torch.float16), torch.zeros(1, 2)
    assert token_rewards(scores, logprobs, logprobs, logprobs == 0, 0.1).dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": torch.zeros(3)}, r"scores must be \(2,\), one per response, got \(3,\)"),
        ({"scores": torch.zeros(2, 1)}, r"got \(2, 1\)"),
        ({"ref_logprobs": torch.zeros(2, 4)}, r"ref_logprobs \(2, 4\)"),
        ({"response_mask": torch.tensor([[1, 0, 1], [1, 1, 1]])}, "mask row 0 has a hole"),
        ({"response_mask": torch.tensor([[1, 1, 1], [0, 0, 0]])}, "mask row 1 is empty"),
        ({"kl_coef": -0.1}, "kl_coef must not be negative, got -0.1"),
        ({"kl_coef": NAN}, "kl_coef must not be negative, got nan"),
    ],
)
def test_token_rewards_refuses(changes, message):
    arguments = {
        "scores": torch.zeros(2),
        "logprobs": torch.zeros(2, 3),
        "ref_logprobs": torch.zeros(2, 3),
        "response_mask": torch.ones(2, 3).bool(),
        "kl_coef": 0.1,
    }
    with pytest.raises(ValueError, match=message):
        token_rewards(**arguments | changes)


# --- gae -----------------------------------------------------------------------------------


@given(rollouts(), factors, factors)
def test_gae_solves_its_linear_system(rollout, discount, gae_lambda):
    """(I - discount lambda S) A = delta, delta = r + (discount S - I) V, S = shift by one."""
    lengths, mask, rewards, values, _ = rollout
    advantages, returns = gae(rewards, values, mask, discount, gae_lambda)
    for row, n in enumerate(lengths):
        r, v = rewards[row, :n].numpy(), values[row, :n].numpy()
        shift, identity = numpy.eye(n, k=1), numpy.eye(n)
        delta = r + (discount * shift - identity) @ v
        wanted = numpy.linalg.solve(identity - discount * gae_lambda * shift, delta)
        assert advantages[row, :n].tolist() == pytest.approx(wanted.tolist(), abs=1e-12)
        assert returns[row, :n].tolist() == pytest.approx((wanted + v).tolist(), abs=1e-12)
    assert not advantages[~mask].any()
    assert not returns[~mask].any()


@given(rollouts(), factors, factors)
def test_returns_are_the_lambda_mixture_of_n_step_returns(rollout, discount, gae_lambda):
    """The forward view: (1 - lambda) sum lambda^(n-1) G^(n), the rest of the weight on the last."""
    lengths, mask, rewards, values, _ = rollout
    _, returns = gae(rewards, values, mask, discount, gae_lambda)
    for row, length in enumerate(lengths):
        r, v = rewards[row].tolist(), [*values[row, :length].tolist(), 0.0]
        for t in range(length):
            mixture, left = 0.0, 1.0
            for n in range(1, length - t + 1):
                real = sum(discount**i * r[t + i] for i in range(n))
                last = t + n == length
                weight = left if last else left * (1 - gae_lambda)
                mixture += weight * (real + discount**n * v[t + n])
                left *= gae_lambda
            assert returns[row, t].item() == pytest.approx(mixture, abs=1e-11)


@given(rollouts(), factors)
def test_both_ends_of_lambda(rollout, discount):
    lengths, mask, rewards, values, _ = rollout
    monte_carlo, _ = gae(rewards, values, mask, discount, gae_lambda=1.0)
    one_step, _ = gae(rewards, values, mask, discount, gae_lambda=0.0)
    for row, length in enumerate(lengths):
        r, v = rewards[row].tolist(), [*values[row, :length].tolist(), 0.0]
        for t in range(length):
            to_come = sum(discount ** (u - t) * r[u] for u in range(t, length))
            assert monte_carlo[row, t].item() == pytest.approx(to_come - v[t], abs=1e-12)
            delta = r[t] + discount * v[t + 1] - v[t]
            assert one_step[row, t].item() == pytest.approx(delta, abs=1e-12)


@given(rollouts(), factors)
def test_a_perfect_value_model_leaves_no_advantage(rollout, gae_lambda):
    _, mask, rewards, _, _ = rollout
    rewards = torch.where(mask, rewards, 0.0)
    values = rewards.flip(-1).cumsum(-1).flip(-1)  # what is still to come, undiscounted
    advantages, returns = gae(rewards, values, mask, 1.0, gae_lambda)
    torch.testing.assert_close(advantages, torch.zeros_like(values), rtol=0, atol=1e-13)
    torch.testing.assert_close(returns, torch.where(mask, values, 0.0), rtol=0, atol=1e-13)


@given(rollouts(), factors, factors, st.integers(0, 100))
def test_padding_and_batch_order_change_nothing(rollout, discount, gae_lambda, seed):
    _, mask, rewards, values, _ = rollout
    wanted = gae(rewards, values, mask, discount, gae_lambda)
    order = torch.randperm(len(mask), generator=torch.Generator().manual_seed(seed))
    padding = torch.full((len(mask), 3), math.inf, dtype=torch.float64)
    wider = [torch.cat([table[order], padding], 1) for table in (rewards, values)]
    wider_mask = torch.cat([mask[order], torch.zeros(len(mask), 3).bool()], 1)
    for got, expected in zip(gae(*wider, wider_mask, discount, gae_lambda), wanted, strict=True):
        assert torch.equal(got[:, :6], expected[order])
        assert not got[:, 6:].any()


def test_gae_carries_no_gradient():
    values = torch.zeros(1, 2, requires_grad=True)
    advantages, returns = gae(values + 1, values, torch.ones(1, 2).bool())
    assert not advantages.requires_grad
    assert not returns.requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": torch.zeros(2, 4)}, r"rewards \(2, 3\), values \(2, 4\)"),
        ({"response_mask": torch.tensor([[1, 0, 1], [1, 1, 1]])}, "mask row 0 has a hole"),
        ({"response_mask": torch.zeros(2, 3).bool()}, "mask row 0 is empty"),
        ({"discount": 1.1}, r"discount must be in \[0, 1\], got 1.1"),
        ({"gae_lambda": NAN}, r"gae_lambda must be in \[0, 1\], got nan"),
    ],
)
def test_gae_refuses(changes, message):
    arguments = {
        "rewards": torch.zeros(2, 3),
        "values": torch.zeros(2, 3),
        "response_mask": torch.ones(2, 3).bool(),
    }
    with pytest.raises(ValueError, match=message):
        gae(**arguments | changes)


# --- groups: RLOO and GRPO -----------------------------------------------------------------


@st.composite
def groups(draw):
    """rewards (B, K) float64."""
    prompts, k = draw(st.integers(1, 4)), draw(st.integers(2, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    return 3 * torch.randn(prompts, k, dtype=torch.float64, generator=generator)


def slow_leave_one_out(rewards):
    """Sample by sample, from a list without it."""
    return [
        [own - numpy.mean(numpy.delete(row, i)) for i, own in enumerate(row)]
        for row in rewards.numpy()
    ]


def check_leave_one_out(function):
    """By hand: (1, 2, 6): 1 - 8/2, 2 - 7/2, 6 - 3/2; two samples: their difference, both ways."""
    got = function(float64([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])).tolist()
    return (
        got[0] == pytest.approx([-3.0, -1.5, 4.5], abs=1e-12)
        and got[1] == pytest.approx([0, 0, 0], abs=1e-12)
        and function(float64([[5.0, 2.0]]))[0].tolist() == pytest.approx([3.0, -3.0], abs=1e-12)
    )


def check_group(function):
    """By hand: mean 3, deviations -2, -1, 3, variance 14 / 2; a prompt without spread gets 0."""
    got = function(float64([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])).tolist()
    wanted = [deviation / (7**0.5 + 1e-4) for deviation in (-2, -1, 3)]
    return got[0] == pytest.approx(wanted, abs=1e-9) and got[1] == pytest.approx([0, 0, 0])


def centred(rewards):
    return rewards - rewards.mean(1, keepdim=True)


LEAVE_ONE_OUT_MUTANTS = {
    "baseline has one's own sample": centred,
    "no baseline": lambda r: r,
    "sign flipped": lambda r: -leave_one_out_advantages(r),
    "baseline of the whole batch": lambda r: r - (r.sum() - r) / (r.numel() - 1),
    "divided by K": lambda r: r - (r.sum(1, keepdim=True) - r) / r.shape[1],
    "standard deviation taken": group_advantages,
    "first sample as baseline": lambda r: r - r[:, :1],
}
GROUP_MUTANTS = {
    "sign flipped": lambda r: -group_advantages(r),
    "no standard deviation": centred,
    "variance": lambda r: centred(r) / (r.var(1, keepdim=True) + 1e-4),
    "divided by K": lambda r: centred(r) / (r.std(1, keepdim=True, correction=0) + 1e-4),
    "mean not subtracted": lambda r: r / (r.std(1, keepdim=True) + 1e-4),
    "spread of the whole batch": lambda r: centred(r) / (r.std() + 1e-4),
    "no epsilon": lambda r: centred(r) / r.std(1, keepdim=True),
    "leave one out": leave_one_out_advantages,
}


def test_group_checks_pass_what_is_right_and_no_mutant():
    assert check_leave_one_out(leave_one_out_advantages)
    assert check_group(group_advantages)
    for name, mutant in LEAVE_ONE_OUT_MUTANTS.items():
        assert not check_leave_one_out(mutant), name
    for name, mutant in GROUP_MUTANTS.items():
        assert not check_group(mutant), name


@given(groups())
def test_leave_one_out_agrees_with_the_slow_loop_and_with_its_closed_form(rewards):
    advantages = leave_one_out_advantages(rewards)
    wanted = torch.tensor(slow_leave_one_out(rewards))
    torch.testing.assert_close(advantages, wanted, rtol=0, atol=1e-12)
    k = rewards.shape[1]
    torch.testing.assert_close(advantages, k / (k - 1) * centred(rewards), rtol=0, atol=1e-12)
    assert advantages.sum(1).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("advantages", "share"), [(leave_one_out_advantages, 1.0), (centred, 2 / 3)]
)
def test_leaving_oneself_out_keeps_the_gradient_unbiased(advantages, share):
    """All triples of samples from 3 actions enumerated: E[mean of A grad log pi] is grad E[r]."""
    logits, reward = float64([0.3, -0.5, 1.0]).requires_grad_(), float64([2.0, -1.0, 0.5])
    (reward @ logits.softmax(0)).backward()
    expected = torch.zeros(3, dtype=torch.float64)
    logprobs = logits.detach().log_softmax(0)
    for drawn in itertools.product(range(3), repeat=3):
        index = torch.tensor(drawn)
        score = torch.eye(3, dtype=torch.float64)[index] - logprobs.exp()  # grad log pi
        probability = logprobs[index].sum().exp()
        expected += probability * (advantages(reward[index][None])[0] @ score) / 3
    torch.testing.assert_close(expected, share * logits.grad, rtol=1e-12, atol=1e-15)


@given(groups())
def test_group_advantages_agree_with_scipy(rewards):
    got = group_advantages(rewards, epsilon=0.0).numpy()
    numpy.testing.assert_allclose(got, scipy.stats.zscore(rewards.numpy(), axis=1, ddof=1), 1e-9)
    plain = group_advantages(rewards, scale=False)
    torch.testing.assert_close(plain, centred(rewards), rtol=0, atol=1e-12)


@given(groups(), st.floats(-5, 5), st.floats(0.1, 10))
def test_a_prompts_level_changes_no_advantage_and_its_scale_only_some(rewards, shift, scale):
    for function in (leave_one_out_advantages, group_advantages):
        moved = function(rewards + shift)
        torch.testing.assert_close(moved, function(rewards), rtol=1e-6, atol=1e-9)
    got = leave_one_out_advantages(scale * rewards)
    torch.testing.assert_close(got, scale * leave_one_out_advantages(rewards), rtol=1e-9, atol=1e-9)
    got = group_advantages(scale * rewards, epsilon=0.0)
    torch.testing.assert_close(got, group_advantages(rewards, epsilon=0.0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("function", [leave_one_out_advantages, group_advantages])
def test_groups_carry_no_gradient_and_refuse_what_is_none(function):
    assert not function(torch.zeros(2, 3, requires_grad=True) + 1).requires_grad
    for shape in ((4,), (4, 1), (2, 2, 2)):
        with pytest.raises(ValueError, match=r"rewards must be \(B, K\) with K >= 2 .* got \("):
            function(torch.zeros(shape))
