"""What every notebook of the course promises its reader, master by master."""

import ast
import inspect
import re
from statistics import median

import pytest

from minirlhf import maths
from minirlhf.course import checks
from minirlhf.course.build import NOTEBOOKS, build, code_lines

MASTERS = sorted((NOTEBOOKS / "src").glob("*.py"))
TOP = ("Question.", "Afterwards you can", "Time", "memory", "seed", "needs")
BUGS = re.compile(r"find the bug", re.IGNORECASE)


@pytest.fixture(params=MASTERS, ids=lambda path: path.stem)
def versions(request):
    """The student's and the solved version of one notebook, as lists of cells."""
    notebooks = [notebook["cells"] for notebook in build(request.param).values()]
    for cells in notebooks:
        for cell in cells:
            cell["text"] = "".join(cell["source"])
    return notebooks


def of_kind(cells, kind):
    return [cell["text"] for cell in cells if cell["cell_type"] == kind]


def test_code_cells_are_short_and_narrow(versions):
    for cells in versions:
        sizes = [len(text.splitlines()) for text in of_kind(cells, "code")]
        assert median(sizes) <= 8, sizes
        assert max(sizes) <= 40
        for text in of_kind(cells, "code"):
            wide = [line for line in text.splitlines() if len(line) > 80]
            assert not wide


def test_prose_is_at_least_half(versions):
    for cells in versions:
        assert 2 * len(of_kind(cells, "markdown")) >= len(cells)


def test_the_top_says_what_it_is_what_for_and_how_long(versions):
    top = versions[0][0]["text"]
    assert top.startswith("# ")
    for word in TOP:
        assert f"**{word}**" in top, word


def test_predictions_are_asked_before_the_run_with_the_answer_folded(versions):
    student = versions[0]
    asked = [i for i, cell in enumerate(student) if "**Predict " in cell["text"]]
    assert len(asked) >= 4
    for number, i in enumerate(asked, start=1):
        text = student[i]["text"]
        assert f"**Predict {number}.**" in text, "numbered in order"
        assert text.index("**Predict ") < text.index("<details>"), "the answer is folded"
        assert student[i + 1]["cell_type"] == "code", "the run follows at once"


def test_exercises_come_with_time_hints_checker_and_follow_up(versions):
    student = versions[0]
    prose = "\n".join(of_kind(student, "markdown"))
    code = "\n".join(of_kind(student, "code"))
    ids = [c["metadata"]["nbgrader"]["grade_id"] for c in student if "nbgrader" in c["metadata"]]
    names = [name for name in ids if not name.endswith("-check")]
    assert len(names) >= 2
    for name in names:
        assert name in checks.EXERCISES
        assert f"{name}-check" in ids
        assert re.search(rf'exercise\(\s*"{name}", student_{name}\s*\)', code), name
    starts = re.findall(r"\*\*Exercise \d+ · [^*]+\*\* \((easy|medium|hard), \d+ minutes\)", prose)
    assert len(starts) == len(names)
    assert prose.count("<summary>Hint: ") >= 2 * len(names)
    assert "*And then?*" in prose
    assert BUGS.search(prose), "one silent bug to find"


def test_details_are_closed_and_let_markdown_in(versions):
    for text in of_kind(versions[0], "markdown"):
        assert text.count("<details>") == text.count("</details>")
        assert text.count("</summary>\n\n") == text.count("<summary>"), "needs a blank line"


def test_the_notebook_ends_with_what_is_what(versions):
    table = [t for t in of_kind(versions[0], "markdown") if t.startswith("## What is what")]
    assert len(table) == 1
    assert "| symbol | in the code | in the logs |" in table[0]


def test_the_package_is_imported_and_never_redefined(versions):
    modules = [getattr(maths, name) for name in dir(maths)]
    taken = {
        name
        for module in modules
        if inspect.ismodule(module)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    assert "gae" in taken
    for text in of_kind(versions[1], "code"):
        for node in ast.walk(ast.parse("\n".join(code_lines(text)))):
            if isinstance(node, ast.FunctionDef):
                assert node.name not in taken


def test_nothing_hangs_or_leaks(versions):
    for text in of_kind(versions[1], "code"):
        assert "widgets.Output" not in text, "stalls nbclient now and then"
        assert "pyplot" not in text, "figures come from functions that return them"
        assert "/work" not in text and "\\Users" not in text
