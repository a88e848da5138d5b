"""The builder: two notebooks from one master, the same on every machine, never stale."""

import json
import subprocess

import nbformat
import pytest

from minirlhf.course.build import NOTEBOOKS, build, is_fresh, main, to_text

MASTERS = sorted((NOTEBOOKS / "src").glob("*.py"))
BUILT = {path: notebook for master in MASTERS for path, notebook in build(master).items()}
SMALL = '''# %% [markdown]
r"""
# A title
"""

# %%
import math


# %% nbgrader={"grade_id": "half", "solution": true}
def half(x):
    ### BEGIN SOLUTION
    return x / 2
    ### END SOLUTION


# %% nbgrader={"grade_id": "bug", "solution": true}
def double(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### STUDENTS SEE
    # return (
    #     x
    # )
    ### END SOLUTION


# %% nbgrader={"grade_id": "half-check", "grade": true, "points": 1}
assert half(2) == 1
'''


@pytest.fixture
def folder(tmp_path):
    """A notebooks folder with one small master."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "01_small.py").write_text(SMALL, encoding="utf-8")
    return tmp_path


def run(folder, *flags):
    return main(["--notebooks", str(folder), *flags])


def cells(folder, name="01_small.ipynb"):
    notebook = json.loads((folder / name).read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"]]


def staged(path):
    """The file as git's index has it, or None without git."""
    command = ["git", "show", f":./{path.name}"]
    try:
        shown = subprocess.run(command, cwd=path.parent, capture_output=True, timeout=30)
    except OSError:
        return None
    return shown.stdout.decode("utf-8") if shown.returncode == 0 else None


@pytest.mark.parametrize("path", BUILT, ids=lambda p: str(p.relative_to(NOTEBOOKS)))
def test_notebook_is_not_stale(path):
    # Either copy will do: a student who has solved an exercise in place has broken nothing.
    texts = [path.read_text(encoding="utf-8") if path.exists() else "", staged(path) or ""]
    assert any(is_fresh(text, BUILT[path]) for text in texts), (
        f"{path} does not match its master: run `python -m minirlhf.course.build`"
    )


@pytest.mark.parametrize("path", BUILT, ids=lambda p: str(p.relative_to(NOTEBOOKS)))
def test_notebook_is_committed_without_outputs(path):
    text = staged(path)
    if text is None:
        pytest.skip("not in a git checkout")
    notebook = json.loads(text)
    assert not [cell for cell in notebook["cells"] if cell.get("outputs")]
    assert "widgets" not in notebook["metadata"], "saved widget state breaks GitHub's view"


@pytest.mark.parametrize("path", BUILT, ids=lambda p: str(p.relative_to(NOTEBOOKS)))
def test_notebook_is_valid_and_its_ids_are_its_own(path):
    nbformat.validate(nbformat.reads(to_text(BUILT[path]), as_version=4))
    ids = [cell["id"] for cell in BUILT[path]["cells"]]
    assert len(set(ids)) == len(ids)


def test_the_student_gets_stubs_and_the_instructor_solutions(folder):
    assert run(folder) == 0
    student, solved = cells(folder), cells(folder, "solutions/01_small.ipynb")
    assert student[2].splitlines()[-1] == '    raise NotImplementedError("exercise half")'
    assert student[3] == "def double(x):\n    return (\n        x\n    )"
    assert "return x / 2" in solved[2] and "### BEGIN SOLUTION" in solved[2]
    assert "return 2 * x" in solved[3] and "STUDENTS" not in solved[3]
    assert student[0] == solved[0] == "# A title"
    assert "### " not in "".join(student)


def test_nbgrader_metadata_is_complete(folder):
    cell = build(folder / "src" / "01_small.py")[folder / "01_small.ipynb"]["cells"][4]
    assert cell["metadata"]["nbgrader"] == {
        "cell_type": "code",
        "grade": True,
        "grade_id": "half-check",
        "locked": True,
        "points": 1,
        "schema_version": 3,
        "solution": False,
        "task": False,
    }


def test_ids_stay_when_a_cell_is_put_in_front(folder):
    master = folder / "src" / "01_small.py"
    before = [c["id"] for c in build(master)[folder / "01_small.ipynb"]["cells"]]
    master.write_text("# %%\nimport sys\n\n" + SMALL, encoding="utf-8")
    after = [c["id"] for c in build(master)[folder / "01_small.ipynb"]["cells"]]
    assert after[1:] == before


def test_check_names_what_is_stale_and_writes_nothing(folder, capsys):
    assert run(folder, "--check") == 1
    assert "stale: 01_small.ipynb" in capsys.readouterr().out
    assert not (folder / "01_small.ipynb").exists()
    run(folder)
    assert run(folder, "--check") == 0
    master = folder / "src" / "01_small.py"
    master.write_text(SMALL.replace("x / 2", "x * 0.5"), encoding="utf-8")
    capsys.readouterr()
    assert run(folder, "--check") == 1
    assert capsys.readouterr().out.split() == ["stale:", str(_solved())]


def _solved():
    from pathlib import Path

    return Path("solutions") / "01_small.ipynb"


def test_running_a_notebook_does_not_make_it_stale_and_editing_does(folder):
    run(folder)
    path = folder / "01_small.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["metadata"]["language_info"]["version"] = "3.12.1"
    notebook["cells"][1] |= {"execution_count": 7, "metadata": {"scrolled": True}}
    notebook["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "!"}]
    path.write_text(json.dumps(notebook), encoding="utf-8")
    assert run(folder, "--check") == 0
    notebook["cells"][1]["source"] = ["import math, cmath"]
    path.write_text(json.dumps(notebook), encoding="utf-8")
    assert run(folder, "--check") == 1


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("### END SOLUTION", "", "'### END SOLUTION' is missing"),
        ("    ### BEGIN SOLUTION\n", "", "needs nbgrader solution=true"),
        ('"grade_id": "bug"', '"grade_id": "half"', "'half' is used twice"),
        ('"points": 1', '"poinst": 1', "nbgrader metadata takes"),
        (', "points": 1', "", "a graded cell has points"),
        ("import math", "import", "invalid syntax"),
        ("    # )", "", "'(' was never closed"),
        ("# %%\n", '# %% name="x"\n', "unknown cell metadata ['name']"),
    ],
)
def test_a_broken_master_is_named_in_one_line(folder, capsys, old, new, message):
    master = folder / "src" / "01_small.py"
    master.write_text(SMALL.replace(old, new, 1), encoding="utf-8")
    assert run(folder) == 2
    error = capsys.readouterr().err
    assert message in error and str(master) in error and "cell '" in error
    assert error.count("\n") == 1
    assert not (folder / "01_small.ipynb").exists()


def test_a_folder_without_masters_is_an_error(tmp_path, capsys):
    assert run(tmp_path) == 2
    assert "no master" in capsys.readouterr().err
