"""masked.py against numpy, scipy, plain loops and properties."""

import math
import statistics

import numpy
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirlhf.maths.masked import (
    as_mask,
    check_shapes,
    gather_logprobs,
    last_token_index,
    masked_mean,
    masked_var,
    masked_whiten,
    response_mask,
    zero_masked,
)

NAN = math.nan
numbers = st.floats(-100, 100)


def random_logits(*shape, seed=0):
    return 3 * torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


@st.composite
def masked_values(draw, minimum=1):
    """Up to 4 rows of values, and a mask that counts at least `minimum` of them."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(minimum, 5))
    n = rows * columns
    values = draw(st.lists(numbers, min_size=n, max_size=n))
    mask = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    mask[:minimum] = [True] * minimum
    shape = (rows, columns)
    return torch.tensor(values, dtype=torch.float64).view(shape), torch.tensor(mask).view(shape)


def as_numpy(values, mask):
    return numpy.ma.array(values.numpy(), mask=~mask.numpy())


# --- gather_logprobs -----------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_gather_logprobs_agrees_with_scipy(temperature):
    logits, ids = random_logits(2, 3, 7), torch.tensor([[0, 6, 3], [2, 2, 5]])
    table = scipy.special.log_softmax(logits.numpy() / temperature, axis=-1)
    wanted = [[table[b, t, ids[b, t]] for t in range(3)] for b in range(2)]
    got = gather_logprobs(logits, ids, temperature)
    torch.testing.assert_close(got, torch.tensor(wanted), rtol=1e-13, atol=1e-13)


def test_gather_logprobs_of_all_tokens_sums_to_one():
    logits = random_logits(1, 2, 7)
    total = sum(gather_logprobs(logits, torch.full((1, 2), v), 0.7).exp() for v in range(7))
    torch.testing.assert_close(total, torch.ones(1, 2).double(), rtol=1e-14, atol=1e-14)


def test_gather_logprobs_gradient_is_one_hot_minus_softmax():
    logits = random_logits(1, 1, 5).requires_grad_()
    gather_logprobs(logits, torch.tensor([[3]]), temperature=2.0).sum().backward()
    wanted = -(logits.detach() / 2).softmax(-1)
    wanted[0, 0, 3] += 1
    torch.testing.assert_close(logits.grad, wanted / 2, rtol=1e-13, atol=1e-13)


def test_gather_logprobs_with_forbidden_tokens_keeps_gradients_finite():
    logits = torch.tensor([[[1.0, -math.inf, 2.0]]], requires_grad=True)
    gather_logprobs(logits, torch.tensor([[0]])).sum().backward()
    assert logits.grad.isfinite().all()
    assert gather_logprobs(logits, torch.tensor([[1]])).item() == -math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gather_logprobs_of_half_precision_is_computed_in_float32(dtype):
    logits, ids = random_logits(2, 3, 50).to(dtype), torch.zeros(2, 3, dtype=torch.long)
    got = gather_logprobs(logits, ids)
    assert got.dtype == torch.float32
    torch.testing.assert_close(
        got.double(), gather_logprobs(logits.double(), ids), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(
    ("ids", "temperature", "message"),
    [
        (torch.zeros(2, 4).long(), 1.0, r"logits \(2, 3, 5\), ids \(2, 4\)"),
        (torch.zeros(2, 3).long(), 0.0, "temperature must be positive, got 0.0"),
        (torch.zeros(2, 3).long(), NAN, "temperature must be positive, got nan"),
    ],
)
def test_gather_logprobs_refuses(ids, temperature, message):
    with pytest.raises(ValueError, match=message):
        gather_logprobs(torch.zeros(2, 3, 5), ids, temperature)


# --- mean, variance, whitening -------------------------------------------------------------


@given(masked_values())
def test_mean_and_variance_agree_with_numpy(values_and_mask):
    values, mask = values_and_mask
    reference = as_numpy(values, mask)
    assert masked_mean(values, mask).item() == pytest.approx(reference.mean(), abs=1e-11)
    assert masked_var(values, mask).item() == pytest.approx(reference.var(), abs=1e-9)


@given(masked_values(minimum=2))
def test_unbiased_variance_agrees_with_the_standard_library(values_and_mask):
    values, mask = values_and_mask
    wanted = statistics.variance(values[mask].tolist())
    assert masked_var(values, mask, unbiased=True).item() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("rubbish", [NAN, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize(
    "function", [masked_mean, masked_var, masked_whiten], ids=lambda f: f.__name__
)
def test_what_is_masked_adds_exactly_nothing(function, rubbish):
    """More padding, whatever it holds, changes neither the result nor the gradient."""
    values = random_logits(3, 4)
    mask = torch.arange(4) < torch.tensor([[4], [2], [1]])
    padded = torch.cat([values, torch.full((3, 2), rubbish, dtype=torch.float64)], 1)
    padded[:, :4][~mask] = rubbish
    padded_mask = torch.cat([mask, torch.zeros(3, 2).bool()], 1)
    gradients = []
    for each in (values, padded):
        each.requires_grad_()
    result, padded_result = function(values, mask), function(padded, padded_mask)
    if result.ndim:
        assert not padded_result[~padded_mask].any()
        padded_result = padded_result[:, :4]
    torch.testing.assert_close(result, padded_result, rtol=1e-14, atol=1e-14)
    for each, each_mask, outcome in ((values, mask, result), (padded, padded_mask, padded_result)):
        (gradient,) = torch.autograd.grad((outcome**2).sum(), each)
        assert not gradient[~each_mask].any()
        gradients.append(gradient[:, :4])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-13, atol=1e-13)


@given(masked_values(), st.randoms(use_true_random=False))
def test_micro_batches_with_count_add_up_exactly(values_and_mask, random):
    values, mask = values_and_mask
    whole = values.clone().requires_grad_()
    parts = values.clone().requires_grad_()
    loss = masked_mean(whole, mask)
    loss.backward()
    total, count, start = 0.0, mask.sum(), 0
    while start < len(values):  # cut between rows, anywhere; a part may count nothing
        stop = random.randint(start + 1, len(values))
        part = masked_mean(parts[start:stop], mask[start:stop], count=count)
        part.backward()
        total, start = total + part.item(), stop
    assert total == pytest.approx(loss.item(), abs=1e-12)
    assert torch.equal(whole.grad, parts.grad)


def test_whitening_agrees_with_scipy_and_with_its_options():
    values, mask = random_logits(3, 5), torch.rand(3, 5) < 0.7
    mask[0, :2] = True
    counted = values[mask].numpy()
    for unbiased in (False, True):
        wanted = torch.from_numpy(scipy.stats.zscore(counted, ddof=int(unbiased)))
        got = masked_whiten(values, mask, unbiased=unbiased, epsilon=0.0)
        torch.testing.assert_close(got[mask], wanted, rtol=1e-12, atol=1e-12)
        kept = masked_whiten(values, mask, shift_mean=False, unbiased=unbiased, epsilon=0.0)
        torch.testing.assert_close(kept[mask], wanted + counted.mean(), rtol=1e-12, atol=1e-12)
    n = len(counted)  # the two variants differ by sqrt((n - 1) / n), as the reference says
    ratio = masked_whiten(values, mask, unbiased=True) / masked_whiten(values, mask)
    torch.testing.assert_close(
        ratio[mask], torch.full((n,), math.sqrt((n - 1) / n)).double(), rtol=1e-7, atol=0
    )


@given(masked_values(minimum=2), st.floats(0.1, 10), numbers)
def test_whitening_forgets_scale_and_shift(values_and_mask, scale, shift):
    values, mask = values_and_mask
    if masked_var(values, mask) < 1e-2:  # nearly constant: epsilon takes over
        return
    white = masked_whiten(values, mask, epsilon=0.0)
    assert masked_mean(white, mask).item() == pytest.approx(0, abs=1e-9)
    assert masked_var(white, mask).item() == pytest.approx(1, abs=1e-9)
    again = masked_whiten(scale * values + shift, mask, epsilon=0.0)
    torch.testing.assert_close(again, white, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v, m: masked_mean(v, ~m), "the mask is empty: nothing to take the mean of"),
        (lambda v, m: masked_mean(v, m, count=0), "count must be positive, got 0"),
        (lambda v, m: masked_mean(v[:1], m), r"shapes differ: values \(1, 3\), mask \(2, 3\)"),
        (lambda v, m: masked_mean(v, m.float()), "must be bool, True = counts, .* torch.float32"),
        (lambda v, m: masked_var(v, ~m), "the mask is empty"),
        (lambda v, m: masked_var(v[:1, :1], m[:1, :1], unbiased=True), "single entry"),
        (lambda v, m: masked_whiten(v, m[:1]), "shapes differ"),
    ],
)
def test_reductions_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(2, 3), torch.ones(2, 3).bool())


def test_a_micro_batch_without_counted_entries_adds_a_differentiable_zero():
    values = torch.full((2, 2), NAN, requires_grad=True)
    loss = masked_mean(values, torch.zeros(2, 2).bool(), count=5)
    loss.backward()
    assert loss.item() == 0
    assert not values.grad.any()


def test_masks_of_zeros_and_ones_are_masks():
    ones = torch.tensor([[1, 1, 0]])
    assert torch.equal(as_mask(ones), ones == 1)
    assert zero_masked(torch.tensor([[1.0, 2.0, NAN]]), ones).tolist() == [[1.0, 2.0, 0.0]]
    check_shapes(mask=ones)


# --- last_token_index and response_mask ----------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=5))
def test_last_token_index_agrees_with_a_loop(rows):
    mask = torch.tensor([[start <= t < start + n for t in range(8)] for start, n in rows])
    assert last_token_index(mask).tolist() == [start + n - 1 for start, n in rows]
    assert last_token_index(mask.int()).tolist() == [start + n - 1 for start, n in rows]


@pytest.mark.parametrize(
    ("row", "message"),
    [([1, 0, 1], "mask row 1 has a hole"), ([0, 0, 0], "mask row 1 is empty")],
)
def test_last_token_index_refuses(row, message):
    with pytest.raises(ValueError, match=message):
        last_token_index(torch.tensor([[1, 1, 0], row]).bool())


@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4))
def test_response_mask_agrees_with_a_loop(rows):
    wanted = []
    for row in rows:
        ended, counted = False, []
        for token in row:
            counted.append(not ended)
            ended = ended or token == 3
        wanted.append(counted)
    got = response_mask(torch.tensor(rows), eos_id=3)
    assert got.tolist() == wanted
    last = last_token_index(got).tolist()  # and the last token is the first EOS, if there is one
    assert last == [row.index(3) if 3 in row else 5 for row in rows]
