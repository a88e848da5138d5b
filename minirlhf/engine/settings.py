"""Settings of a stage: a frozen dataclass whose fields carry their help, the paper's value and
their bounds, so that the command line, the YAML file and the report all read one source."""

import dataclasses
import functools
import math
import types
import typing
from dataclasses import field
from pathlib import Path
from typing import Any

import yaml

from minirlhf.engine.records import DataError, write_text

MAX_SEED = 2**63 - 1  # what torch's generators take


def setting(
    default: Any,
    help: str,
    paper: Any = None,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with its meaning.

    Args: default; help: one line with unit and source; paper: InstructGPT's value where printed;
          above / least / most: exclusive lower, inclusive lower and upper bound; choices.
    """
    meta = dict(help=help, paper=paper, above=above, least=least, most=most, choices=choices)
    return field(default=default, metadata=meta)


def validated(cls):
    """Class decorator: refuse values out of bounds, naming the setting and the value.

    It wraps `__init__`, since a dataclass that is made already never calls a `__post_init__` that
    is added to it.
    """
    build = cls.__init__

    @functools.wraps(build)
    def checked(self, *args, **values):
        build(self, *args, **values)
        for item in dataclasses.fields(self):
            value, meta = getattr(self, item.name), item.metadata
            problem = _problem(value, meta) if value is not None else None
            if problem:
                raise DataError(f"{item.name}: {value!r} {problem}")

    cls.__init__ = checked
    return cls


def _problem(value: Any, meta: typing.Mapping[str, Any]) -> str | None:
    if meta.get("choices") and value not in meta["choices"]:
        return f"is none of {', '.join(meta['choices'])}"
    if meta.get("above") is not None and not value > meta["above"]:
        return f"must be above {meta['above']:g}"
    if meta.get("least") is not None and not value >= meta["least"]:
        return f"must be at least {meta['least']:g}"
    if meta.get("most") is not None and not value <= meta["most"]:
        return f"must be at most {meta['most']:g}"
    return None


def value_type(item: dataclasses.Field) -> tuple[type, bool]:
    """A field's plain type and whether it may be None: `float | None` -> (float, True)."""
    if isinstance(item.type, types.UnionType):
        plain = [t for t in item.type.__args__ if t is not type(None)]
        return plain[0], True
    return item.type, False


def convert(item: dataclasses.Field, value: Any) -> Any:
    """Turn text or a YAML value into the field's type; DataError names field and value."""
    kind, optional = value_type(item)
    if optional and (value is None or str(value).lower() in ("none", "null", "")):
        return None
    try:
        if kind is bool:
            if str(value).lower() not in ("true", "false"):
                raise ValueError
            return str(value).lower() == "true"
        if kind is int and float(value) != int(float(value)):
            raise ValueError
        if kind is float and not math.isfinite(float(value)):
            raise ValueError
        return int(float(value)) if kind is int else kind(value)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{item.name}: {value!r} is not {_KIND_NAMES[kind]}") from None


_KIND_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def with_values(settings: Any, values: dict[str, Any]) -> Any:
    """A copy of a settings object with some values changed, converted and checked."""
    fields = {item.name: item for item in dataclasses.fields(settings)}
    for name in values:
        if name not in fields:
            raise DataError(f"{name}: no such setting; known are {', '.join(sorted(fields))}")
    return dataclasses.replace(
        settings, **{name: convert(fields[name], value) for name, value in values.items()}
    )


def read_settings(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read a settings file: YAML, {stage: {setting: value}}. DataError names file and line."""
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise DataError(f"{path}{line}: broken YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(values, dict) or not all(isinstance(v, dict) for v in values.values()):
        raise DataError(f"{path}: must map each stage to its settings")
    return values


def line_of(path: str | Path, stage: str, name: str = "") -> int:
    """The line of a settings file that sets a stage, or one setting of it, counted from 1."""
    root = yaml.compose(Path(path).read_text(encoding="utf-8"))
    for key, settings in root.value:
        if key.value == stage:
            lines = {k.value: k.start_mark.line + 1 for k, _ in settings.value}
            return lines.get(name, key.start_mark.line + 1)
    return 1


def write_settings(path: str | Path, settings: dict[str, Any]) -> None:
    """Write {stage: settings object} so that `read_settings` gives the run again."""
    values = {stage: dataclasses.asdict(item) for stage, item in settings.items()}
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def refuse_other_settings(where: Path, settings: dict[str, Any], earlier: dict[str, dict]) -> None:
    """DataError that names the first setting which is not as it was in the run that goes on.

    Args: where: what holds the run; settings: {stage: settings object}; earlier: their values then.
    """
    for stage, item in settings.items():
        for name, value in vars(item).items():
            was = earlier.get(stage, {}).get(name)
            if value != was:
                raise DataError(
                    f"{where}: cannot be resumed with {stage}.{name}: {value}; it began with {was}"
                )


def paper_values(settings: Any) -> dict[str, Any]:
    """The paper's value of each setting that has one."""
    return {
        item.name: item.metadata["paper"]
        for item in dataclasses.fields(settings)
        if item.metadata.get("paper") is not None
    }
