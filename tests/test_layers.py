"""The floors of docs/architecture.md: imports point down, and rooms of one floor stand apart."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "minirlhf"
FLOORS = {
    "maths": 0,
    "engine": 1,
    "world": 1,
    "labeling": 1,
    "stages": 2,
    "evaluation": 2,
    "course": 3,
    "study": 3,
    "tasks": 3,
    "pipeline": 3,
    "memory_trial": 3,
    "memory_report": 3,
    "export": 3,
    "ladder": 3,
    "datasheet": 3,
    "doctor": 3,
    "cli": 3,
    "__main__": 3,
}
# Arrows between rooms of one floor: a room, or one module of it
ALLOWED = {
    "world": {"engine.records", "engine.paths", "labeling"},
    "labeling": {"engine.records", "engine.paths"},
    "pipeline": {"tasks"},
    "export": {"pipeline", "tasks"},
    "ladder": {"pipeline"},
    "memory_trial": {"pipeline"},
    "memory_report": {"pipeline", "memory_trial"},
    "datasheet": {"ladder"},
    "cli": {
        "pipeline",
        "export",
        "ladder",
        "memory_report",
        "doctor",
        "datasheet",
        "tasks",
        "study",
    },
    "course": {"pipeline", "tasks"},
    "study": {"tasks", "ladder"},
    "__main__": {"cli"},
}
# Pretraining reads the almanac's corpus; the paper's three stages know nothing of the almanac.
MAY_IMPORT_WORLD = {"stages.pretrain"}
MATHS_MAY_IMPORT = {"torch", "math", "typing", "collections", "dataclasses"}


def module_name(path: Path) -> str:
    """stages/ppo.py -> "stages.ppo"; a package's __init__ is the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source: str, module: str, is_package: bool = False) -> set[str]:
    """Full names of everything that a source imports, wherever in the file it does so."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                here = ["minirlhf", *module.split(".")]
                here = here[: len(here) - node.level + is_package]
                origin = ".".join([*here, *origin.split(".")]).rstrip(".")
            # `from minirlhf.stages import ppo` imports a module, `from ... import gae` a name.
            names |= {f"{origin}.{alias.name}" for alias in node.names}
    return names


def under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """What a module imports and should not, one sentence each."""
    if not module:  # minirlhf/__init__.py: everything imports it, so it imports nothing
        names = imported(source, module, True)
        return [f"minirlhf/__init__.py imports {name}" for name in names]
    room, found = module.split(".")[0], []
    if room not in FLOORS:
        return [f"{module} stands on no floor: add {room!r} to FLOORS"]
    for name in sorted(imported(source, module, is_package)):
        top, *rest = name.split(".")
        if top != "minirlhf":
            if room == "maths" and top not in MATHS_MAY_IMPORT:
                found.append(f"{module} imports {name}: maths stands on torch and math alone")
            continue
        if not rest or rest == ["__version__"]:
            continue
        target = ".".join(rest)
        other = rest[0]
        if other not in FLOORS:
            found.append(f"{module} imports {name}, which stands on no floor")
        elif other == room:
            if room == "stages" and not under(target, module) and len(rest) > 1:
                found.append(f"{module} imports {name}: stages never import one another")
        elif FLOORS[other] > FLOORS[room]:
            found.append(f"{module} imports {name}: imports point down only")
        elif FLOORS[other] == FLOORS[room]:
            if not any(under(target, allowed) for allowed in ALLOWED.get(room, ())):
                found.append(f"{module} imports {name}: rooms of one floor stand apart")
        elif room == "stages" and other == "world" and module not in MAY_IMPORT_WORLD:
            found.append(f"{module} imports {name}: the stages know nothing of the almanac")
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_name(path) or "minirlhf")
def test_imports_point_down(path):
    source = path.read_text(encoding="utf-8")
    assert violations(module_name(path), source, path.name == "__init__.py") == []


def test_the_files_are_found():
    assert {"maths.losses", "course.checks.core"} <= {module_name(path) for path in FILES}


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("maths.kl", "import numpy", "torch and math alone"),
        ("maths.kl", "from minirlhf.engine.records import Prompt", "point down only"),
        ("maths.kl", "def f():\n    from ..engine import records", "point down only"),
        ("maths.kl", "from .masked import masked_mean", None),
        ("maths.kl", "import torch.nn.functional\nfrom collections.abc import Sequence", None),
        ("engine.rollout", "from minirlhf.maths.masked import gather_logprobs", None),
        ("engine.rollout", "from minirlhf.world.almanac import Fact", "stand apart"),
        ("world.almanac", "from minirlhf.engine.records import DataError", None),
        ("world.almanac", "from minirlhf.engine import records", None),
        ("world.almanac", "from minirlhf.engine.backbone import Backbone", "stand apart"),
        ("stages.ppo", "from minirlhf.stages.reward import score", "never import one another"),
        ("stages.ppo", "from minirlhf.stages import sft", "never import one another"),
        ("stages.ppo", "from . import sft", "never import one another"),
        ("stages.ppo", "from minirlhf.evaluation.plots import draw", "stand apart"),
        ("stages.ppo", "from minirlhf.world.almanac import Fact", "nothing of the almanac"),
        ("stages.pretrain", "from minirlhf.world.corpus import corpus", None),
        ("evaluation.report", "import minirlhf.pipeline", "point down only"),
        ("pipeline", "from minirlhf.stages import ppo", None),
        ("pipeline", "from minirlhf.course.figures import draw", "stand apart"),
        ("cli", "from minirlhf import __version__", None),
        ("attic.things", "import math", "stands on no floor"),
        ("cli", "from minirlhf.attic import things", "stands on no floor"),
        ("", "from minirlhf.pipeline import run", "__init__.py imports"),
    ],
)
def test_the_rule_itself(module, source, complaint):
    found = violations(module, source)
    assert (complaint is None) == (not found), found
    assert all(complaint in sentence for sentence in found)
