"""preferences.py against slow loops, enumeration, scipy, torch and its own invariants."""

import itertools
import math
from collections import Counter
from functools import partial

import numpy
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirlhf.maths.preferences import (
    best_of_k_loss,
    bradley_terry_loss,
    davidson_probs,
    dpo_loss,
    pair_accuracy,
    plackett_luce_loss,
    ranking_loss,
    ranking_to_pairs,
    rao_kupper_probs,
)

float64 = partial(torch.tensor, dtype=torch.float64)
LN2 = math.log(2)
NAN = math.nan


def dpo_of_scores(scores, ranks, count=None):
    """DPO whose own rewards, beta log(pi / pi_ref), are these scores."""
    return dpo_loss(scores, torch.zeros_like(scores), ranks, beta=1.0, count=count)


LOSSES = [ranking_loss, plackett_luce_loss, best_of_k_loss, dpo_of_scores]
by_name = {"ids": lambda function: function.__name__}
rankings = st.lists(st.integers(0, 4), min_size=1, max_size=6)
# The worked example of the reference notes: scores in the labeler's order, best first
FOUR = torch.tensor([[2.0, 1.0, 0.3, -0.7]], dtype=torch.float64)
IN_ORDER = torch.tensor([[1, 2, 3, 4]])


@st.composite
def batches(draw, max_k=5, ties=True):
    """scores (B, K) float64 and ranks (B, K) with empty slots, at least one pair in prompt 0."""
    prompts, k = draw(st.integers(1, 3)), draw(st.integers(2, max_k))
    ranks = []
    for _ in range(prompts):
        if ties:
            ranks.append(draw(st.lists(st.integers(0, 4), min_size=k, max_size=k)))
        else:
            ranks.append(draw(st.permutations(range(1, k + 1))))
    ranks[0][:2] = [1, 2] if ties else ranks[0][:2]
    seed = draw(st.integers(0, 10_000))
    scores = 2 * torch.randn(
        prompts, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return scores, torch.tensor(ranks)


def log_odds_loss(lead):
    return math.log1p(math.exp(-lead))


def slow_ranking_loss(scores, ranks, ties="drop", theta=1.5):
    """Prompt by prompt, pair by pair, in plain Python."""
    prompts = []
    for row, rank in zip(scores.tolist(), ranks.tolist(), strict=True):
        terms = []
        for i, j in itertools.combinations(range(len(rank)), 2):
            if not rank[i] or not rank[j]:
                continue
            a, b = math.exp(row[i]), math.exp(row[j])
            if ties == "rao_kupper":
                win, loss = a / (a + theta * b), b / (b + theta * a)
                tie = 1 - win - loss
            else:
                win, loss = a / (a + b), b / (a + b)
                tie = math.sqrt(win * loss)  # half a win and half a defeat
            if rank[i] != rank[j]:
                terms.append(-math.log(win if rank[i] < rank[j] else loss))
            elif ties != "drop":
                terms.append(-math.log(tie))
        if terms:
            prompts.append(sum(terms) / len(terms))
    return sum(prompts) / len(prompts)


# --- ranking_to_pairs ----------------------------------------------------------------------


@given(rankings)
def test_pairs_are_all_the_strict_preferences_once(ranks):
    pairs = ranking_to_pairs(ranks)
    assert all(0 < ranks[better] < ranks[worse] for better, worse in pairs)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    present = [rank for rank in ranks if rank]
    tied = sum(math.comb(n, 2) for n in Counter(present).values())
    assert len(pairs) == math.comb(len(present), 2) - tied


@given(rankings, st.randoms(use_true_random=False))
def test_pairs_follow_the_responses_when_they_are_shuffled(ranks, random):
    order = list(range(len(ranks)))
    random.shuffle(order)
    shuffled = ranking_to_pairs([ranks[i] for i in order])
    assert {(order[i], order[j]) for i, j in shuffled} == set(ranking_to_pairs(ranks))


@pytest.mark.parametrize("bad", [-1, 1.5, NAN])
def test_pairs_refuse_what_is_no_rank(bad):
    with pytest.raises(ValueError, match=f"whole numbers from 1, .* got {bad}"):
        ranking_to_pairs([1, bad])


# --- bradley_terry_loss --------------------------------------------------------------------


@given(st.floats(-700, 700), st.floats(-700, 700), st.floats(0, 3))
def test_bradley_terry_agrees_with_numpy_and_scipy(chosen, rejected, margin):
    pair = [torch.tensor([x], dtype=torch.float64) for x in (chosen, rejected)]
    loss = bradley_terry_loss(*pair, margin=margin).item()
    lead = chosen - rejected - margin
    assert loss == pytest.approx(numpy.logaddexp(0, -lead), rel=1e-12, abs=1e-300)
    assert loss == pytest.approx(-scipy.stats.logistic.logcdf(lead), rel=1e-9, abs=1e-300)


@given(st.floats(-20, 20), st.floats(-20, 20))
def test_one_of_the_two_wins(a, b):
    a, b = (torch.tensor([x], dtype=torch.float64) for x in (a, b))
    probabilities = (-bradley_terry_loss(a, b)).exp() + (-bradley_terry_loss(b, a)).exp()
    assert probabilities.item() == pytest.approx(1, abs=1e-12)


def test_bradley_terry_gradient_is_the_probability_of_being_wrong():
    lead = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    bradley_terry_loss(lead, torch.zeros_like(lead)).sum().backward()
    wanted = [-1 / (1 + math.exp(x)) for x in (-2.0, 0.0, 3.0)]
    torch.testing.assert_close(lead.grad, float64(wanted), rtol=1e-7, atol=0)


def test_bradley_terry_takes_a_margin_for_each_pair():
    zeros = torch.zeros(2).double()
    loss = bradley_terry_loss(zeros, zeros, margin=float64([0.0, 1.0]))
    assert loss.tolist() == pytest.approx([LN2, log_odds_loss(-1.0)], rel=1e-12)


def test_bradley_terry_refuses_scores_that_do_not_pair_up():
    with pytest.raises(ValueError, match=r"chosen_scores \(2,\), rejected_scores \(3,\)"):
        bradley_terry_loss(torch.zeros(2), torch.zeros(3))


# --- ranking_loss --------------------------------------------------------------------------


@given(batches(), st.sampled_from(["drop", "half", "rao_kupper"]), st.floats(1.05, 4))
def test_ranking_loss_agrees_with_the_slow_loop(batch, ties, theta):
    wanted = slow_ranking_loss(*batch, ties, theta)
    assert ranking_loss(*batch, ties, theta=theta).item() == pytest.approx(wanted, rel=1e-9)


def test_ranking_loss_golden_numbers():
    moon = float64([[5.4, 5.4, 8.2, 9.4]]), torch.tensor([[3, 3, 2, 1]])
    assert ranking_loss(*moon).item() == pytest.approx(0.0835, abs=5e-5)  # / 5; 0.0696 were / 6
    assert ranking_loss(FOUR, IN_ORDER).item() == pytest.approx(0.238388, abs=5e-7)
    two = torch.cat([FOUR, float64([[0.1, 0.4, NAN, NAN]])])
    two_ranks = torch.tensor([[1, 2, 3, 4], [1, 2, 0, 0]])
    assert ranking_loss(two, two_ranks).item() == pytest.approx(0.546371, abs=5e-7)
    pooled = (6 * 0.238388 + log_odds_loss(-0.3)) / 7  # what the other reading would give
    assert pooled == pytest.approx(0.326383, abs=5e-7)


@given(batches(ties=False))
def test_ranking_loss_of_two_is_the_mean_bradley_terry_loss(batch):
    scores, ranks = batch[0][:, :2], torch.tensor([[2, 1]]).expand(len(batch[0]), 2)
    wanted = bradley_terry_loss(scores[:, 1], scores[:, 0]).mean()
    for loss in LOSSES:
        assert loss(scores, ranks).item() == pytest.approx(wanted.item(), rel=1e-12)


@pytest.mark.parametrize("ties", ["drop", "half"])
def test_ranking_loss_is_log_2_at_equal_scores(ties):
    ranks = torch.tensor([[1, 2, 2, 3], [4, 3, 0, 1]])
    loss = ranking_loss(torch.full((2, 4), 7.0).double(), ranks, ties)
    assert loss.item() == pytest.approx(LN2, abs=1e-15)


@pytest.mark.parametrize("loss", LOSSES, **by_name)
@given(batch=batches(), seed=st.integers(0, 1000))
def test_what_changes_no_loss(loss, batch, seed):
    """A constant per prompt, gaps between ranks, the order of responses, more empty slots."""
    scores, ranks = batch
    wanted = loss(scores, ranks).item()
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn(len(scores), 1, generator=generator).double()
    assert loss(scores + shift, ranks).item() == pytest.approx(wanted, rel=1e-9)
    with_gaps = torch.where(ranks > 0, 2 * ranks + 1, 0)  # 1, 2, 4 says no more than 3, 5, 9
    assert loss(scores, with_gaps).item() == pytest.approx(wanted, rel=1e-12)
    responses = torch.randperm(scores.shape[1], generator=generator)
    prompts = torch.randperm(len(scores), generator=generator)
    shuffled = scores[prompts][:, responses], ranks[prompts][:, responses]
    assert loss(*shuffled).item() == pytest.approx(wanted, rel=1e-12)
    for rubbish in (NAN, math.inf, -math.inf):
        wider = torch.cat([torch.full((len(scores), 2), rubbish).double(), scores], 1)
        wider = torch.where(
            torch.cat([torch.zeros(len(ranks), 2).long(), ranks], 1) > 0, wider, rubbish
        ).requires_grad_()
        wider_ranks = torch.cat([torch.zeros(len(ranks), 2).long(), ranks], 1)
        result = loss(wider, wider_ranks)
        assert result.item() == pytest.approx(wanted, rel=1e-12)
        (gradient,) = torch.autograd.grad(result, wider)
        assert gradient.isfinite().all()
        assert not gradient[wider_ranks == 0].any()


@pytest.mark.parametrize("loss", LOSSES, **by_name)
@given(batch=batches())
def test_the_gradient_moves_no_prompts_mean_score(loss, batch):
    """Only differences count, so the gradients of a prompt's scores sum to 0."""
    scores, ranks = batch[0].requires_grad_(), batch[1]
    loss(scores, ranks).backward()
    torch.testing.assert_close(
        scores.grad.sum(1), torch.zeros(len(ranks)).double(), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("loss", LOSSES, **by_name)
def test_micro_batches_with_count_add_up(loss):
    scores = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ranks = torch.tensor(
        [[1, 2, 3, 4], [2, 2, 1, 0], [1, 1, 1, 1], [0, 0, 1, 2], [3, 0, 0, 0], [4, 3, 2, 1]]
    )
    whole, parts = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    loss(whole, ranks).backward()
    for rows in ([0, 1], [2], [3, 4, 5]):  # [2] alone has no pair: it adds 0
        loss(parts[rows], ranks[rows], count=4).backward()  # rows 2 and 4 have no pair
    torch.testing.assert_close(whole.grad, parts.grad, rtol=0, atol=1e-16)


# --- Plackett-Luce and best-of-K -----------------------------------------------------------


def plackett_luce(scores, order):
    """P(order) by repeated choice from what is left, in plain Python."""
    probability, left = 1.0, list(order)
    for pick in order:
        probability *= math.exp(scores[pick]) / sum(math.exp(scores[j]) for j in left)
        left.remove(pick)
    return probability


def test_plackett_luce_is_a_distribution_over_all_24_rankings():
    scores, total, first = FOUR[0].tolist(), 0.0, Counter()
    for order in itertools.permutations(range(4)):
        ranks = torch.tensor([[order.index(i) + 1 for i in range(4)]])
        probability = math.exp(-plackett_luce_loss(FOUR, ranks).item())
        assert probability == pytest.approx(plackett_luce(scores, order), rel=1e-12)
        total += probability
        first[order[0]] += probability
    assert total == pytest.approx(1, abs=1e-12)
    for best, probability in first.items():  # and the best-of-4 loss is its first choice
        ranks = torch.tensor([[1 if i == best else 2 for i in range(4)]])
        assert math.exp(-best_of_k_loss(FOUR, ranks).item()) == pytest.approx(
            probability, rel=1e-12
        )


def test_ranking_likelihoods_golden_numbers():
    assert plackett_luce_loss(FOUR, IN_ORDER).item() == pytest.approx(1.312668, abs=5e-7)
    assert best_of_k_loss(FOUR, IN_ORDER).item() == pytest.approx(0.481048, abs=5e-7)


@given(batches(ties=False))
def test_best_of_k_is_cross_entropy(batch):
    scores, ranks = batch
    wanted = torch.nn.functional.cross_entropy(scores, ranks.argmin(-1))
    assert best_of_k_loss(scores, ranks).item() == pytest.approx(wanted.item(), rel=1e-12)


def test_tied_responses_do_not_meet():
    """A = B > C: each of A and B against C alone, in both likelihoods."""
    scores, ranks = float64([[0.5, -0.2, 0.1]]), torch.tensor([[1, 1, 2]])
    against_c = log_odds_loss(0.4), log_odds_loss(-0.3)
    assert plackett_luce_loss(scores, ranks).item() == pytest.approx(sum(against_c), rel=1e-12)
    assert best_of_k_loss(scores, ranks).item() == pytest.approx(sum(against_c) / 2, rel=1e-12)


# --- DPO -----------------------------------------------------------------------------------


def slow_dpo(logprobs, ref, ranks, beta):
    """Rafailov et al., eq. 7, from probabilities, pair by pair; mean over a prompt's pairs."""
    prompts = []
    for p, q, own in zip(logprobs.tolist(), ref.tolist(), ranks.tolist(), strict=True):
        terms = []
        for w, lose in itertools.permutations(range(len(own)), 2):
            if own[w] and own[lose] and own[w] < own[lose]:
                odds = (math.exp(p[w] - q[w]) / math.exp(p[lose] - q[lose])) ** beta
                terms.append(-math.log(odds / (1 + odds)))
        if terms:
            prompts.append(sum(terms) / len(terms))
    return sum(prompts) / len(prompts)


def check_dpo(loss):
    """By hand: beta 0.5; log-ratios 1, -1, -1 of ranks 1, 2, 2: two pairs of lead 1; and 2 against
    -2, the wrong way round: lead -2. Empty slot last."""
    logprobs = float64([[-1.0, -4.0, -3.0], [-2.0, -3.0, NAN]]).requires_grad_()
    ref = float64([[-2.0, -3.0, -2.0], [-4.0, -1.0, NAN]]).requires_grad_()
    ranks = torch.tensor([[1, 2, 2], [2, 1, 0]])
    value = loss(logprobs, ref, ranks, 0.5)
    value.backward()
    right = 1 / (1 + math.exp(1)), 1 / (1 + math.exp(-2))  # probability of being wrong
    slopes = (
        [0.5 * right[0] / 2 * x for x in (-1, 0.5, 0.5)],
        [0.5 * right[1] / 2, -0.5 * right[1] / 2],
    )
    return (
        value.item() == pytest.approx((log_odds_loss(1) + log_odds_loss(-2)) / 2, abs=1e-9)
        and logprobs.grad[0].tolist() == pytest.approx(slopes[0], abs=1e-9)
        and logprobs.grad[1, :2].tolist() == pytest.approx(slopes[1], abs=1e-9)
        and ref.grad is None
    )


DPO_MUTANTS = {
    "sign flipped": lambda p, q, r, beta: dpo_loss(-p, -q, r, beta),
    "reference missing": lambda p, q, r, beta: ranking_loss(beta * p, r),
    "reference trained": lambda p, q, r, beta: ranking_loss(beta * (p - q), r),
    "beta missing": lambda p, q, r, beta: dpo_loss(p, q, r, 1.0),
    "beta outside": lambda p, q, r, beta: beta * dpo_loss(p, q, r, 1.0),
    "worst is best": lambda p, q, r, beta: dpo_loss(p, q, torch.where(r > 0, 4 - r, 0), beta),
    "empty slot counted": lambda p, q, r, beta: dpo_loss(
        p.nan_to_num(-9.0), q.nan_to_num(-9.0), torch.where(r > 0, r, 3), beta
    ),
    "pairs pooled": lambda p, q, r, beta: -torch.nn.functional.logsigmoid(
        beta * torch.stack([p[b, i] - q[b, i] - p[b, j] + q[b, j] for b in range(2)
                            for i, j in ranking_to_pairs(r[b].tolist())])
    ).mean(),
}  # fmt: skip


def test_the_check_of_dpo_passes_what_is_right_and_no_mutant():
    assert check_dpo(dpo_loss)
    for name, mutant in DPO_MUTANTS.items():
        assert not check_dpo(mutant), name


@given(batches(), st.floats(0.05, 2), st.integers(0, 1000))
def test_dpo_agrees_with_the_slow_loop(batch, beta, seed):
    scores, ranks = batch
    ref = torch.randn(scores.shape, generator=torch.Generator().manual_seed(seed)).double()
    wanted = slow_dpo(scores, ref, ranks, beta)
    assert dpo_loss(scores, ref, ranks, beta).item() == pytest.approx(wanted, rel=1e-9)


def test_dpo_of_a_bandit_finds_the_tilted_policy():
    """Rankings drawn from Bradley-Terry by a reward: the best fit is pi_ref exp(r / beta) / Z.

    All pairs of 4 actions, weighted by how often each side wins, so that nothing is sampled.
    """
    reward, ref = float64([1.0, 0.0, -0.5, 0.4]), float64([0.4, 0.3, 0.2, 0.1]).log()
    beta, logits = 0.5, torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-10)

    def closure():
        optimiser.zero_grad()
        pi, loss = logits.log_softmax(0), 0.0
        for i, j in itertools.permutations(range(4), 2):
            wins = torch.sigmoid(reward[i] - reward[j])
            pair, pair_ref = pi[[i, j]][None], ref[[i, j]][None]
            loss = loss + wins * dpo_loss(pair, pair_ref, torch.tensor([[1, 2]]), beta)
        loss.backward()
        return loss

    optimiser.step(closure)
    wanted = (ref + reward / beta).softmax(0)
    torch.testing.assert_close(logits.detach().softmax(0), wanted, rtol=1e-5, atol=1e-7)


def test_dpo_refuses():
    zeros, ranks = torch.zeros(1, 2), torch.tensor([[1, 2]])
    with pytest.raises(ValueError, match="beta must be positive, got 0"):
        dpo_loss(zeros, zeros, ranks, beta=0)
    with pytest.raises(ValueError, match=r"ref_logprobs \(1, 3\)"):
        dpo_loss(zeros, torch.zeros(1, 3), ranks, beta=0.1)


# --- ties ----------------------------------------------------------------------------------


@given(st.floats(-8, 8), st.floats(1, 5))
def test_rao_kupper_agrees_with_the_strengths(delta, theta):
    a, b = math.exp(delta), 1.0
    wanted = (
        a / (a + theta * b),
        (theta**2 - 1) * a * b / ((a + theta * b) * (b + theta * a)),
        b / (b + theta * a),
    )
    got = [p.item() for p in rao_kupper_probs(float64(delta), theta)]
    assert got == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert sum(got) == pytest.approx(1, abs=1e-12)


@given(st.floats(-8, 8), st.floats(0, 5))
def test_davidson_agrees_with_the_strengths(delta, nu):
    a, b = math.exp(delta), 1.0
    total = a + b + nu * math.sqrt(a * b)
    got = [p.item() for p in davidson_probs(float64(delta), nu)]
    assert got == pytest.approx((a / total, nu * math.sqrt(a * b) / total, b / total), rel=1e-9)
    # Davidson's own statement of it: the tie is nu times the geometric mean of win and loss
    assert got[1] == pytest.approx(nu * math.sqrt(got[0] * got[2]), rel=1e-9, abs=1e-12)


def test_tie_models_golden_numbers():
    delta = float64(0.8)
    kupper = [p.item() for p in rao_kupper_probs(delta, 1.5)]
    davidson = [p.item() for p in davidson_probs(delta, 0.7)]
    # The reference notes print win, loss, tie; here the order is win, tie, loss.
    assert kupper == pytest.approx([0.597, 0.172, 0.231], abs=5e-4)
    assert davidson == pytest.approx([0.521, 0.245, 0.234], abs=5e-4)


# --- pair_accuracy -------------------------------------------------------------------------


@given(st.permutations(range(1, 7)), st.integers(0, 1000))
def test_pair_accuracy_is_kendalls_tau_rescaled(ranks, seed):
    scores = torch.randn(1, 6, generator=torch.Generator().manual_seed(seed)).double()
    tau = scipy.stats.kendalltau(scores[0].numpy(), [-rank for rank in ranks]).statistic
    accuracy = pair_accuracy(scores, torch.tensor([ranks])).item()
    assert accuracy == pytest.approx((tau + 1) / 2, abs=1e-12)


@given(
    st.lists(st.integers(1, 2), min_size=4, max_size=8),
    st.lists(st.integers(0, 3), min_size=8, max_size=8),
)
def test_pair_accuracy_of_good_and_bad_is_the_area_under_the_curve(ranks, scores):
    """With equal scores at half, as in the Mann-Whitney U."""
    ranks[:2], scores = [1, 2], scores[: len(ranks)]
    good = [s for s, rank in zip(scores, ranks, strict=True) if rank == 1]
    bad = [s for s, rank in zip(scores, ranks, strict=True) if rank == 2]
    area = scipy.stats.mannwhitneyu(good, bad).statistic / (len(good) * len(bad))
    got = pair_accuracy(float64([scores]), torch.tensor([ranks])).item()
    assert got == pytest.approx(area, abs=1e-12)


# --- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [*LOSSES, pair_accuracy], **by_name)
def test_nothing_to_learn_is_refused(function):
    for ranks in ([[1, 1, 1]], [[1, 0, 0]], [[0, 0, 0]]):
        with pytest.raises(ValueError, match="no ranking here prefers one response to another"):
            function(torch.zeros(1, 3), torch.tensor(ranks))
    with pytest.raises(ValueError, match=r"s \(1, 3\), ranks \(1, 2\)"):
        function(torch.zeros(1, 3), torch.tensor([[1, 2]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranking_loss(FOUR, IN_ORDER, "keep"), "must be 'drop', 'half' .* got 'keep'"),
        (lambda: ranking_loss(FOUR, IN_ORDER, "rao_kupper", theta=1.0), "theta must be above 1"),
        (lambda: ranking_loss(FOUR, IN_ORDER, count=0), "count must be positive, got 0"),
        (lambda: rao_kupper_probs(FOUR, 0.9), "theta must be at least 1, got 0.9"),
        (lambda: davidson_probs(FOUR, -0.1), "nu must not be negative, got -0.1"),
    ],
)
def test_options_that_make_no_sense_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
