"""The ranking widget in a real JupyterLab: mouse, keyboard, focus, screen reader text."""

import json

import pytest

from .lab_driver import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(280)]

CELLS = [
    """
import json
from pathlib import Path
from minirlhf.course.ranking_widget import RankingWidget

widget = RankingWidget(
    "What is the moon?",
    [
        "The nearest celestial body to Earth in the solar system.",
        "The fifth-largest moon of the solar system.",
        "A body of <b>ice</b> and rock on an elliptical path round the Earth."
        "<img src=x onerror=console.error('html')>",
        "Earth's satellite.",
    ],
)

def save(change):
    text = json.dumps([widget.ranks, widget.summary()])
    Path("ranks.json").write_text(text, encoding="utf-8")

widget.observe(save, "ranks")
save(None)
widget
""",
]


def test_ranking_widget(notebook, lab, shoot):
    page = notebook("ranking.ipynb", CELLS)
    spoken = page.locator(".minirlhf-rank .spoken")

    def card(letter):
        return page.locator(f".minirlhf-rank .card[data-index='{ord(letter) - 65}']")

    def kernel_has(*want):
        path = lab.folder / "ranks.json"
        read = lambda: tuple(json.loads(path.read_text(encoding="utf-8"))[0])  # noqa: E731
        wait_until(lambda: read() == want, f"the kernel has the ranks {want}")

    def drag(letter, onto, height, name=""):
        """Drag to a point at `height` (0 top, 1 bottom) of another card."""
        start, end = card(letter).bounding_box(), card(onto).bounding_box()
        x, y = start["x"] + 150, start["y"] + start["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 10, end["y"] + end["height"] * height, steps=6)
        if name:
            shoot(page, name)
        page.mouse.up()
        page.wait_for_timeout(300)  # the cards slide for 160 ms

    def press(letter, key):
        assert page.evaluate("document.activeElement.dataset.index") == str(ord(letter) - 65)
        page.keyboard.press(key)

    card("A").wait_for()
    assert "<b>ice</b>" in card("C").inner_text()
    assert page.locator(".minirlhf-rank img").count() == 0
    kernel_has(1, 2, 3, 4)
    shoot(page, "ranking-start")

    # The mouse: D before A, C above A, B onto A; then D > C > A = B, as the labeler ranks.
    drag("D", "A", 0.02, name="ranking-move")
    kernel_has(2, 3, 4, 1)
    drag("C", "A", 0.02)
    kernel_has(3, 4, 2, 1)
    drag("B", "A", 0.5, name="ranking-tie")
    kernel_has(3, 3, 2, 1)
    shoot(page, "ranking-done")
    assert page.locator(".minirlhf-rank .order").inner_text() == "D > C > A = B"
    assert page.locator(".minirlhf-rank .chip").count() == 5
    drag("B", "B", 0.5)  # dropped where it was
    kernel_has(3, 3, 2, 1)

    # Escape puts a card back that is in the air.
    box = card("D").bounding_box()
    page.mouse.move(box["x"] + 90, box["y"] + 15)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 150, steps=4)
    page.keyboard.press("Escape")
    page.mouse.up()
    kernel_has(3, 3, 2, 1)

    # The keyboard, with the focus staying on the card that moves.
    card("B").focus()
    press("B", "Alt+ArrowRight")
    kernel_has(3, 4, 2, 1)
    press("B", "ArrowUp")
    kernel_has(4, 3, 2, 1)
    press("B", "Alt+ArrowUp")
    kernel_has(3, 2, 2, 1)
    assert spoken.inner_text().startswith("B is now in place 2 of 3, tied with C.")
    press("B", "ArrowDown")
    kernel_has(4, 3, 2, 1)
    press("B", "Alt+ArrowDown")
    kernel_has(3, 3, 2, 1)
    press("B", "ArrowUp")
    press("B", "ArrowUp")
    press("B", "ArrowUp")
    press("B", "ArrowUp")  # there is nothing above the best
    kernel_has(4, 1, 3, 2)
    assert page.locator(".jp-Notebook .jp-Cell").count() == 1  # no key reached the notebook
    page.keyboard.press("Control+s")  # but this one should
    saved = lab.folder / "ranking.ipynb"
    wait_until(lambda: "widget-view" in saved.read_text(encoding="utf-8"), "Ctrl+S saves")

    assert page.problems.console == []
    assert page.problems.foreign == []
