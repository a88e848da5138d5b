"""The report page: self-contained, escaped, true to the numbers, honest about gaps."""

import json
import re
from html.parser import HTMLParser

import pytest

from minirlhf.engine.records import DataError
from minirlhf.evaluation.page import moon, tag
from minirlhf.evaluation.report import write_report

from .conftest import HOSTILE, write_rows

VOID = {"meta", "img", "br", "hr"}


class Page(HTMLParser):
    """Collects tags, attributes, section titles and table rows; checks that tags nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.urls, self.titles, self.rows, self.open = [], [], [], {}, []
        self.cells = []
        self.feed(text)
        assert not self.open, f"unclosed: {self.open}"

    def handle_starttag(self, name, attributes):
        self.tags.append(name)
        self.urls += [v for k, v in attributes if k in ("href", "src", "xlink:href", "data")]
        assert not any(k.startswith("on") for k, _ in attributes)
        if name not in VOID:
            self.open.append(name)
        if name == "tr":
            self.cells = []
        if name in ("td", "th"):
            self.cells.append([])

    def handle_startendtag(self, name, attributes):
        self.handle_starttag(name, attributes)
        if name not in VOID:
            self.open.pop()

    def handle_endtag(self, name):
        assert self.open.pop() == name
        if name == "tr":
            head, *cells = ["|".join(c) for c in self.cells]
            self.rows.setdefault(head.split("|")[0], cells)

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)
        if data.strip() and self.cells and "tr" in self.open:
            self.cells[-1].append(data)


def read(folder, **options):
    text = write_report(folder, **options).read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def full(full_run):
    text = (full_run / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


def change_answers(folder, change):
    """Rewrite the answers; the curves, which take time to draw, go."""
    (folder / "metrics.jsonl").unlink()
    lines = (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    write_rows(folder / "answers.jsonl", change([json.loads(line) for line in lines]))


ALL = ["The result", "The answers, side by side", "How it was learned", "What the guards saw",
       "Where it got worse", "Settings", "Time per stage", "How to repeat it"]  # fmt: skip


def test_a_full_run_has_every_section(full):
    text, page = full
    assert page.titles == ALL
    for name in ("base", "prompted base", "SFT", "PPO", "PPO-ptx"):
        assert f"<b>{name}</b>" in text
    assert page.tags.count("figure") == 6 + 2 + 2 + 9


def test_the_guards_say_what_they_looked_for_and_what_they_found(full, run_folder):
    text, _ = full
    assert (
        "Nothing. They look for: entropy collapse, exploding KL, answers that do not end, over-"
        in text
    )
    assert "length" not in re.search(r"They look for: [^<]*", text)[0]  # its metric is not there
    rows = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["stage"] == "ppo-ptx" and row["step"] > 30:
            row["entropy"] = 0.01
    write_rows(run_folder / "metrics.jsonl", rows)
    text, _ = read(run_folder)
    assert "They look for" not in text
    assert "<b>PPO-ptx, step 34: entropy collapse.</b> The entropy has fallen from 1.1 to" in text


def test_the_page_fetches_nothing(full):
    text, page = full
    assert "http" not in text and "@import" not in text and "//" not in text.replace("</", "")
    assert not {"script", "link", "iframe", "object", "embed", "img"} & set(page.tags)
    files = {"settings.yaml", "metrics.jsonl", "answers.jsonl", "results.json"}
    assert {url for url in page.urls if not url.startswith("#")} == files
    ids = set(re.findall(r' id="([^"]+)"', text))
    assert {url[1:] for url in page.urls if url.startswith("#")} <= ids
    assert all(target in ids for target in re.findall(r"url\(#([^)]+)\)", text))


def test_answers_and_names_are_escaped(run_folder):
    hostile_prompt = {"prompt": "<b onclick=x>?", "system": "<u>", "answer": "</p>"}
    change_answers(run_folder, lambda rows: [hostile_prompt, *rows])
    text, _ = read(run_folder.rename(run_folder.with_name("<i>")))
    assert HOSTILE not in text and not re.search(r"<b onclick|<i>|<u>", text)
    assert "&lt;script&gt;alert(&quot;moon&quot;)&lt;/script&gt;" in text


def test_the_table_shows_the_numbers_of_results_json(full, full_run):
    results = json.loads((full_run / "results.json").read_text(encoding="utf-8"))
    _, page = full
    for i, row in enumerate(results["systems"].values()):
        gold, ends = page.rows["Gold score"][i].split("|")
        low, high = ends.split(" to ")
        assert (gold, low, high) == tuple(
            f"{row[k]:.2f}" for k in ("gold", "gold_low", "gold_high")
        )
        shown = float(page.rows["Reward-model score"][i].replace("−", "-"))
        assert shown == pytest.approx(row["score"], abs=0.005)
        assert page.rows["On topic"][i] == f"{row['on_topic']:.0%}"
        assert page.rows["Ended"][i] == f"{row['ended']:.0%}"
        assert float(page.rows["KL from SFT"][i]) == pytest.approx(row["ref_kl"], abs=0.005)
        assert float(page.rows["Length"][i]) == pytest.approx(row["length"], abs=0.05)
    assert page.rows["PPO-ptx"] == ["3 min 41 s", ""] and page.rows["All"][0] == "8 min 30 s"


def test_settings_stand_beside_the_papers(run_folder):
    _, page = read(run_folder, paper={"sft": {"epochs": 16, "dropout": 0.2}})
    assert page.rows["epochs"] == ["3", "16"]
    assert page.rows["learning_rate"] == ["0.001", ""]
    assert page.rows["clip_range"] == ["0.2"]  # no paper values were given for ppo


def test_an_answer_may_hold_a_unicode_line_break(run_folder):
    line = '{"prompt": "q", "system": "PPO", "answer": "one\u2028two\x85"}\n'
    (run_folder / "metrics.jsonl").unlink()
    (run_folder / "answers.jsonl").write_text(line, encoding="utf-8")
    assert "one\u2028two\x85" in read(run_folder)[0]


def test_the_moon_question_comes_first_with_worded_verdicts(run_folder):
    change_answers(run_folder, lambda rows: rows[5:] + rows[:5])
    text, _ = read(run_folder)
    assert text.index("What is the Moon?") < text.index("What does body number 1 orbit?")
    assert "What does body number 5 orbit?" in text and "✗ not true" in text and "✓ ended" in text


def test_chips_say_what_the_verdict_says(run_folder):
    verdict = {"on_topic": True, "true": False, "complete": None, "polite": False, "ended": True}
    row = {"prompt": "q", "system": "PPO", "answer": "a", "gold": 0.5, "verdict": verdict}
    change_answers(run_folder, lambda _: [row])
    chips = re.findall(r'<li class="(yes|no)">([^<]+)<', read(run_folder)[0])
    assert chips == [("yes", "✓ on topic"), ("no", "✗ not true"), ("no", "✗ rude"),
                     ("yes", "✓ ended")]  # fmt: skip


def test_worse_prompts_are_shown_not_hidden(run_folder):
    rows = [
        {"prompt": f"q{i}", "system": system, "answer": f"{system} on q{i}", "gold": gold}
        for i, pair in enumerate([(0.2, 0.9)] * 9 + [(0.8, 0.1)])
        for system, gold in zip(("SFT", "PPO"), pair, strict=True)
    ]
    change_answers(run_folder, lambda _: rows)
    text, _ = read(run_folder)
    worse = text[text.index('id="where-it-got-worse"') :]
    assert "prefers PPO to SFT on 9 of 10 prompts" in worse and "prefers SFT on 1:" in worse
    assert "PPO on q9" in worse and "PPO on q0" not in worse


@pytest.mark.parametrize(
    "missing, absent",
    [
        ("results.json", {"The result", "Time per stage"}),
        ("answers.jsonl", {"The answers, side by side", "Where it got worse"}),
        ("metrics.jsonl", {"How it was learned", "What the guards saw"}),
        ("settings.yaml", {"Settings"}),
    ],
)
def test_missing_parts_are_left_out(run_folder, missing, absent):
    (run_folder / missing).unlink()
    text, page = read(run_folder)
    assert page.titles == [title for title in ALL if title not in absent]
    assert f'href="{missing}"' not in text and "nan" not in text and "None" not in text


def test_a_real_model_without_gold_and_without_ptx(run_folder):
    logged = (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    unjudged = {"gold": None, "verdict": None}
    change_answers(
        run_folder, lambda rows: [r | unjudged for r in rows if r["system"] != "PPO-ptx"]
    )
    results = json.loads((run_folder / "results.json").read_text(encoding="utf-8"))
    del results["systems"]["PPO-ptx"]
    for row in results["systems"].values():
        row.update(dict.fromkeys(("gold", "gold_low", "gold_high", "true", "ref_kl")))
        for key in ("on_topic", "complete", "polite", "ended"):
            del row[key]
    (run_folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    kept = [json.loads(line) for line in logged if "ppo-ptx" not in line]
    write_rows(run_folder / "metrics.jsonl", kept)
    text, page = read(run_folder)
    assert page.titles == [title for title in ALL if title != "Where it got worse"]
    assert "No gold judge" in text and 'class="moon"' not in text and "✓" not in text
    assert "Gold score" not in page.rows and "KL from SFT" not in page.rows
    assert page.rows[""] == ["base", "prompted base", "SFT", "PPO"]


def test_bad_files_are_named_and_the_old_page_survives(run_folder):
    old = b"<!doctype html>an older page"
    (run_folder / "report.html").write_bytes(old)
    with (run_folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"stage": "ppo", "st')
    with pytest.raises(DataError, match=r"metrics\.jsonl:201: broken JSON"):
        write_report(run_folder)
    write_rows(run_folder / "metrics.jsonl", [{"step": 1}])
    with pytest.raises(DataError, match=r"metrics\.jsonl:1: field 'stage': is missing"):
        write_report(run_folder)
    (run_folder / "metrics.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"metrics\.jsonl: cannot be read: 'utf-8'"):
        write_report(run_folder)
    assert (run_folder / "report.html").read_bytes() == old
    assert not list(run_folder.glob("*.partial"))


def test_no_run_is_said_so(tmp_path):
    with pytest.raises(DataError, match="no such run folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no run"):
        write_report(tmp_path)


def test_the_same_run_gives_the_same_page(full, run_folder):
    assert write_report(run_folder).read_text(encoding="utf-8") == full[0]


def test_figures_take_their_colours_from_the_page(full):
    text, _ = full
    drawings = text[text.index("</style>") :]
    assert "var(--line-0)" in drawings and not re.search(r"(fill|stroke): ?#\w", drawings)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.8, 1.0])
def test_a_moon_is_lit_by_area(share):
    # Half disc plus or minus half an ellipse: pi/2 -+ (pi/2) * rx of the disc's pi.
    bend, sweep = moon(share, 10).split("A")[2].split()[0], moon(share, 10).split("A")[2].split()[4]
    lit = (1 + float(bend)) / 2 if sweep.startswith("1") else (1 - float(bend)) / 2
    assert lit == pytest.approx(share, abs=1e-4)


def test_tags_escape_text_and_attributes():
    assert tag("p", "a<b", tag("i", "&"), title='"') == '<p title="&quot;">a&lt;b<i>&amp;</i></p>'
