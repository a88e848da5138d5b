"""The exercises: solved ones pass their checkers, stubs and buggy ones do not, and all go on."""

import pytest

from minirlhf.course import checks
from minirlhf.course.build import NOTEBOOKS, build, code_lines
from minirlhf.course.exercise import exercise
from minirlhf.maths import preferences

MASTERS = sorted((NOTEBOOKS / "src").glob("*.py"))


def run_exercises(cells):
    """Execute the imports and the nbgrader cells of a notebook; return the namespace."""
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    namespace = {}
    for cell in code[:1] + [cell for cell in code if "nbgrader" in cell["metadata"]]:
        exec("\n".join(code_lines("".join(cell["source"]))), namespace)
    return namespace


def names(cells):
    found = [c["metadata"]["nbgrader"] for c in cells if "nbgrader" in c["metadata"]]
    return [one["grade_id"] for one in found if one["solution"]]


@pytest.mark.parametrize("master", MASTERS, ids=lambda path: path.stem)
def test_solutions_pass_under_nbgrader(master, monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")  # a failure raises
    _, cells = (notebook["cells"] for notebook in build(master).values())
    namespace = run_exercises(cells)
    for name in names(cells):
        assert namespace[name] is namespace[f"student_{name}"]


@pytest.mark.parametrize("master", MASTERS, ids=lambda path: path.stem)
def test_what_the_student_gets_is_refused_and_the_notebook_goes_on(master, monkeypatch):
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)
    cells, _ = (notebook["cells"] for notebook in build(master).values())
    namespace = run_exercises(cells)
    for name in names(cells):
        assert namespace[name] is checks.find(name).reference


def wrong(ranks):
    return []


def stub(ranks):
    raise NotImplementedError("exercise ranking_to_pairs")


def broken(ranks):
    return ranks["first"]


@pytest.mark.parametrize(
    "student, message",
    [(stub, "not written yet"), (wrong, "failed"), (broken, "TypeError"), (None, "function")],
)
def test_a_missing_or_wrong_function_is_told_and_replaced(student, message, capsys, monkeypatch):
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)
    got = exercise("ranking_to_pairs", student)
    said = capsys.readouterr().out
    assert got is preferences.ranking_to_pairs
    assert message in said and "goes on with minirlhf's own" in said
    assert "Traceback" not in said


def test_a_right_function_is_used(capsys):
    def mine(ranks):
        return preferences.ranking_to_pairs(ranks)

    assert exercise("ranking_to_pairs", mine) is mine
    assert "checks passed" in capsys.readouterr().out


@pytest.mark.parametrize("student", [stub, wrong, broken])
def test_under_nbgrader_a_wrong_function_earns_nothing(student, monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(checks.CheckFailed):
        exercise("ranking_to_pairs", student)


def test_an_unknown_exercise_is_named():
    with pytest.raises(ValueError, match="rankig_loss"):
        exercise("rankig_loss", stub)
