"""The checkers: the package's functions pass them, every mutant is rejected."""

import math

import pytest
import torch

from minirlhf import maths
from minirlhf.course import checks
from minirlhf.course.checks.core import Mismatch, expect, show

MUTANTS = [
    pytest.param(name, title, id=f"{name}-{title}")
    for name, exercise in checks.EXERCISES.items()
    for title in exercise.mutants
]


@pytest.mark.parametrize("name", checks.EXERCISES)
def test_the_packages_own_function_passes(name, capsys):
    exercise = checks.EXERCISES[name]
    checks.check(name, exercise.reference)
    printed = capsys.readouterr().out
    assert printed == f"{name}: all {len(exercise.checks)} checks passed\n"


@pytest.mark.parametrize(("name", "title"), MUTANTS)
def test_every_mutant_is_rejected(name, title):
    with pytest.raises(checks.CheckFailed) as failure:
        checks.check(name, checks.EXERCISES[name].mutants[title])
    message = str(failure.value)
    assert message.startswith(f"{name}: check ")
    assert "\n  hint   " in message
