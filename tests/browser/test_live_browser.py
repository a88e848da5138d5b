"""The live panel in a real JupyterLab: curves, pause, step, sliders, a second view, stop."""

import json

import pytest

from .lab_driver import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(280)]

FAKE = '''
import json, math, random, time
from minirlhf.course.live import LiveRun

class FakePPO:
    """Yields what PPO yields, and logs the settings that each update was made with."""

    kl_coef, clip_range, update = 0.05, 0.2, 0

    def __len__(self):
        return 2000

    def __iter__(self):
        return self

    def __next__(self):
        if self.update == len(self):
            raise StopIteration
        time.sleep(0.1)
        self.update += 1
        row = [self.update, self.kl_coef, self.clip_range]
        with open("updates.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\\n")
        rise = 1 - math.exp(-self.update / 40)
        noise = random.Random(self.update).gauss
        return {
            "scores": -0.2 + 2 * rise + noise(0, 0.1),
            "ref_kl": 6 * rise * 0.1 / (0.05 + self.kl_coef) + noise(0, 0.15),
            "response_length": 14 - 4 * rise + noise(0, 0.4),
            "clip_fraction": max(0, 0.1 + noise(0, 0.03)),
            "entropy": 0.6 if self.update < 10 else 0.01,
        }

def sample(update):
    if update == 0:
        return [("What does Europa orbit?", "What does Europa orbit? <b>What</b> is the"),
                ("What is the moon?", "Look it up yourself.")]
    return [("What does Europa orbit?", f"Europa orbits Jupiter. <i>({update})</i>"),
            ("What is the moon?", "The Moon is Earth's satellite.")]

run = LiveRun(FakePPO(), sample=sample)
run.start()
run
'''
CELLS = [FAKE, "run", "run.figure() if run.state == 'stopped' else len(run.history)"]


def test_live_panel(notebook, lab, shoot):
    page = notebook("live.ipynb", CELLS)
    panel = page.locator(".minirlhf-live").first
    panel.wait_for()

    def log():
        lines = (lab.folder / "updates.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def shows(attribute):
        return panel.get_attribute(f"data-{attribute}")

    def click(label):
        panel.get_by_role("button", name=label, exact=True).click()

    def state_is(want):
        wait_until(lambda: shows("state") == want, f"the panel says {want}")

    def settled_at(update):
        """Paused after exactly this update, in the kernel and in the panel."""
        wait_until(lambda: shows("update") == str(update), f"the panel shows update {update}")
        state_is("paused")
        page.wait_for_timeout(500)  # five updates
        assert len(log()) == update
        assert shows("update") == shows("points") == str(update)

    # Curves appear while the kernel is free for other cells.
    wait_until(lambda: int(shows("points")) >= 20, "the panel draws")
    assert panel.locator(".curve").count() == 4
    assert panel.locator("table").inner_text().count("<b>") == 1  # answers are no HTML
    finding = "Update 12: entropy collapse. The entropy has fallen from 0.6 to 0.01 nats per token"
    assert finding in panel.locator(".findings li").inner_text()  # one, said once
    shoot(page, "live-running")

    click("Pause")
    state_is("paused")
    paused_at = len(log())
    settled_at(paused_at)
    click("Step")
    settled_at(paused_at + 1)

    # A slider, with the keyboard and with the mouse; it acts on the next update.
    slider = panel.locator("input[name=kl_coef]")
    slider.focus()
    page.keyboard.press("ArrowRight")
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    chosen = float(slider.input_value())
    assert 0.15 < chosen < 0.25
    panel.get_by_text("from the next update on").wait_for()
    assert log()[-1][1] == 0.05
    click("Step")
    settled_at(paused_at + 2)
    assert log()[-1] == [paused_at + 2, pytest.approx(chosen), 0.2]
    assert f"from update {paused_at + 2}" in panel.locator(".legend").inner_text()
    clip = panel.locator("input[name=clip_range]")
    clip.focus()
    page.keyboard.press("ArrowLeft")
    click("Step")
    settled_at(paused_at + 3)
    assert log()[-1][2] == pytest.approx(0.19)

    # The second cell shows the same run: everything is there, and nothing twice.
    second = page.locator(".minirlhf-live").nth(1)
    second.scroll_into_view_if_needed()
    assert second.get_attribute("data-points") == str(paused_at + 3)
    assert second.locator(".findings li").count() == 1
    assert second.locator("input[name=kl_coef]").input_value() == slider.input_value()
    second.get_by_role("button", name="Resume", exact=True).click()
    state_is("running")
    wait_until(lambda: len(log()) > paused_at + 30, "the run goes on")
    width = panel.locator("svg").first.bounding_box()["width"]
    panel.locator("svg").first.hover(position={"x": width / 3, "y": 60})
    wait_until(lambda: panel.locator(".cross").count() == 4, "all plots show the same update")
    shoot(page, "live-changed")

    click("Stop")
    state_is("stopped")
    assert panel.get_by_role("button", name="Pause", exact=True).is_disabled()
    assert len(log()) == int(shows("update")) < 2000

    # A page that is loaded again finds the run in the kernel, with all of its points.
    page.keyboard.press("Control+s")
    saved = lab.folder / "live.ipynb"
    wait_until(lambda: "widget-view" in saved.read_text(encoding="utf-8"), "Ctrl+S saves")
    page.reload()
    state_is("stopped")
    assert shows("points") == str(len(log()))

    # The picture that stays.
    page.locator(".jp-CodeCell .cm-content").last.click()
    page.keyboard.press("Shift+Enter")
    page.locator(".jp-OutputArea-output img").wait_for()
    shoot(page, "live-stopped")

    assert page.problems.console == []
    assert page.problems.foreign == []
