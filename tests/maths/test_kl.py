"""kl.py by enumeration, by integration, against scipy, and the controllers' golden paths."""

import itertools
import math
from functools import partial

import pytest
import scipy.integrate
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirlhf.maths.kl import (
    best_of_n_kl,
    doubling_kl_coef,
    exact_kl,
    k1,
    k2,
    k3,
    proportional_kl_coef,
)

float64 = partial(torch.tensor, dtype=torch.float64)
ESTIMATORS = [k1, k2, k3]
by_name = {"ids": lambda function: function.__name__}


def random_logits(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def two_policies(seed, actions=6):
    return random_logits(2, actions, seed=seed).log_softmax(-1)


# --- estimators ----------------------------------------------------------------------------


@given(st.integers(0, 10_000))
def test_k1_and_k3_average_to_the_kl_exactly(seed):
    """Enumerated over all actions, so there is no sampling noise to hide behind."""
    policy, reference = two_policies(seed)
    wanted = scipy.special.rel_entr(policy.exp().numpy(), reference.exp().numpy()).sum()
    for estimator in (k1, k3):
        mean = (policy.exp() * estimator(policy, reference)).sum().item()
        assert mean == pytest.approx(wanted, rel=1e-12)
    assert exact_kl(policy, reference).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("shift", "bias", "deviation"),
    [(0.1, (0, 0.0025, 0), (20.0, 1.418, 1.417)), (1.0, (0, 0.25, 0), (2.0, 1.732, 1.695))],
)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_bias_and_spread_between_two_gaussians(shift, bias, deviation, which):
    """Schulman's table: samples from N(0, 1), reference N(shift, 1); both relative to the KL."""

    def log_density(x, mean):
        return float64(-((x - mean) ** 2) / 2 - math.log(2 * math.pi) / 2)

    def moment(power):
        def integrand(x):
            estimate = ESTIMATORS[which](log_density(x, 0), log_density(x, shift)).item()
            return math.exp(log_density(x, 0).item()) * estimate**power

        return scipy.integrate.quad(integrand, -12, 12, epsabs=1e-12)[0]

    kl = shift**2 / 2
    assert moment(1) / kl - 1 == pytest.approx(bias[which], abs=1e-6)
    spread = math.sqrt(moment(2) - moment(1) ** 2) / kl
    assert spread == pytest.approx(deviation[which], abs=1e-3)


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_k2_and_k3_are_never_negative_and_0_at_equality(logprob, ref_logprob):
    pair = float64(logprob), float64(ref_logprob)
    for estimator in (k2, k3):
        assert estimator(*pair) >= 0
        assert estimator(pair[0], pair[0]) == 0
    assert k1(*pair) == -k1(*reversed(pair))


def test_k3_keeps_its_digits_near_zero():
    """The series d^2 / 2 - d^3 / 6: a plain exp(-d) - 1 + d has no digit left there."""
    tiny = 1e-6
    wanted = tiny**2 / 2 - tiny**3 / 6
    assert k3(float64(0.0), float64(-tiny)).item() == pytest.approx(wanted, rel=1e-3)


def test_gradients_on_policy():
    """As a loss k1 teaches nothing, k2 has the KL's gradient, k3 has another one."""
    logits = random_logits(6, seed=3).requires_grad_()
    reference = random_logits(6, seed=4).log_softmax(-1)
    policy = logits.log_softmax(-1)

    def gradient(value):
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    true = gradient(exact_kl(logits, reference))
    as_loss = [
        gradient((policy.detach().exp() * one(policy, reference)).sum()) for one in ESTIMATORS
    ]
    torch.testing.assert_close(as_loss[0], torch.zeros(6).double(), rtol=0, atol=1e-15)
    torch.testing.assert_close(as_loss[1], true, rtol=1e-12, atol=1e-15)
    assert (as_loss[2] - true).abs().max() > 0.05


def test_k1_of_the_tokens_sums_to_the_sequences_log_ratio():
    """And so its mean over all 3^3 sequences is the KL of the sequence distributions."""
    tables = random_logits(2, 3, 3, 3, seed=5).log_softmax(-1)  # model, position, previous, next
    kl_by_sequences = kl_by_tokens = 0.0
    for sequence in itertools.product(range(3), repeat=3):
        previous = (0, *sequence[:-1])
        tokens = torch.stack(
            [tables[:, t, a, b] for t, (a, b) in enumerate(zip(previous, sequence, strict=True))], 1
        )
        whole, ref_whole = (math.prod(row.exp().tolist()) for row in tokens)
        summed = k1(tokens[0], tokens[1]).sum().item()
        assert summed == pytest.approx(math.log(whole / ref_whole), abs=1e-12)
        kl_by_sequences += whole * math.log(whole / ref_whole)
        kl_by_tokens += whole * summed
    assert kl_by_tokens == pytest.approx(kl_by_sequences, abs=1e-12)
    # Chain rule: the same number from exact_kl, position by position
    chain, at = 0.0, float64([1.0, 0.0, 0.0])
    for t in range(3):
        chain += (at * exact_kl(tables[0, t], tables[1, t])).sum().item()
        at = at @ tables[0, t].exp()
    assert chain == pytest.approx(kl_by_sequences, abs=1e-12)


@pytest.mark.parametrize("function", [*ESTIMATORS, exact_kl], **by_name)
def test_shapes_must_agree(function):
    with pytest.raises(ValueError, match=r"shapes differ: .* \(2, 3\), ref_.* \(2, 4\)"):
        function(torch.zeros(2, 3), torch.zeros(2, 4))


# --- exact_kl ------------------------------------------------------------------------------


@given(st.integers(0, 10_000))
def test_exact_kl_agrees_with_torchs_distributions(seed):
    logits, ref_logits = random_logits(2, 2, 3, 7, seed=seed)
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logits),
        torch.distributions.Categorical(logits=ref_logits),
    )
    got = exact_kl(logits + 3.0, ref_logits - 2.0)
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-13)


def test_exact_kl_with_forbidden_tokens():
    inf = math.inf
    logits = float64([[0.0, 0.0, -inf]]).requires_grad_()
    kl = exact_kl(logits, float64([[0.0, 0.0, 0.0]]))
    assert kl.item() == pytest.approx(math.log(1.5), abs=1e-15)
    kl.sum().backward()
    assert logits.grad.isfinite().all()
    assert exact_kl(float64([0.0, 0.0]), float64([0.0, -inf])).item() == inf
    assert exact_kl(float64([0.0, -inf]), float64([5.0, -inf])).item() == 0


def test_exact_kl_of_half_precision_is_computed_in_float32():
    logits, ref_logits = random_logits(2, 5, seed=0).bfloat16()
    got = exact_kl(logits, ref_logits)
    assert got.dtype == torch.float32
    wanted = exact_kl(logits.double(), ref_logits.double()).item()
    assert got.item() == pytest.approx(wanted, rel=1e-5)


# --- best of n -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "wanted"), [(8, 1.20), (64, 3.17), (128, 3.86), (256, 4.55), (512, 5.24), (1000, 5.91)]
)
def test_best_of_n_golden_numbers(n, wanted):
    assert best_of_n_kl(n) == pytest.approx(wanted, abs=0.005)


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_best_of_n_is_the_kl_of_the_largest_of_n_uniform_numbers(n):
    def integrand(u):
        density = n * u ** (n - 1)
        return density * math.log(density) if density else 0.0

    assert best_of_n_kl(n) == pytest.approx(scipy.integrate.quad(integrand, 0, 1)[0], abs=1e-8)


def test_best_of_n_is_an_upper_bound_where_rewards_are_discrete():
    """K equally likely outcomes: P(best of 64 is outcome i) = ((i + 1)/K)^64 - (i/K)^64."""
    n, exact = 64, []
    for outcomes in (10, 100, 10_000):
        best = [((i + 1) / outcomes) ** n - (i / outcomes) ** n for i in range(outcomes)]
        exact.append(sum(p * math.log(p * outcomes) for p in best if p))
    assert exact[0] <= math.log(10)  # ten outcomes cannot be further apart than that
    assert exact == sorted(exact)
    assert exact[-1] <= best_of_n_kl(n) == pytest.approx(exact[-1], abs=1e-5)


# --- controllers ---------------------------------------------------------------------------


def test_proportional_controller_golden_path():
    path, kl_coef = [], 0.15
    for observed in (0, 3, 6, 6.6, 9, 20):
        kl_coef = proportional_kl_coef(kl_coef, observed, 6.0, episodes=512, horizon=10_000)
        path.append(kl_coef)
    wanted = [0.148464, 0.14694373, 0.14694373, 0.14769608, 0.14920849, 0.15073638]
    assert path == pytest.approx(wanted, abs=6e-9)


@given(st.floats(0, 100), st.floats(0.1, 20), st.integers(1, 2000))
def test_proportional_controller_turns_the_right_way_and_not_too_far(observed, target, episodes):
    factor = proportional_kl_coef(1.0, observed, target, episodes, 10_000)
    assert (factor - 1) * (observed - target) >= 0
    assert abs(factor - 1) <= 0.2 * episodes / 10_000 + 1e-12


def test_proportional_controller_finds_the_coefficient():
    """On a process whose KL is 1 / kl_coef it settles where the KL is the target."""
    kl_coef = 0.15
    for _ in range(2000):
        kl_coef = proportional_kl_coef(kl_coef, 1 / kl_coef, 6.0, 512, 10_000)
    assert 1 / kl_coef == pytest.approx(6.0, rel=1e-6)


@given(st.floats(0, 1), st.floats(1e-3, 1))
def test_doubling_controller_has_a_dead_zone_of_1_5(observed, target):
    factor = doubling_kl_coef(1.0, observed, target)
    if observed / target > 1.5 * (1 + 1e-9):
        assert factor == 2
    elif observed / target < (1 - 1e-9) / 1.5:
        assert factor == 0.5
    elif 1.01 / 1.5 < observed / target < 1.49:
        assert factor == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_of_n_kl(0), "n must be at least 1, got 0"),
        (lambda: proportional_kl_coef(0.1, 1, 0, 1, 1), "target_kl must be positive, got 0"),
        (lambda: proportional_kl_coef(0.1, 1, 1, 0, 1), "episodes must be positive, got 0"),
        (lambda: proportional_kl_coef(0.1, 1, 1, 1, 0), "horizon must be positive, got 0"),
        (lambda: doubling_kl_coef(0.1, 1, math.nan), "target_kl must be positive, got nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
