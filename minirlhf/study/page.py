"""What a study found, written down: results.md, results.html, tables as CSV, figures."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from minirlhf.engine.records import write_text
from minirlhf.evaluation.page import Html, inline_svg, join, page, tag
from minirlhf.evaluation.statistics import Interval

REM_PER_INCH = 7.0  # of a figure on the page
Cell = str | int | float | Interval | None


@dataclass(frozen=True)
class Table:
    """Rows under a head; an Interval takes three columns of the CSV, estimate, low and high."""

    name: str  # of the CSV file
    caption: str  # what the numbers are, with units
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    percent: bool = False  # shares, shown in per cent on the page; the CSV has them as they are
    long: bool = False  # in the CSV alone

    def shown(self) -> list[list[str]]:
        return [[self._show(cell) for cell in row] for row in self.rows]

    def _show(self, cell: Cell) -> str:
        if isinstance(cell, Interval):
            estimate, low, high = (self._show(float(part)) for part in cell)
            return estimate if math.isnan(cell.low) else f"{estimate} [{low}, {high}]"
        if isinstance(cell, float):
            if math.isnan(cell):
                return "?"
            return f"{100 * cell:z.0f} %" if self.percent else f"{cell:z.2f}"
        return "" if cell is None else str(cell)

    def as_csv(self) -> str:
        columns = list(zip(*self.rows, strict=True))
        wide = [any(isinstance(cell, Interval) for cell in column) for column in columns]
        lines = []
        for row in self.rows:
            line: list[Cell] = []
            for cell, interval in zip(row, wide, strict=True):
                parts = cell if isinstance(cell, Interval) else [cell, None, None]
                line += parts if interval else [cell]
            lines.append(["" if cell is None else cell for cell in line])
        ends = ("", ", low", ", high")
        head = [
            name + end
            for name, interval in zip(self.head, wide, strict=True)
            for end in (ends if interval else ends[:1])
        ]
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([head, *lines])
        return out.getvalue()


def span(value: Interval, form: str = "+.2f") -> str:
    """-0.05 to +0.10, for a sentence; with one seed there is none to tell."""
    if math.isnan(value.low):
        return "one seed"
    return f"{value.low:{form}} to {value.high:{form}}"


@dataclass(frozen=True)
class Section:
    """One finding: its question, what came out in sentences, figures (name -> (figure, what it
    shows)) and tables."""

    name: str
    title: str
    sentences: Sequence[str]
    tables: Sequence[Table] = ()
    figures: Mapping[str, tuple[Figure, str]] = field(default_factory=dict)


def write_page(folder: Path, sections: Sequence[Section], opening: str, how: str) -> Path:
    """results.md and results.html in `folder`, tables and figures in `folder`/results.

    Args:    opening: a paragraph on the whole; how: the command, revision and sizes, which stands
             beside the tables as well, in made_by.txt.
    """
    for section in sections:
        for table in section.tables:
            write_text(folder / "results" / f"{table.name}.csv", table.as_csv())
        for name, (figure, _) in section.figures.items():
            figure.savefig(folder / "results" / f"{name}.png", dpi=130, facecolor="white")
    write_text(folder / "results" / "made_by.txt", how.replace("`", "") + "\n")
    write_text(folder / "results.md", as_markdown(sections, opening, how))
    write_text(folder / "results.html", as_html(sections, opening, how))
    return folder / "results.html"


def as_markdown(sections: Sequence[Section], opening: str, how: str) -> str:
    """The page for a reader of the repository; its figures lie in the folder `results`."""
    parts = ["# The paper's results in miniature", opening, how]
    for section in sections:
        parts += [f"## {section.title}", "\n".join(f"- {said}" for said in section.sentences)]
        parts += [f"![{what}](results/{name}.png)" for name, (_, what) in section.figures.items()]
        for table in section.tables:
            parts.append(f"{table.caption} ([CSV](results/{table.name}.csv))")
            if not table.long:
                rows = [table.head, ["---"] * len(table.head), *table.shown()]
                parts.append("\n".join(map(_markdown_row, rows)))
    return "\n\n".join(parts) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def as_html(sections: Sequence[Section], opening: str, how: str) -> str:
    """The page in one file, figures and style in it."""
    links = [tag("a", s.title, href=f"#{s.name}") for s in sections]
    body = [tag("h1", "The paper’s results in miniature"), tag("p", opening, class_="lede"),
            tag("nav", join(links)), tag("p", how.replace("`", ""), class_="note")]  # fmt: skip
    return page("The paper's results in miniature", *body, *map(_section, sections))


def _section(section: Section) -> Html:
    figures = [
        tag(
            "figure",
            inline_svg(figure, what),
            tag("figcaption", what),
            style=f"width: {figure.get_figwidth() * REM_PER_INCH:.1f}rem",
        )
        for figure, what in section.figures.values()
    ]
    parts = [tag("h2", section.title), *(tag("p", text) for text in section.sentences)]
    if figures:
        parts.append(tag("div", join(figures), class_="figures"))
    return tag("section", join([*parts, *map(_table, section.tables)]), id=section.name)


def _table(table: Table) -> Html:
    if table.long:
        return tag("p", f"{table.caption}: results/{table.name}.csv", class_="note")
    head = tag("tr", join([tag("th", name) for name in table.head]))
    rows = [tag("tr", join([tag("td", cell) for cell in row])) for row in table.shown()]
    return join([tag("p", table.caption, class_="note"),
                 tag("table", tag("thead", head), tag("tbody", join(rows)))])  # fmt: skip
