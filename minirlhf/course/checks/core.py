"""How a check works: call the student's function, compare, say what is wrong and why.

An exercise has named checks and named mutants. A mutant is a wrong implementation, the kind that
people really write; the tests hold that every check set rejects every mutant.
"""

import difflib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

RELATIVE, ABSOLUTE = 1e-5, 1e-6  # what float32 arithmetic leaves


class CheckFailed(AssertionError):
    """A check did not pass; the message says which, the numbers, and a hint."""


class Mismatch(Exception):
    """Raised inside a check: what was got and what was wanted."""


@dataclass(frozen=True)
class Check:
    """One named check. `options`: the parameters that a candidate must take to be asked."""

    title: str
    hint: str
    run: Callable[[Callable], None]
    options: tuple[str, ...] = ()


@dataclass
class Exercise:
    """A function to write: the package's own, the checks, and the mutants they reject."""

    reference: Callable
    checks: list[Check] = field(default_factory=list)
    mutants: dict[str, Callable] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.reference.__name__

    def check(self, title: str, hint: str, *options: str) -> Callable:
        """Decorator: register a function of the candidate as a check."""

        def register(run: Callable[[Callable], None]) -> Callable:
            self.checks.append(Check(title, hint, run, options))
            return run

        return register

    def gives(self, title: str, hint: str, wanted: Any, *args: Any, **options: Any) -> None:
        """Register the check that candidate(*args, **options) is `wanted`."""

        def run(candidate: Callable) -> None:
            expect(candidate(*args, **options), wanted)

        self.checks.append(Check(title, hint, run, tuple(options)))


EXERCISES: dict[str, Exercise] = {}


def exercise(reference: Callable) -> Exercise:
    """Register and return the exercise whose solution is `reference`."""
    made = Exercise(reference)
    EXERCISES[made.name] = made
    return made


def show(value: Any) -> str:
    """A value as a student reads it: rounded, without the tensor's clothes."""
    if isinstance(value, Tensor):
        return show(value.tolist())
    if isinstance(value, bool | int | str | None):
        return repr(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return "[" + ", ".join(map(show, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(show, value)) + ")"
    return f"{value!r} ({type(value).__name__})"


def _kind(tensor: Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "bool"
    return "float" if tensor.is_floating_point() else "whole numbers"


def expect(got: Any, wanted: Any) -> None:
    """Raise Mismatch unless `got` has wanted's type, shape, kind and values.

    wanted: a tensor; a tuple, compared item by item; or a number, met by a float or a scalar
    tensor.
    """
    if isinstance(wanted, tuple):
        if not isinstance(got, tuple | list) or len(got) != len(wanted):
            raise Mismatch(f"got    {show(got)}\nwanted a tuple of {len(wanted)} results")
        for got_item, wanted_item in zip(got, wanted, strict=True):
            expect(got_item, wanted_item)
        return
    if isinstance(wanted, Tensor):
        if not isinstance(got, Tensor):
            raise Mismatch(f"got    {show(got)}, a {type(got).__name__}\nwanted a tensor")
        if got.shape != wanted.shape:
            raise Mismatch(f"got    shape {tuple(got.shape)}\nwanted shape {tuple(wanted.shape)}")
        if _kind(got) != _kind(wanted):
            raise Mismatch(f"got    a tensor of {_kind(got)}\nwanted a tensor of {_kind(wanted)}")
    else:
        if isinstance(got, bool) or not isinstance(got, int | float | Tensor):
            raise Mismatch(f"got    {show(got)}, a {type(got).__name__}\nwanted a number")
        if isinstance(got, Tensor) and got.ndim:
            raise Mismatch(f"got    a tensor of shape {tuple(got.shape)}\nwanted one number")
    close = torch.allclose(
        torch.as_tensor(got).detach().double(),
        torch.as_tensor(wanted).double(),
        rtol=RELATIVE,
        atol=ABSOLUTE,
    )
    if not close:
        raise Mismatch(f"got    {show(got)}\nwanted {show(wanted)}")


def expect_gradient(
    candidate: Callable, wanted: Tensor, *args: Any, argument: int = 0, **options: Any
) -> None:
    """Raise Mismatch unless the gradient of the (summed) result in one argument is `wanted`."""
    args = list(args)
    args[argument] = args[argument].clone().requires_grad_()
    result = candidate(*args, **options)
    if not isinstance(result, Tensor) or not result.requires_grad:
        raise Mismatch(
            "got    a result without gradient: item(), detach() or no_grad() cut it off\n"
            "wanted one that backward() can start from"
        )
    (gradient,) = torch.autograd.grad(result.sum(), args[argument], allow_unused=True)
    try:
        expect(torch.zeros_like(wanted) if gradient is None else gradient, wanted)
    except Mismatch as mismatch:
        raise Mismatch(f"the gradient is wrong\n{mismatch}") from None


def _guarded(function: Callable) -> Callable:
    """The candidate, with everything that can go wrong around the numbers put into words."""

    def call(*args: Any, **options: Any) -> Any:
        copies = [arg.clone() if isinstance(arg, Tensor) else arg for arg in args]
        try:
            result = function(*copies, **options)
        except NotImplementedError:
            raise Mismatch("got    NotImplementedError: this is where your code goes") from None
        except Exception as error:
            raise Mismatch(f"got    {type(error).__name__}: {error}") from error
        if result is None:
            raise Mismatch("got    None: is there a `return` at the end?")
        for before, after in zip(args, copies, strict=True):
            if isinstance(before, Tensor) and not torch.allclose(
                before.detach().double(), after.detach().double(), 0, 0, equal_nan=True
            ):
                raise Mismatch("got    an argument that was changed in place; work on a copy")
        return result

    return call


def _takes(function: Callable, options: Sequence[str]) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-ins have none: ask them everything
        return True
    kinds = {parameter.kind for parameter in parameters.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds or set(options) <= set(parameters)


def find(name: str) -> Exercise:
    """The exercise of that name, or a ValueError that offers the nearest one."""
    if name not in EXERCISES:
        near = difflib.get_close_matches(name, EXERCISES, 1)
        known = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(EXERCISES)}"
        raise ValueError(f"no exercise is called {name!r}; {known}")
    return EXERCISES[name]


def failure(one: Check, function: Callable) -> Mismatch | None:
    """What one check has to say about a function; None where it passes."""
    try:
        one.run(_guarded(function))
    except Mismatch as mismatch:
        return mismatch
    except Exception as error:
        mismatch = Mismatch(f"got    a result of no use: {type(error).__name__}: {error}")
        mismatch.__cause__ = error
        return mismatch
    return None


def check(name: str, function: Callable) -> None:
    """Hold a function against the checks of one exercise; print one line when all pass.

    A check of an optional parameter that the function does not take is left out, and the line
    says so.

    Raises: CheckFailed at the first check that fails; ValueError for an unknown name.
    >>> check("k1", lambda logprobs, ref_logprobs: logprobs - ref_logprobs)
    k1: all 3 checks passed
    """
    chosen = find(name)
    if not callable(function):
        raise CheckFailed(f"{name}: give the function itself, not {show(function)}")
    asked = [one for one in chosen.checks if _takes(function, one.options)]
    for number, one in enumerate(asked, 1):
        mismatch = failure(one, function)
        if mismatch:
            lines = [f"{name}: check {number} of {len(asked)} failed: {one.title}"]
            lines += [*str(mismatch).splitlines(), f"hint   {one.hint}"]
            raise CheckFailed("\n  ".join(lines)) from mismatch.__cause__
    left_out = sorted({o for one in chosen.checks if one not in asked for o in one.options})
    without = f" (without those of {', '.join(left_out)})" if left_out else ""
    print(f"{name}: all {len(asked)} checks passed{without}")
