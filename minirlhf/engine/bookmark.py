"""Where a run stands: which stage comes next, or how far one has come, so that it can go on."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from minirlhf.engine.records import DataError
from minirlhf.engine.settings import refuse_other_settings
from minirlhf.engine.snapshot import load_snapshot, save_snapshot

SAVE_EVERY = 60.0  # seconds of training between two saved states: a kill costs no more than that


class Stage(Protocol):
    """What every stage is: an iterator over its steps whose state can be saved between any two."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[dict[str, float]]: ...
    def __next__(self) -> dict[str, float]: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...


class Bookmark:
    """The state of a run in one file, saved anew as training goes on.

    Args:    file; settings: {stage: settings object}; data: a checksum. A run that goes on must
             have the same of both, or it would not come to the same end.
    Holds    `stage`, the one that comes next, "" at first; `step`, how many of its steps the saved
             state has; `seconds`, what each has taken so far.
    """

    def __init__(self, file: str | Path, settings: dict[str, Any], data: str = ""):
        self.file, self.settings, self.data = Path(file), settings, data
        self.stage, self.seconds = "", {}
        self.step, self._training = 0, None

    def read(self) -> None:
        """Take up the state that a stopped run has left.

        Raises DataError, one line, where it is damaged, no state of a run, or of one with other
        settings or data.
        """
        state = load_snapshot(self.file)
        if state.keys() != {"settings", "data", "stage", "step", "seconds", "training"}:
            raise DataError(f"{self.file}: is no state of a run")
        refuse_other_settings(self.file, self.settings, state["settings"])
        if state["data"] != self.data:
            raise DataError(f"{self.file}: cannot be resumed: the data is not what it was")
        self.stage, self.seconds = state["stage"], state["seconds"]
        self.step, self._training = state["step"], state["training"]

    def save(self, stage: str, step: int = 0, training: dict[str, Any] | None = None) -> None:
        """Write down what comes next: a stage from its beginning, or from its middle."""
        self.stage, self.step = stage, step
        state = {"settings": {name: vars(item) for name, item in self.settings.items()}}
        state |= {"data": self.data, "seconds": self.seconds}
        save_snapshot(self.file, {**state, "stage": stage, "step": step, "training": training})

    def within(self, stage: str) -> bool:
        """Whether this stage was stopped half-way, and has not gone on yet."""
        return stage == self.stage and self._training is not None

    def restore(self, stage: str, steps: Stage) -> int:
        """Put a stage where it was stopped; returns how many of its steps are done."""
        if not self.within(stage):
            self.seconds[stage] = 0.0
            return 0
        training, self._training = self._training, None  # it may be large
        try:
            steps.restore(training)
        except (KeyError, ValueError, RuntimeError) as error:
            raise DataError(f"{self.file}: does not fit {stage}: {error}") from None
        return self.step

    def follow(self, stage: str, steps: Stage, done: int) -> Iterator[dict[str, float]]:
        """Go through the steps after the first `done`; save after one and every `SAVE_EVERY` s.

        Saved is when the next step is asked for, so that by then the metrics are written.
        """
        started, saved = time.monotonic() - self.seconds[stage], -math.inf
        for step, stats in enumerate(steps, start=done + 1):
            yield stats
            self.seconds[stage] = time.monotonic() - started
            if time.monotonic() - saved >= SAVE_EVERY:
                self.save(stage, step, steps.state())
                saved = time.monotonic()
        self.seconds[stage] = time.monotonic() - started

    def remove(self) -> None:
        """Nothing is left to do."""
        self.file.unlink(missing_ok=True)
