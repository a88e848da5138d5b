"""advantages.py: sums, a linear solve, the forward view, and what must change nothing."""

import math
from functools import partial

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirlhf.maths.advantages import gae, token_rewards

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
