"""The checkers of the exercises: `checks.check("gae", my_gae)`.

A check prints one line or raises CheckFailed, which names the check, the numbers and the
confusion that it cures. The expected numbers were worked by hand or by a slow loop, never by the
package's own function.
"""

# ruff: noqa: F401 (the modules are imported for the exercises that they register)

from minirlhf.course.checks import (
    advantages,
    kl,
    losses,
    masked,
    neighbour_losses,
    neighbours,
    policy,
    preferences,
    rankings,
)
from minirlhf.course.checks.core import EXERCISES, CheckFailed, Exercise, check, find

__all__ = ["EXERCISES", "CheckFailed", "Exercise", "check", "find"]
