"""What a study writes: tables that read back, figures that are there, text that is escaped."""

import csv
import math

from matplotlib.figure import Figure

from minirlhf.evaluation.statistics import Interval
from minirlhf.study.page import Section, Table, span, write_page

ROWS = [
    ["base", 1, Interval(0.25, 0.125, 0.5), "a | b"],
    ["PPO", 2, None, "<b>"],
]
TABLE = Table("wins", "Win rate, share", ["system", "n", "wins", "note"], ROWS, percent=True)


def test_a_table_reads_back(tmp_path):
    section = Section("one", "One", ["A < B."], [TABLE])
    write_page(tmp_path, [section], "All.", "minirlhf study")
    with (tmp_path / "results" / "wins.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["system", "n", "wins", "wins, low", "wins, high", "note"],
        ["base", "1", "0.25", "0.125", "0.5", "a | b"],
        ["PPO", "2", "", "", "", "<b>"],
    ]


def test_the_tables_folder_says_what_made_them(tmp_path):
    write_page(tmp_path, [], "All.", "Made by `minirlhf study`.")
    said = (tmp_path / "results" / "made_by.txt").read_text(encoding="utf-8")
    assert said == "Made by minirlhf study.\n"


def test_a_span_has_its_signs_or_is_of_one_seed():
    assert span(Interval(0.1, -0.05, 0.25)) == "-0.05 to +0.25"
    assert span(Interval(0.1, math.nan, math.nan)) == "one seed"


def test_shares_are_shown_in_per_cent_and_numbers_as_they_are():
    assert TABLE.shown()[0] == ["base", "1", "25 % [12 %, 50 %]", "a | b"]
    plain = Table("t", "", ["x", "y"], [[1.234, None], [float("nan"), 3]])
    assert plain.shown() == [["1.23", ""], ["?", "3"]]
    one_seed = Interval(0.5, float("nan"), float("nan"))
    assert Table("t", "", ["x"], [[one_seed]]).shown() == [["0.50"]]


def test_the_page_has_its_figures_and_no_raw_text(tmp_path):
    figure = Figure()
    figure.subplots().plot([1, 2])
    section = Section("one", "One & two", ["A < B."], [TABLE], {"line": (figure, "A line")})
    page = write_page(tmp_path, [section], "All.", "minirlhf study").read_text(encoding="utf-8")
    assert "A &lt; B." in page and "<b>" not in page and 'aria-label="A line"' in page
    assert "http" not in page.replace("http://www.w3.org", "")
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "\n- A < B.\n" in text
    assert r"| base | 1 | 25 % [12 %, 50 %] | a \| b |" in text.splitlines()
    assert "![A line](results/line.png)" in text and "| 25 % [12 %, 50 %] |" in text
    assert (tmp_path / "results" / "line.png").stat().st_size > 1000


def test_a_long_table_is_a_file_alone(tmp_path):
    table = Table("all", "Every point", ["x"], [[12345]], long=True)
    page = write_page(tmp_path, [Section("one", "One", [], [table])], "All.", "minirlhf study")
    assert (tmp_path / "results" / "all.csv").read_text() == "x\n12345\n"
    for text in (page.read_text(encoding="utf-8"), (tmp_path / "results.md").read_text()):
        assert "Every point" in text and "12345" not in text
