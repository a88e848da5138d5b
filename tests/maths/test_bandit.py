"""PPO by the package's formulas reaches the optimum that mathematics gives.

The policy that maximises E[score] - kl_coef KL(pi || pi_ref) is pi*(y) ~ pi_ref(y) exp(score /
kl_coef). Every response is enumerated, weighted by its probability under the sampling policy, so
there is no noise: what does not converge to pi* is a wrong formula.
"""

import itertools
import math
from functools import partial

import pytest
import torch

from minirlhf.maths.advantages import gae, token_rewards
from minirlhf.maths.kl import exact_kl
from minirlhf.maths.losses import policy_loss, policy_penalty_loss, value_loss
from minirlhf.maths.masked import gather_logprobs, response_mask

float64 = partial(torch.tensor, dtype=torch.float64)
EOS, VOCABULARY, LENGTH = 2, 3, 2
LOSSES = {
    "clip": policy_loss,
    "penalty": partial(policy_penalty_loss, penalty_coef=0.1),
}


def all_responses():
    """(N, R) ids and mask: "E.", "aE", "ab", ... each response once, whatever follows its EOS."""
    ids = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=LENGTH)))
    mask = response_mask(ids, EOS)
    first_of_its_kind = mask[:, 1] | (ids[:, 1] == 0)
    return ids[first_of_its_kind], mask[first_of_its_kind]


def logprobs_of(table, ids):
    """(N, R): row 0 of the table is the start; row 1 + a follows first token a."""
    states = torch.stack([torch.zeros(len(ids), dtype=torch.long), 1 + ids[:, 0]], 1)
    return gather_logprobs(table[states], ids), states


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("gae_lambda", [1.0, 0.5])
def test_ppo_converges_to_the_tilted_reference(loss, gae_lambda):
    ids, mask = all_responses()
    assert len(ids) == 1 + 2 * 3
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(1 + VOCABULARY, VOCABULARY, dtype=torch.float64, generator=generator)
    scores = torch.randn(len(ids), dtype=torch.float64, generator=generator)
    kl_coef = 0.5
    ref_logprobs, states = logprobs_of(reference, ids)
    log_reference = torch.where(mask, ref_logprobs, 0.0).sum(-1)
    assert log_reference.exp().sum().item() == pytest.approx(1, abs=1e-12)
    target = (log_reference + scores / kl_coef).softmax(-1)

    policy = reference.clone().requires_grad_()
    value = torch.zeros(1 + VOCABULARY, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [policy], "lr": 0.03}, {"params": [value], "lr": 0.1}])
    for _ in range(300):
        with torch.no_grad():
            old_logprobs, _ = logprobs_of(policy, ids)
            old_values = value[states].clone()
            weights = torch.where(mask, old_logprobs, 0.0).sum(-1, keepdim=True).exp()
        rewards = token_rewards(scores, old_logprobs, ref_logprobs, mask, kl_coef)
        advantages, returns = gae(rewards, old_values, mask, 1.0, gae_lambda)
        for _ in range(2):
            logprobs, _ = logprobs_of(policy, ids)
            # count=1 makes the mean a sum, and the weights make that sum an expectation.
            total = loss(logprobs, old_logprobs, weights * advantages, mask, count=1)
            root = weights.sqrt()
            total = total + value_loss(
                root * value[states], root * old_values, root * returns, mask, None, count=1
            )
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    learnt = torch.where(mask, logprobs_of(policy, ids)[0], 0.0).sum(-1).detach()
    assert learnt.exp().tolist() == pytest.approx(target.tolist(), abs=1e-4)
    objective = (learnt.exp() * (scores - kl_coef * (learnt - log_reference))).sum().item()
    best = kl_coef * (log_reference + scores / kl_coef).logsumexp(-1).item()
    assert objective == pytest.approx(best, abs=1e-6)
    assert value[0].item() == pytest.approx(best, abs=1e-3)  # and the value model knows it


def test_the_three_armed_bandit_of_the_reference_notes():
    """pi_SFT = (.5, .3, .2), r = (1, 0, .2), beta = .5: pi* = (.8606, .0699, .0695), J = .7285."""
    reference, scores, kl_coef = float64([0.5, 0.3, 0.2]).log(), float64([1.0, 0.0, 0.2]), 0.5
    logits = reference.clone().requires_grad_()
    ones = torch.ones(3, 1).bool()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(400):
        old = logits.detach().log_softmax(-1)
        rewards = token_rewards(scores, old[:, None], reference[:, None], ones, kl_coef)
        baseline = (old.exp() @ rewards).expand(3).unsqueeze(-1)
        advantages, _ = gae(rewards, baseline, ones)
        new = logits.log_softmax(-1)
        loss = policy_loss(
            new[:, None], old[:, None], old.exp()[:, None] * advantages, ones, count=1
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    policy = logits.detach().softmax(-1)
    assert policy.tolist() == pytest.approx([0.8606, 0.0699, 0.0695], abs=5e-5)
    kl = exact_kl(logits.detach(), reference).item()
    assert (policy @ scores).item() - kl_coef * kl == pytest.approx(0.7285, abs=5e-5)


def test_the_published_mistake_collapses():
    """Without the importance weight on the KL term the "penalty" pays for leaving pi_SFT.

    Ascent on E_SFT[w r - beta log w] instead of E_SFT[w (r - beta log w)], w = pi / pi_SFT.
    """
    reference, scores, kl_coef = float64([0.5, 0.3, 0.2]), float64([1.0, 0.0, 0.2]), 0.5
    logits = reference.log().clone().requires_grad_()
    claimed = []
    for _ in range(400):
        log_weight = logits.log_softmax(-1) - reference.log()
        objective = (reference * (log_weight.exp() * scores - kl_coef * log_weight)).sum()
        (gradient,) = torch.autograd.grad(objective, logits)
        logits = (logits + gradient).detach().requires_grad_()
        claimed.append(objective.item())
    assert logits.softmax(-1)[0] > 0.999
    assert claimed == sorted(claimed)  # it rises and rises, far beyond the true optimum
    assert claimed[-1] > 10 * kl_coef * math.log((reference * (scores / kl_coef).exp()).sum())
