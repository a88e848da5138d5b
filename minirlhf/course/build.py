"""Make the student and the solved notebooks from their masters.

One master per notebook, ``notebooks/src/NN_name.py`` (jupytext percent format), is the only
file that anybody edits. From it this command makes

    notebooks/NN_name.ipynb             what a student opens: solutions replaced by stubs
    notebooks/solutions/NN_name.ipynb   the same notebook, solved

Use: ``python -m minirlhf.course.build`` writes them (and overwrites what was there),
``python -m minirlhf.course.build --check`` writes nothing, names those that are stale and exits 1.

A cell's header carries its nbgrader metadata in short, and the builder completes it:

    # %% nbgrader={"grade_id": "gae", "solution": true}             the exercise
    # %% nbgrader={"grade_id": "gae-check", "grade": true, "points": 2}   the cell that checks it

Inside an exercise the lines between ``### BEGIN SOLUTION`` and ``### END SOLUTION`` become a
stub that raises NotImplementedError. Where the student should start from other code (a bug to
find, a line to complete), that code follows as a comment after ``### STUDENTS SEE``.
"""

import argparse
import ast
import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

import jupytext

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
BEGIN, INSTEAD, END = "### BEGIN SOLUTION", "### STUDENTS SEE", "### END SOLUTION"
JUPYTEXT = {"cell_marker", "lines_to_next_cell"}  # its notes on layout
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def _nbgrader(short, cell_type):
    """Complete a cell's nbgrader metadata (schema 3).

    >>> _nbgrader({"grade_id": "gae", "solution": True}, "code")["locked"]
    False
    """
    allowed = {"grade_id", "solution", "grade", "points"}
    if not short.get("grade_id") or set(short) - allowed:
        raise ValueError(f"nbgrader metadata takes {sorted(allowed)}, grade_id at least: {short}")
    solution, grade = bool(short.get("solution")), bool(short.get("grade"))
    if grade != ("points" in short):
        raise ValueError("a graded cell has points, and no other cell has")
    full = {
        "cell_type": cell_type,
        "grade": grade,
        "grade_id": short["grade_id"],
        "locked": not solution,
        "schema_version": 3,
        "solution": solution,
        "task": False,
    }
    return full | ({"points": short["points"]} if grade else {})


def _split(source):
    """Yield (kind, line) with kind "plain", "mark", "solution" or "stub".

    Raises: ValueError where the marks do not come as BEGIN ... [STUDENTS SEE ...] END.
    """
    kind = "plain"
    for line in source.splitlines():
        mark = line.strip()
        if mark in (BEGIN, INSTEAD, END):
            if (kind, mark) not in {
                ("plain", BEGIN),
                ("solution", INSTEAD),
                ("solution", END),
                ("stub", END),
            }:
                raise ValueError(f"'{mark}' out of place")
            kind = {BEGIN: "solution", INSTEAD: "stub", END: "plain"}[mark]
            yield "mark", line
        else:
            yield kind, line
    if kind != "plain":
        raise ValueError(f"'{END}' is missing")


def solved_source(source):
    """Return the cell as an instructor sees it: the solution between its two marks.

    >>> print(solved_source("### BEGIN SOLUTION\\nx = 1\\n### STUDENTS SEE\\n# x = 2\\n"
    ...                     "### END SOLUTION"))
    ### BEGIN SOLUTION
    x = 1
    ### END SOLUTION
    """
    lines = [line for kind, line in _split(source) if kind != "stub" and line.strip() != INSTEAD]
    return "\n".join(lines)


def student_source(source, name):
    """Return the cell as a student gets it; `name` tells in the stub which exercise it is.

    >>> print(student_source("def f(x):\\n    ### BEGIN SOLUTION\\n    return x\\n"
    ...                      "    ### END SOLUTION", "f"))
    def f(x):
        # YOUR CODE HERE
        raise NotImplementedError("exercise f")
    """
    out, given = [], False
    for kind, line in _split(source):
        indent = line[: len(line) - len(line.lstrip())]
        if kind == "plain":
            out.append(line)
        elif kind == "stub":
            out.append(indent + line.strip().removeprefix("#").removeprefix(" "))
        elif line.strip() == INSTEAD:
            given = True
        elif line.strip() == END:
            if not given:
                stub = f'raise NotImplementedError("exercise {name}")'
                out += [indent + "# YOUR CODE HERE", indent + stub]
            given = False
    return "\n".join(out)


def _cell_id(notebook, key, seen):
    """A deterministic id: it changes with the cell's key, not with its place in the notebook."""
    seen[key] += 1
    return hashlib.sha256(f"{notebook}/{key}/{seen[key]}".encode()).hexdigest()[:12]


def _cells(master):
    """Yield (cell, its nbgrader metadata or None, its key) of a master, in order."""
    for cell in jupytext.read(master, fmt="py:percent").cells:
        short = cell.metadata.get("nbgrader")
        other = set(cell.metadata) - {"nbgrader", "tags"} - JUPYTEXT
        if other:
            raise ValueError(f"unknown cell metadata {sorted(other)}")
        grader = _nbgrader(short, cell.cell_type) if short is not None else None
        key = grader["grade_id"] if grader else cell.source.split("\n", 1)[0]
        yield cell, grader, key


def _notebook(master, solved):
    """Return one version of a master's notebook, as the dict that nbformat 4.5 asks for."""
    seen, cells, key = Counter(), [], "(first cell)"
    try:
        for cell, grader, key in _cells(master):
            source, is_solution = cell.source, bool(grader and grader["solution"])
            if is_solution != (BEGIN in source):
                raise ValueError(f"a cell with '{BEGIN}' needs nbgrader solution=true, both ways")
            if solved:
                source = solved_source(source)
            elif is_solution:
                source = student_source(source, grader["grade_id"])
            if cell.cell_type == "code":
                ast.parse("\n".join(code_lines(source)))
            metadata = {"tags": list(cell.metadata["tags"])} if "tags" in cell.metadata else {}
            if grader:
                metadata["nbgrader"] = grader
                if seen[key]:
                    raise ValueError(f"grade_id '{key}' is used twice")
            out = {
                "cell_type": cell.cell_type,
                "id": _cell_id(master.stem, key, seen),
                "metadata": metadata,
                "source": source.splitlines(keepends=True),
            }
            empty = {"execution_count": None, "outputs": []} if cell.cell_type == "code" else {}
            cells.append(out | empty)
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{master}: cell '{key[:60]}': {error}") from error
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def code_lines(source):
    """Return a code cell's lines of Python, without IPython's magics.

    >>> code_lines("%matplotlib inline\\nx = 1")
    ['x = 1']
    """
    return [line for line in source.splitlines() if not line.startswith(("%", "!"))]


def build(master):
    """Return {path: notebook dict} for the two notebooks that one master makes.

    Raises: ValueError naming the file and the cell: unknown metadata, marks out of place, a
        grade_id used twice, code that does not parse in either version.
    """
    folder, name = master.parent.parent, f"{master.stem}.ipynb"
    return {
        folder / name: _notebook(master, solved=False),
        folder / "solutions" / name: _notebook(master, solved=True),
    }


def to_text(notebook):
    """Return a notebook as the text that is written, the same on every system."""
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def stripped(notebook):
    """Return a notebook without what running or opening it leaves behind.

    Outputs, execution counts, widget state, the kernel's version and the editor's cell flags go;
    sources, ids and nbgrader metadata stay.
    """
    cells = []
    for cell in notebook["cells"]:
        kept = {k: v for k, v in cell["metadata"].items() if k in ("nbgrader", "tags")}
        lines = "".join(cell["source"]).splitlines(keepends=True)
        clean = {k: cell.get(k) for k in ("cell_type", "id")} | {"metadata": kept, "source": lines}
        if cell["cell_type"] == "code":
            clean |= {"execution_count": None, "outputs": []}
        cells.append(clean)
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def is_fresh(text, notebook):
    """Say whether a file's text is this notebook, apart from outputs and the like."""
    try:
        return to_text(stripped(json.loads(text))) == to_text(notebook)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False  # not a notebook at all


def main(argv=None):
    """Build or check all notebooks; return the exit code."""
    parser = argparse.ArgumentParser(description="Make the notebooks from notebooks/src/*.py.")
    parser.add_argument("--check", action="store_true", help="name stale notebooks, write nothing")
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOKS, help="the notebooks folder")
    args = parser.parse_args(argv)
    masters = sorted((args.notebooks / "src").glob("[0-9][0-9]_*.py"))
    if not masters:
        print(f"{args.notebooks / 'src'}: no master like 01_name.py there", file=sys.stderr)
        return 2
    try:
        wanted = {path: nb for master in masters for path, nb in build(master).items()}
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    stale = [
        path
        for path, notebook in wanted.items()
        if not (path.exists() and is_fresh(path.read_text(encoding="utf-8"), notebook))
    ]
    for path in stale:
        if not args.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(to_text(wanted[path]), encoding="utf-8", newline="\n")
        print("stale:" if args.check else "wrote", path.relative_to(args.notebooks))
    if not stale:
        print(f"{len(wanted)} notebooks are up to date")
    return 1 if args.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
