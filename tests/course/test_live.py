"""A live run without a browser: its thread, its wishes, what it sends to a panel.

The fake PPO makes an update only when the test lets it, so nothing here depends on speed: waits
are generous, and no test asserts how long anything took.
"""

import json
import math
import threading

import pytest

from minirlhf.course.live import LiveRun
from minirlhf.course.live_view import Change

WAIT = 60  # seconds until a test gives up


class FakePPO:
    """Yields what PPO yields; `allowed` counts the updates that it may make (None = all)."""

    def __init__(self, updates=4, allowed=None, fail_at=None, score=0.5):
        self.updates, self.fail_at, self.score = updates, fail_at, score
        self.kl_coef, self.clip_range, self.update = 0.05, 0.2, 0
        self.gate = None if allowed is None else threading.Semaphore(allowed)
        self.began = [threading.Event() for _ in range(updates + 1)]  # began[n]: update n begins
        self.seen = []

    def __len__(self):
        return self.updates

    def __iter__(self):
        return self

    def __next__(self):
        if self.update >= self.updates:
            raise StopIteration
        self.began[self.update + 1].set()
        self.seen.append((self.kl_coef, self.clip_range))
        if self.gate is not None and not self.gate.acquire(timeout=WAIT):
            raise TimeoutError("the test never let this update happen")
        if self.update + 1 == self.fail_at:
            raise ZeroDivisionError("the loss blew up")
        self.update += 1
        return {
            "scores": self.score * self.update,
            "ref_kl": 0.1 * self.update,
            "kl_coef": self.kl_coef,
        }


def began(ppo, update):
    assert ppo.began[update].wait(WAIT), f"update {update} never began"


def wait_for(run, *states):
    with run._turn:
        assert run._turn.wait_for(lambda: run.state in states, WAIT), f"still {run.state}"


@pytest.fixture
def sent(monkeypatch):
    """Records what a run sends to its panel."""

    def record(run):
        messages = []
        monkeypatch.setattr(run._panel, "send", messages.append)
        return messages

    return record


def from_browser(run, message):
    run._hear(run._panel, message, [])


def test_it_runs_to_the_end():
    ppo = FakePPO()
    run = LiveRun(ppo)
    assert run.state == "ready"
    run.start()
    stats = run.result(WAIT)
    assert run.state == "finished"
    assert [s["scores"] for s in stats] == [0.5, 1.0, 1.5, 2.0]
    assert run.update == ppo.update == 4
    assert run.result() == stats  # may be asked again


class FarFromSFT(FakePPO):
    def __next__(self):
        return super().__next__() | {"ref_kl": 99.0, "response_length": 10.0}


def test_what_the_guards_find_is_kept_and_sent(sent):
    ppo = FarFromSFT(updates=9)
    ppo.update = 4  # made before
    run = LiveRun(ppo)
    messages = sent(run)
    run.start()
    run.result(WAIT)
    [finding] = run.findings
    assert (finding.name, finding.step) == ("exploding KL", 7)  # the third that it saw
    assert messages[0]["findings"] == []
    assert messages[-1]["findings"] == [list(finding)]


def test_start_returns_while_the_first_update_is_going_on():
    ppo = FakePPO(allowed=0)
    run = LiveRun(ppo)
    run.start()
    began(ppo, 1)
    assert (run.state, run.update) == ("running", 0)
    with pytest.raises(TimeoutError, match="update 0 of 4"):
        run.result(timeout=0.01)
    ppo.gate.release(4)
    assert len(run.result(WAIT)) == 4


def test_pause_stands_still_and_step_makes_one_update():
    ppo = FakePPO(allowed=1)
    run = LiveRun(ppo)
    run.start()
    began(ppo, 2)  # update 2 waits at the gate
    from_browser(run, {"kind": "pause"})  # does not wait
    assert run.state == "pausing"
    ppo.gate.release()
    wait_for(run, "paused")
    assert run.update == 2
    ppo.gate.release(9)  # it could run on now, but does not
    assert not ppo.began[3].wait(0.3)
    assert run.step()["scores"] == 1.5
    assert (run.state, run.update) == ("paused", 3)
    assert not ppo.began[4].wait(0.3)
    run.resume()
    assert len(run.result(WAIT)) == 4


def test_python_pause_waits_for_the_update_at_hand():
    ppo = FakePPO(updates=50)
    run = LiveRun(ppo)
    run.start()
    run.pause()
    assert run.state in ("paused", "finished")
    before = ppo.update
    assert run.update == before
    assert len(run.result(WAIT)) == 50  # result() lets a paused run go on


def test_step_can_begin_a_run():
    ppo = FakePPO()
    run = LiveRun(ppo)
    assert run.step()["scores"] == 0.5
    assert run.step()["scores"] == 1.0
    assert (run.state, ppo.update) == ("paused", 2)
    run.stop()


def test_steps_from_the_browser_add_up():
    ppo = FakePPO()
    run = LiveRun(ppo)
    from_browser(run, {"kind": "step"})
    from_browser(run, {"kind": "step"})
    from_browser(run, {"kind": "step"})
    with run._turn:
        assert run._turn.wait_for(lambda: run.update == 3 and run.state == "paused", WAIT)
    run.stop()


def test_settings_act_on_the_next_update():
    ppo = FakePPO(allowed=0)
    run = LiveRun(ppo)
    run.start()
    began(ppo, 1)
    run.set(kl_coef=0.1)
    run.set(kl_coef=0.3)  # the last wish counts
    from_browser(run, {"kind": "set", "name": "clip_range", "value": 0.4})
    assert (ppo.kl_coef, ppo.clip_range) == (0.05, 0.2)  # not in the middle of update 1
    ppo.gate.release(4)
    run.result(WAIT)
    assert ppo.seen == [(0.05, 0.2), (0.3, 0.4), (0.3, 0.4), (0.3, 0.4)]
    assert run.changes == [Change(2, "kl_coef", 0.05, 0.3), Change(2, "clip_range", 0.2, 0.4)]


@pytest.mark.parametrize(
    "wrong",
    [{"kl_coef": -0.1}, {"kl_coef": math.nan}, {"kl_coef": math.inf}, {"clip_range": 0.0},
     {"clip_range": 1.0}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    run = LiveRun(FakePPO())
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=f"{name} must be"):
        run.set(**wrong)
    from_browser(run, {"kind": "set", "name": name, "value": wrong[name]})
    run.start()
    run.result(WAIT)
    assert run.changes == []


def test_a_run_without_clipping_has_no_such_slider():
    ppo = FakePPO()
    ppo.clip_range = None
    run = LiveRun(ppo)
    assert [slider["name"] for slider in run._panel.setup["sliders"]] == ["kl_coef"]
    with pytest.raises(ValueError, match="clip_range must stay as it is: this run does without"):
        run.set(clip_range=0.2)
    run.set(kl_coef=0.3)
    run.start()
    run.result(WAIT)
    assert run.changes == [Change(1, "kl_coef", 0.05, 0.3)]


@pytest.mark.parametrize(
    "message",
    [None, "stop", 7, [], {}, {"kind": "explode"}, {"kind": "set"}, {"kind": ["stop"]},
     {"kind": "set", "name": "ppo", "value": 1}, {"kind": "set", "name": "kl_coef", "value": "x"},
     {"kind": "set", "name": "kl_coef", "value": None}, {"kind": "go"}, {"kind": "pause"}],
)  # fmt: skip
def test_nonsense_from_the_browser_changes_nothing(message):
    run = LiveRun(FakePPO())
    from_browser(run, message)
    assert run.state == "ready"


def test_stop_ends_cleanly():
    ppo = FakePPO(allowed=1)
    run = LiveRun(ppo)
    run.start()
    began(ppo, 2)
    from_browser(run, {"kind": "stop"})
    assert run.state == "stopping"
    from_browser(run, {"kind": "go"})  # too late
    ppo.gate.release(9)
    assert len(run.result(WAIT)) == 2
    assert run.state == "stopped"
    with pytest.raises(RuntimeError, match="the run is stopped"):
        run.step()
    with pytest.raises(RuntimeError, match="the run is stopped"):
        run.set(kl_coef=0.1)


def test_stop_wakes_a_paused_run():
    run = LiveRun(FakePPO())
    run.step()
    run.stop()
    assert run.state == "stopped"
    assert len(run.result(WAIT)) == 1


def test_an_exception_is_shown_and_raised_again(sent):
    run = LiveRun(FakePPO(fail_at=3))
    messages = sent(run)
    run.start()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="the loss blew up"):
            run.result(WAIT)
    assert run.state == "failed"
    assert messages[-1]["error"] == "ZeroDivisionError: the loss blew up"
    assert len(run.history) == 2  # what was measured is kept
    with pytest.raises(ZeroDivisionError):
        run.step()


def test_a_second_view_gets_everything_and_points_carry_their_update(sent):
    run = LiveRun(FakePPO(), sample=lambda update: [("Why?", f"answer {update}")])
    messages = sent(run)
    run.start()
    run.result(WAIT)
    seen = [point[0] for message in messages for point in message["points"]]
    assert sorted(set(seen)) == [1, 2, 3, 4]
    messages.clear()
    from_browser(run, {"kind": "hello"})
    (replay,) = messages
    assert [point[0] for point in replay["points"]] == [1, 2, 3, 4]
    assert [point[1] for point in replay["points"]] == [0.5, 1.0, 1.5, 2.0]  # scores
    assert [point[3] for point in replay["points"]] == [None] * 4  # a metric not reported
    assert replay["samples"] == [[0, [("Why?", "answer 0")]], [4, [("Why?", "answer 4")]]]
    assert (replay["state"], replay["update"]) == ("finished", 4)


def test_messages_are_strict_json_even_where_numbers_are_not_finite(sent):
    run = LiveRun(FakePPO(updates=2, score=math.nan), curves=["scores", "kl_coef"])
    messages = sent(run)
    run.start()
    run.result(WAIT)
    assert messages[-1]["points"] == [[2, None, 0.05]]
    json.dumps(messages, allow_nan=False)


def test_samples_are_taken_before_on_the_way_and_after():
    asked = []
    run = LiveRun(FakePPO(updates=20), sample=lambda update: asked.append(update) or [])
    assert run.step()
    run.resume()
    run.result(WAIT)
    assert asked == [0, 1, *range(2, 21, 2)]


def test_a_part_of_the_updates_and_then_the_rest():
    ppo = FakePPO(updates=5)
    first = LiveRun(ppo, updates=2)
    first.start()
    assert len(first.result(WAIT)) == 2
    rest = LiveRun(ppo)
    rest.start()
    assert [s["scores"] for s in rest.result(WAIT)] == [1.5, 2.0, 2.5]
    assert rest.update == 5
    with pytest.raises(ValueError, match="0 of 5 are left"):
        LiveRun(ppo)


def test_a_new_run_stops_an_earlier_one():
    old, new = FakePPO(allowed=1), FakePPO()
    earlier, later = LiveRun(old), LiveRun(new)
    earlier.start()
    began(old, 2)
    later.start()  # returns, and waits in its thread for update 2 of the earlier run
    assert not new.began[1].wait(0.3)
    old.gate.release(9)
    assert len(later.result(WAIT)) == 4
    assert (earlier.state, earlier.update) == ("stopped", 2)


def test_a_pause_from_within_the_run_does_not_wait_for_itself():
    run = LiveRun(FakePPO())
    run.sample = lambda update: (run.pause() if update == 2 else None) or []
    run.start()
    wait_for(run, "paused")
    assert run.update == 2
    run.stop()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"updates": 0}, "updates: 0 asked for, 4 of 4 are left"),
        ({"updates": 5}, "updates: 5 asked for"),
        ({"curves": []}, "one to four metrics, got 0"),
        ({"curves": ["reward"]}, "'reward' is not a metric"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LiveRun(FakePPO(), **options)


def test_calls_in_the_wrong_order_are_refused():
    run = LiveRun(FakePPO())
    for call in (run.pause, run.resume, run.stop, run.result):
        with pytest.raises(RuntimeError, match="call start"):
            call()
    with pytest.raises(RuntimeError, match="nothing to draw"):
        run.figure()
    run.start()
    run.result(WAIT)
    with pytest.raises(RuntimeError, match="make a new LiveRun"):
        run.start()


def test_the_figure_shows_the_curves_and_the_changes():
    run = LiveRun(FakePPO(), curves=["scores", "ref_kl", "entropy"])
    run.step()
    run.set(kl_coef=0.1)
    run.resume()
    run.result(WAIT)
    figure = run.figure()
    scores, ref_kl, *_ = figure.axes
    assert list(scores.lines[0].get_xdata()) == [1, 2, 3, 4]
    assert list(scores.lines[0].get_ydata()) == [0.5, 1.0, 1.5, 2.0]
    assert scores.get_ylabel() == "RM units"
    assert ref_kl.get_ylabel() == "nats per response"
    assert "kl_coef 0.05 → 0.1 from update 2" in figure.get_supxlabel()
    png, _ = figure._repr_png_()  # shown although no pyplot is there
    assert png.startswith(b"\x89PNG")


def test_it_displays_its_panel_and_reads_the_same_at_any_moment():
    run = LiveRun(FakePPO())
    data, _ = run._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == run._panel.model_id
    run.step()
    assert run._repr_mimebundle_()[0] == data
    run.stop()
