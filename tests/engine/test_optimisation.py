"""minirlhf.engine.optimisation: Adam, schedules, and a step that refuses what is not finite."""

import math

import pytest
import torch
from torch import nn

from minirlhf.engine.optimisation import (
    NotFinite,
    adam,
    check_finite,
    cosine,
    finite,
    optimiser_step,
    warm_up,
)


def test_adam_has_the_papers_betas():
    [group] = adam([("w", nn.Parameter(torch.zeros(1)))], 0.1).param_groups
    assert group["betas"] == (0.9, 0.95)
    assert group["weight_decay"] == 0


def test_schedules_end_where_they_say():
    assert cosine(0, 7) == 1
    assert cosine(7, 7) == pytest.approx(0.1)
    assert cosine(7, 7, floor=0) == pytest.approx(0)
    assert all(cosine(s, 7) > cosine(s + 1, 7) for s in range(7))
    assert cosine(0, 0) == 1
    assert [warm_up(s, 0) for s in (0, 5)] == [1, 1]
    assert warm_up(0, 10) == 0.1
    assert all(warm_up(s, 10) < warm_up(s + 1, 10) for s in range(10))
    assert warm_up(11, 10) == 1


def one_weight(grad):
    weight = nn.Parameter(torch.tensor([1.0, 1.0]))
    weight.grad = torch.tensor(grad)
    return weight


def test_a_step_clips_and_clears_and_reports_the_norm_before():
    weight = one_weight([3.0, 4.0])
    optimiser = torch.optim.SGD([("w", weight)], lr=123.0)
    assert optimiser_step(optimiser, 0.1, max_grad_norm=1.0) == pytest.approx(5)
    # clipped to (0.6, 0.8), times the rate that was given
    assert weight.tolist() == pytest.approx([0.94, 0.92], abs=1e-5)
    assert weight.grad is None


def test_a_small_gradient_is_not_clipped():
    weight = one_weight([0.3, 0.4])
    assert optimiser_step(torch.optim.SGD([("w", weight)], lr=1.0), 1.0, 1.0) == pytest.approx(0.5)
    assert weight.tolist() == pytest.approx([0.7, 0.6], abs=1e-5)


def test_every_group_is_clipped_together():
    one, other = one_weight([3.0, 0.0]), one_weight([0.0, 4.0])
    optimiser = torch.optim.SGD([{"params": [("a", one)]}, {"params": [("b", other)]}], lr=1.0)
    assert optimiser_step(optimiser, 1.0, 1.0) == pytest.approx(5)
    assert one[0].item() == pytest.approx(0.4, abs=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named_and_touches_nothing(bad):
    good, weight = one_weight([0.1, 0.2]), one_weight([0.1, 0.2])
    optimiser = adam([("policy.good", good), ("policy.bad", weight)], 0.1)
    optimiser_step(optimiser, 0.1, 1.0)
    before, state = weight.tolist(), optimiser.state[weight]["exp_avg"].tolist()
    good.grad, weight.grad = torch.tensor([0.1, 0.2]), torch.tensor([bad, 1.0])
    with pytest.raises(NotFinite, match=r"^gradient of policy.bad: 1 of 2 values .* lower"):
        optimiser_step(optimiser, 0.1, 1.0)
    assert good.tolist() == weight.tolist() == before
    assert optimiser.state[weight]["exp_avg"].tolist() == state
    assert weight.grad is None
    weight.grad = torch.tensor([0.1, 0.2])
    optimiser_step(optimiser, 0.1, 1.0)  # and it goes on
    assert weight.tolist() != before


def test_a_norm_that_overflows_is_named_by_the_largest_gradient():
    small, large = one_weight([1.0, 1.0]), one_weight([1e30, 1e30])  # squared, not in float32
    with pytest.raises(NotFinite, match=r"^norm of the gradient of b: 1 of 1 values"):
        optimiser_step(adam([("a", small), ("b", large)], 0.1), 0.1, 1.0)
    assert small.tolist() == large.tolist() == [1, 1]


def test_the_cause_of_a_loss_is_named():
    loss, whole = torch.tensor(math.nan), torch.ones(3)
    broken = torch.tensor([1.0, math.inf, math.nan, -math.inf])
    with pytest.raises(NotFinite, match=r"^b: 3 of 4 values are NaN or infinite"):
        finite(loss, {"a": whole, "b": broken, "c": broken})
    with pytest.raises(NotFinite, match=r"^loss: 1 of 1 values"):
        finite(loss, {"a": whole})
    assert finite(torch.tensor(2.0), {"b": broken}).item() == 2  # padding may hold anything


def test_all_tensors_are_looked_at():
    check_finite({"a": torch.ones(2), "b": torch.zeros(0)})
    with pytest.raises(NotFinite, match=r"^b: 2 of 2,000 values"):
        rows = torch.ones(2, 1000)
        rows[:, 7] = math.inf
        check_finite({"a": torch.ones(2), "b": rows})
