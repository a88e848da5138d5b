"""Watch and steer a PPO run from a notebook while it goes on.

The run is in a thread of its own, so the cell that starts it returns at once. Whatever the panel's
buttons and sliders do, a line of Python does as well; the training loop looks at their wishes
between two updates and nowhere else.
"""

import math
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Optional

from matplotlib.figure import Figure

from minirlhf.course.live_view import (
    CONTROLS,
    CURVES,
    Change,
    LivePanel,
    controls,
    live_figure,
    panel_setup,
    plain,
)
from minirlhf.engine.health import Finding, Watch

ENDED = ("finished", "stopped", "failed")
Sample = Callable[[int], Sequence[tuple[str, str]]]


class LiveRun:
    """A run of `ppo` in a thread, with a panel to watch and steer it.

    Args:    ppo: an iterator that yields a dict of metrics after each update, has a length, and
             reads its attributes `kl_coef` and `clip_range` anew in each update (where it has none,
             or None as PPO without clipping, there is no slider);
             updates: how many to make, None = all that are left;
             sample: update -> [(prompt, answer), ...], called in the thread before the first
             update, about ten times on the way, after each single step, and at the end;
             curves: one to four names of `minirlhf.engine.metrics.METRICS`.
    Raises:  ValueError for an unknown curve, or for more updates than are left.

    Put it last in a cell to see the panel. `history` holds the metrics so far, `changes` what was
    changed by hand, `samples` the answers by update, `findings` what the guards of `engine.health`
    have seen.
    """

    _latest: ClassVar[Callable[[], Optional["LiveRun"]]] = lambda: None  # a weak reference

    def __init__(
        self,
        ppo: Any,
        updates: int | None = None,
        sample: Sample | None = None,
        curves: Sequence[str] = CURVES,
    ):
        self.first = getattr(ppo, "update", 0)
        left = len(ppo) - self.first
        count = left if updates is None else updates
        if not 1 <= count <= left:
            raise ValueError(f"updates: {count} asked for, {left} of {len(ppo)} are left")
        if not 1 <= len(curves) <= 4:
            raise ValueError(f"curves: one to four metrics, got {len(curves)}")
        self.ppo, self.sample, self.curves = ppo, sample, tuple(curves)
        self.last = self.first + count
        self.history: list[dict[str, float]] = []
        self.changes: list[Change] = []
        self.findings: list[Finding] = []
        self.samples: dict[int, list[tuple[str, str]]] = {}
        self.error: BaseException | None = None
        self._watch = Watch()
        self._seconds: list[float] = []
        self._pending: dict[str, float] = {}
        self._state, self._wish, self._steps = "ready", "go", 0
        self._thread: threading.Thread | None = None
        self._turn = threading.Condition()  # guards all of the above once the thread runs
        self._panel = LivePanel(setup=panel_setup(ppo, self.first, self.last, self.curves))
        self._panel.on_msg(self._hear)

    # What a student calls ---------------------------------------------------------------------

    @property
    def update(self) -> int:
        """The number of the last finished update."""
        return self.first + len(self.history)

    @property
    def state(self) -> str:
        """ready, running, pausing, paused, stopping, finished, stopped or failed.

        Pausing and stopping last until the update at hand is finished.
        """
        if self._state == "running" and self._wish != "go" and not self._steps:
            return {"pause": "pausing", "stop": "stopping"}[self._wish]
        return self._state

    def start(self) -> None:
        """Begin in a thread, and return at once.

        An earlier run that still goes on in this process is stopped first: two at a time would
        train the same model, and a cell that is run twice should simply begin anew.

        Raises: RuntimeError where this run was started before.
        """
        self._start("go")

    def pause(self) -> None:
        """Stand still; returns when the update at hand is finished, so the model can be read."""
        self._ask("pause")
        self._wait(lambda: self._state == "paused" or self._wish == "go")

    def resume(self) -> None:
        """Go on after a pause."""
        self._ask("go")

    def step(self) -> dict[str, float]:
        """Make exactly one update, then stand still; a run that goes on is paused first.

        Returns: the metrics of that update.
        Raises:  RuntimeError where no update is left to make; the exception of a failed update.
        """
        before = self.update
        self._ask_step()
        self._wait(lambda: self._wish == "go" or (self._state == "paused" and not self._steps))
        if self.error is not None:
            raise self.error
        if self.update == before:
            raise RuntimeError(f"no update left to make: the run is {self.state}")
        return self.history[-1]

    def stop(self) -> None:
        """End the run for good; returns when the update at hand is finished."""
        self._ask("stop")
        self._wait(lambda: False)

    def set(self, kl_coef: float | None = None, clip_range: float | None = None) -> None:
        """Change settings from the next update on.

        Args:   kl_coef: RM units per nat, 0 or more; clip_range: 0.001 to 0.99.
        Raises: ValueError for a value out of range, or a setting that the run does without;
                RuntimeError where the run has ended.
        """
        wanted = {"kl_coef": kl_coef, "clip_range": clip_range}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        for name, value in wanted.items():
            if name not in controls(self.ppo):
                raise ValueError(f"{name} must stay as it is: this run does without")
            least, most = CONTROLS[name].least, CONTROLS[name].most
            if not (math.isfinite(value) and least <= value <= most):
                limit = (
                    f"between {least:g} and {most:g}" if most < math.inf else f"{least:g} or more"
                )
                raise ValueError(f"{name} must be {limit}, got {value}")
        with self._turn:
            if self._state in ENDED:
                raise RuntimeError(f"no update left to change: the run is {self._state}")
            self._pending |= {name: float(value) for name, value in wanted.items()}
            self._tell()

    def result(self, timeout: float | None = None) -> list[dict[str, float]]:
        """Wait for the end. A paused run goes on, since it would be waited for in vain.

        Args:    timeout: seconds, None = as long as it takes.
        Returns: the metrics of each update, in order; fewer where the run was stopped.
        Raises:  TimeoutError; RuntimeError where the run was not started; the exception that
                 ended the run, whatever it was.
        """
        self._ask("go")
        if not self._wait(lambda: False, timeout):
            raise TimeoutError(f"after {timeout:g} s at update {self.update} of {self.last}")
        if self.error is not None:
            raise self.error
        return list(self.history)

    def figure(self) -> Figure:
        """The curves as a picture that stays in the notebook; letters mark changes by hand.

        Raises: RuntimeError before the first update is finished.
        """
        if not self.history:
            raise RuntimeError("nothing to draw before the first update is finished")
        return live_figure(self.first, list(self.history), list(self.changes), self.curves)

    def __repr__(self) -> str:
        # No state and no numbers: a notebook's saved text must not depend on the moment.
        return f"LiveRun: updates {self.first + 1} to {self.last}; .figure() draws the curves"

    def _repr_mimebundle_(self, **kwargs):
        data, metadata = self._panel._repr_mimebundle_(**kwargs)
        return {**data, "text/plain": repr(self)}, metadata

    # Wishes: callbacks from the browser do no more than this --------------------------------------

    def _start(self, wish: str) -> None:
        with self._turn:
            if self._thread is not None:
                raise RuntimeError("the run was started before: make a new LiveRun")
            self._wish, self._state = wish, "running"
            earlier, LiveRun._latest = LiveRun._latest(), weakref.ref(self)
            self._thread = threading.Thread(
                target=self._run, args=(earlier,), name="LiveRun", daemon=True
            )
        if earlier is not None:
            earlier._ask("stop")
        self._thread.start()

    def _ask(self, wish: str) -> None:
        with self._turn:
            if self._thread is None:
                raise RuntimeError("the run was not started: call start() first")
            if self._wish != "stop":
                self._wish, self._steps = wish, 0
            self._turn.notify_all()
            self._tell()

    def _ask_step(self) -> None:
        if self._thread is None:
            self._start("pause")
        with self._turn:
            if self._state not in ENDED and self._wish != "stop":
                self._wish, self._steps = "pause", self._steps + 1
            self._turn.notify_all()
            self._tell()

    def _wait(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait for `ready` or the end of the run; False where neither came in time."""
        if threading.current_thread() is self._thread:
            return False  # `sample` or a reward function asked; waiting for oneself never ends
        end = math.inf if timeout is None else time.monotonic() + timeout
        with self._turn:
            while not (self._state in ENDED or ready()):
                if time.monotonic() >= end:
                    return False
                # In slices, because on Windows no Ctrl-C ends an endless wait.
                self._turn.wait(min(0.2, max(0.0, end - time.monotonic())))
        return True

    def _hear(self, _panel: LivePanel, message: Any, _buffers: Any) -> None:
        """A message from the browser, which may be anything."""
        try:
            match message:
                case {"kind": "hello"}:
                    with self._turn:
                        self._tell(everything=True)
                case {"kind": "start"}:
                    self.start()
                case {"kind": "pause" | "go" | "stop" as wish}:
                    self._ask(wish)
                case {"kind": "step"}:
                    self._ask_step()
                case {"kind": "set", "name": "kl_coef" | "clip_range" as name, "value": value}:
                    self.set(**{name: float(value)})
        except (RuntimeError, TypeError, ValueError):  # too late, or nonsense: show what is so
            with self._turn:
                self._tell()

    # The thread -------------------------------------------------------------------------------

    def _run(self, earlier: Optional["LiveRun"]) -> None:
        try:
            if earlier is not None:
                earlier._thread.join()
            self._take_sample()
            updates = iter(self.ppo)
            every = math.ceil((self.last - self.first) / 10)
            while self.update < self.last and (turn := self._next_turn()):
                started = time.perf_counter()
                stats = next(updates, None)
                if stats is None:
                    break
                self._record(stats, time.perf_counter() - started)
                if turn == "step" or (self.update - self.first) % every == 0:
                    self._take_sample()
            self._take_sample()
            end = "stopped" if self.update < self.last else "finished"
        except BaseException as error:
            self.error, end = error, "failed"  # result() raises it again
        self._enter(end)

    def _next_turn(self) -> str:
        """Wait while paused, then put the new settings in force: "go", "step", or "" to stop."""
        with self._turn:
            if self._wish == "pause" and not self._steps:
                self._enter("paused")
                self._turn.wait_for(lambda: self._wish != "pause" or self._steps)
            if self._wish == "stop":
                return ""
            turn = "step" if self._wish == "pause" else "go"
            self._steps = max(0, self._steps - 1)
            for name, value in self._pending.items():
                old = float(getattr(self.ppo, name))
                if value != old:
                    setattr(self.ppo, name, value)
                    self.changes.append(Change(self.update + 1, name, old, value))
            self._pending.clear()
            self._enter("running")
            return turn

    def _record(self, stats: dict[str, float], seconds: float) -> None:
        with self._turn:
            self.history.append(dict(stats))
            found = self._watch.see(stats)
            self.findings += [one._replace(step=self.first + one.step) for one in found]
            self._seconds = [*self._seconds[-9:], seconds]
            self._tell()

    def _take_sample(self) -> None:
        if self.sample is not None and self.update not in self.samples:
            answers = [(str(prompt), str(answer)) for prompt, answer in self.sample(self.update)]
            with self._turn:
                self.samples[self.update] = answers
                self._tell()

    def _enter(self, state: str) -> None:
        with self._turn:
            self._state = state
            self._turn.notify_all()
            self._tell()

    def _tell(self, everything: bool = False) -> None:
        """Send the news to every view; points and answers carry their update, so twice is once.

        Called with the lock held, so that news cannot overtake each other.
        """
        since = 0 if everything else max(0, len(self.history) - 1)
        points = [
            [self.first + number, *(plain(stats.get(name)) for name in self.curves)]
            for number, stats in enumerate(self.history[since:], since + 1)
        ]
        updates = sorted(self.samples)
        shown = {updates[0], updates[-1]} if updates else set()
        pace = sum(self._seconds) / len(self._seconds) if self._seconds else None
        values = controls(self.ppo)
        self._panel.send({
            "state": self.state,
            "update": self.update,
            "seconds_per_update": pace,
            "values": {name: plain(value) for name, value in (values | self._pending).items()},
            "pending": sorted(self._pending),
            "changes": [list(change) for change in self.changes],
            "findings": [list(finding) for finding in self.findings],
            "points": points,
            "samples": [[update, self.samples[update]] for update in sorted(shown)],
            "error": self.error and f"{type(self.error).__name__}: {self.error}",
        })  # fmt: skip
