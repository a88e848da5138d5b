"""The checkers: the package's functions pass, every mutant is rejected, the messages help."""

import inspect
import math

import pytest
import torch

from minirlhf.course import checks
from minirlhf.course.checks.core import Mismatch, expect, failure, show
from minirlhf.maths import advantages, kl, losses, masked, preferences

MUTANTS = [
    pytest.param(name, title, id=f"{name}-{title}")
    for name, exercise in checks.EXERCISES.items()
    for title in exercise.mutants
]
EVERY_CHECK = [
    pytest.param(exercise, one, id=f"{name}-{one.title}")
    for name, exercise in checks.EXERCISES.items()
    for one in exercise.checks
]
HELPERS = {"check_shapes", "full_precision", "as_mask", "zero_masked"}


def test_every_formula_has_an_exercise():
    formulas = {
        name
        for module in (advantages, kl, losses, masked, preferences)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }
    assert set(checks.EXERCISES) == formulas - HELPERS


@pytest.mark.parametrize("name", checks.EXERCISES)
def test_the_packages_own_function_passes(name, capsys):
    exercise = checks.EXERCISES[name]
    assert exercise.reference.__module__.startswith("minirlhf.maths.")
    checks.check(name, exercise.reference)
    printed = capsys.readouterr().out
    assert printed == f"{name}: all {len(exercise.checks)} checks passed\n"


@pytest.mark.parametrize(("name", "title"), MUTANTS)
def test_every_mutant_is_rejected(name, title):
    with pytest.raises(checks.CheckFailed) as rejected:
        checks.check(name, checks.EXERCISES[name].mutants[title])
    message = str(rejected.value)
    assert message.startswith(f"{name}: check ")
    assert "\n  got    " in message
    assert "\n  hint   " in message
    # It must fail by its numbers or its type, not because the mutant itself is broken.
    assert not any(error in message for error in ("TypeError", "NameError", "RuntimeError"))


@pytest.mark.parametrize(("exercise", "one"), EVERY_CHECK)
def test_every_check_rejects_a_mutant(exercise, one):
    assert any(failure(one, mutant) for mutant in exercise.mutants.values())


def raises(*args, **options):
    raise NotImplementedError


def crashes(*args, **options):
    return torch.zeros(2) @ torch.zeros(3)


def scaled(reference, factor):
    """The right answer, off by a little: what a loose tolerance would let through."""

    def nearly(*args, **options):
        result = reference(*args, **options)
        if isinstance(result, tuple):
            return tuple(item * factor for item in result)
        return result * factor

    return nearly


@pytest.mark.parametrize("name", checks.EXERCISES)
def test_what_is_no_answer_at_all_gets_a_plain_message(name):
    reference = checks.EXERCISES[name].reference
    for candidate, wanted in [
        (raises, "this is where your code goes"),
        (lambda *args, **options: None, "is there a `return`"),
        (crashes, "got    RuntimeError: "),
        (lambda *args, **options: "0.5", "wanted"),
        (lambda *args, **options: torch.full((7, 7), math.nan), "wanted"),
        (lambda *args, **options: math.nan, "wanted"),
        (lambda *args, **options: (torch.zeros(1),) * 4, "wanted"),
    ]:
        with pytest.raises(checks.CheckFailed, match=f"^{name}: check 1 of ") as rejected:
            checks.check(name, candidate)
        assert wanted in str(rejected.value)
    with pytest.raises(checks.CheckFailed, match="give the function itself"):
        checks.check(name, torch.zeros(1))
    if name not in ("ranking_to_pairs", "last_token_index", "response_mask"):
        for factor in (1.001, 0.999):
            with pytest.raises(checks.CheckFailed, match="got"):
                checks.check(name, scaled(reference, factor))


def test_the_message_names_check_numbers_and_hint():
    with pytest.raises(checks.CheckFailed) as rejected:
        checks.check("bradley_terry_loss", lambda chosen, rejected: rejected - chosen)
    assert str(rejected.value) == (
        "bradley_terry_loss: check 1 of 4 failed: equal scores cost log 2 = 0.693, one loss per "
        "pair\n"
        "  got    [0, 0]\n"
        "  wanted [0.693147, 0.693147]\n"
        "  hint   at equal scores each side wins with 1/2, and the loss is -log 1/2; no mean is "
        "taken here"
    )
    assert issubclass(checks.CheckFailed, AssertionError)


def test_the_students_own_error_is_the_cause():
    with pytest.raises(checks.CheckFailed) as rejected:
        checks.check("k1", lambda logprobs, ref_logprobs: logprobs.nonsense)
    assert isinstance(rejected.value.__cause__, AttributeError)


def test_changing_an_argument_in_place_is_noticed():
    def in_place(scores, logprobs, ref_logprobs, response_mask, kl_coef):
        logprobs.sub_(ref_logprobs).mul_(-kl_coef)
        logprobs[torch.arange(2), response_mask.sum(-1) - 1] += scores
        return torch.where(response_mask, logprobs, 0.0)

    with pytest.raises(checks.CheckFailed, match="changed in place"):
        checks.check("token_rewards", in_place)


def test_a_parameter_that_is_not_taken_is_not_asked(capsys):
    checks.check("sft_loss", lambda logprobs, mask: -logprobs[mask].mean())
    assert capsys.readouterr().out == "sft_loss: all 3 checks passed (without those of count)\n"


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(ValueError, match="no exercise is called 'gea'; did you mean 'gae'"):
        checks.check("gea", print)
    with pytest.raises(ValueError, match="there are: token_rewards, gae, "):
        checks.check("zzzzzz", print)


@pytest.mark.parametrize(
    ("got", "wanted", "message"),
    [
        (0.5, torch.tensor(0.5), "a float\nwanted a tensor"),
        (torch.zeros(1), torch.tensor(0.0), r"shape \(1,\)\nwanted shape \(\)"),
        (torch.tensor([1]), torch.tensor([True]), "whole numbers\nwanted a tensor of bool"),
        (torch.tensor([1.0]), torch.tensor([1]), "float\nwanted a tensor of whole numbers"),
        (torch.tensor([1.0, 2.0]), 1.0, r"shape \(2,\)\nwanted one number"),
        (True, 1.0, "a bool\nwanted a number"),
        ((1.0, 2.0), (1.0, 2.0, 3.0), "wanted a tuple of 3"),
        (0.50001, 0.5, r"got    0.50001\nwanted 0.5"),
        (torch.tensor([math.nan]), torch.tensor([0.0]), r"got    \[nan\]"),
    ],
)
def test_expect_says_what_differs(got, wanted, message):
    with pytest.raises(Mismatch, match=message):
        expect(got, wanted)


def test_expect_accepts_what_is_equal():
    expect(torch.tensor([0.5]), torch.tensor([0.5], dtype=torch.float64))
    expect(torch.tensor(0.5), 0.5)
    expect((torch.zeros(2), 1), (torch.zeros(2), 1.0))


def test_show_is_readable():
    shown = show((torch.tensor([[1 / 3, 2.0]]), None, True, object))
    assert shown == "([[0.333333, 2]], None, True, <class 'object'> (type))"
