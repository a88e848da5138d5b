"""One self-contained page from a run folder: what was found, shown, and how to repeat it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minirlhf.engine.records import DataError, write_text
from minirlhf.engine.settings import read_settings
from minirlhf.evaluation import findings, plots
from minirlhf.evaluation.findings import signed
from minirlhf.evaluation.page import Html, inline_svg, join, moon, page, tag
from minirlhf.evaluation.plots import CRITERIA, in_order, is_number

OTHER_QUESTIONS = 5  # shown beside the moon question
WORSE_SHOWN = 6
# What a failed criterion is called: the word itself says it, not a colour.
FAILED = {"helpful": "no help", "on_topic": "off topic", "true": "not true",
          "complete": "incomplete", "polite": "rude", "harmless": "harmful",
          "ended": "no end"}  # fmt: skip
PARTS = findings.STAGE_NAMES | {"run": "The run", "lora": "LoRA", "rankings": "Rankings"}
STAGE_TITLES = {"sft": "1 · Supervised fine-tuning", "reward": "2 · The reward model",
                "ppo": "3 · PPO"}  # fmt: skip


SHARED = {"ppo": ("ppo", "ppo-ptx")}  # stages drawn over each other


@dataclass(frozen=True)
class Run:
    """What a run folder holds; a part that is not there is empty or None."""

    folder: Path
    settings: Mapping[str, Mapping[str, Any]]
    metrics: Sequence[Mapping]
    answers: Sequence[Mapping]
    results: Mapping | None

    @property
    def held_out(self) -> list[Mapping]:
        """The answers behind the result table."""
        return findings.held_out(self.answers, (self.results or {}).get("prompts"))


def write_report(
    run_dir: str | Path,
    paper: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write run_dir/report.html from whatever the run folder holds so far.

    The page needs no network and no script. A part that the run lacks is left out.

    Args:    run_dir: a folder runs/NAME; paper: {stage: {setting: InstructGPT's value}}, shown
             beside ours.
    Returns: the path of the page; an older page stays whole until the new one is written.
    Raises:  DataError, one line that names the file and line, where a part cannot be read or
             the folder holds no run.
    """
    run = load_run(run_dir)
    sections = [s for s in (_results(run), *_questions(run), _curves(run), _health(run),
                            _worse(run), _settings(run, paper or {}), _times(run), _repeat(run))
                if s]  # fmt: skip
    title = f"{run.folder.name} · minirlhf"
    parts = [_opening(run, sections), *(section for _, section in sections), _closing()]
    path = run.folder / "report.html"
    write_text(path, page(title, *parts))
    return path


def load_run(run_dir: str | Path) -> Run:
    """Read a run folder; DataError names what is broken, or says that there is no run."""
    folder = Path(run_dir).resolve()
    if not folder.is_dir():
        raise DataError(f"{run_dir}: no such run folder")
    settings = folder / "settings.yaml"
    run = Run(
        folder,
        read_settings(settings) if settings.exists() else {},
        _read_rows(folder / "metrics.jsonl", ("stage", "step")),
        _read_rows(folder / "answers.jsonl", ("prompt", "system", "answer")),
        _read_results(folder / "results.json"),
    )
    if not (run.settings or run.metrics or run.answers or run.results):
        raise DataError(f"{run_dir}: holds no run: no settings, metrics, answers or results")
    return run


def _read_rows(path: Path, required: tuple[str, ...]) -> list[dict]:
    rows = []
    # Not splitlines: an answer may hold U+2028, which JSON leaves as it is.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if line.strip():
            row = _parse(f"{path}:{number}", line)
            for name in required:
                if name not in row:
                    raise DataError(f"{path}:{number}: field '{name}': is missing")
            rows.append(row)
    return rows


def _read_results(path: Path) -> dict | None:
    text = _read_text(path)
    return _parse(str(path), text) if text else None


def _read_text(path: Path) -> str:
    """The file's text, empty where there is no file."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _parse(where: str, text: str) -> dict:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: broken JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: must be a JSON object, is {type(value).__name__}")
    return value


Section = tuple[str, Html]  # its short name for the list of contents, and its markup


def _section(name: str, title: str, *body: Html) -> Section:
    anchor = name.lower().replace(" ", "-")
    return name, tag("section", tag("h2", title), *body, id=anchor)


def _opening(run: Run, sections: Sequence[Section]) -> Html:
    systems = (run.results or {}).get("systems", {})
    prompts = (run.results or {}).get("prompts")
    eyebrow = f"minirlhf · run {run.folder.name}"
    eyebrow += f" · {prompts} held-out prompts" if prompts else ""
    text = " ".join(findings.summary(run.results, run.held_out, run.metrics))
    links = [tag("a", name, href="#" + name.lower().replace(" ", "-")) for name, _ in sections]
    return tag(
        "header",
        tag("p", eyebrow, class_="eyebrow"),
        tag("h1", findings.headline(run.held_out, run.folder.name)),
        _phases(systems),
        tag("p", text, class_="lede long" if len(text) > 400 else "lede"),
        tag("nav", *links, aria_label="Contents"),
    )


def _phases(systems: Mapping) -> Html:
    """One moon per system, lit by its gold score."""
    items = []
    for name in in_order(systems):
        row = systems[name]
        if is_number(row.get("gold")):
            value = tag("span", f"{row['gold']:.2f}", class_="value")
            ends = tag("small", _ends(row)) if _ends(row) else ""
            items.append(tag("li", moon(row["gold"], 96), tag("b", name), value, ends))
    if not items:
        return Html("")
    note = "Each moon is lit by its gold score: dark is 0, full is 1. Below it the 95% interval."
    body = [tag("ul", *items, class_="phases"), tag("p", note, class_="note")]
    return tag("div", *body, class_="sky")


def _ends(row: Mapping) -> str:
    if not (is_number(row.get("gold_low")) and is_number(row.get("gold_high"))):
        return ""
    return f"{row['gold_low']:.2f} to {row['gold_high']:.2f}"


def _results(run: Run) -> Section | None:
    systems = (run.results or {}).get("systems", {})
    if not systems:
        return None
    body = [_result_table(systems), _bars(run.results)]
    return _section("Result", "The result", *body)


def _result_table(systems: Mapping) -> Html:
    """Measures down, systems across: five columns of numbers also fit a telephone."""
    names = in_order(systems)
    measures = [("gold", "Gold score", "0 to 1, 95% interval", "{:.2f}".format)]
    measures += [(key, label.capitalize(), "", "{:.0%}".format) for key, label in CRITERIA.items()]
    measures += [("score", "Reward-model score", "RM units", signed),
                 ("ref_kl", "KL from SFT", "nats per response", "{:.2f}".format),
                 ("length", "Length", "tokens", "{:.1f}".format)]  # fmt: skip
    rows = []
    for key, label, unit, form in measures:
        if not any(is_number(systems[name].get(key)) for name in names):
            continue
        cells = []
        for name in names:
            value = systems[name].get(key)
            small = _ends(systems[name]) if key == "gold" else ""
            text = form(value).replace("-", "−") if is_number(value) else "–"
            cells.append(tag("td", text, tag("small", small) if small else ""))
        head = tag("th", label, tag("small", unit) if unit else "", scope="row")
        rows.append(tag("tr", head, *cells))
    head = tag("tr", tag("th", ""), *(tag("th", name, scope="col") for name in names))
    return tag("table", tag("thead", head), tag("tbody", join(rows)), class_="results")


def _bars(results: Mapping) -> Html:
    systems = results["systems"].values()
    figures = []
    if any(is_number(row.get("gold")) for row in systems):
        figures.append(_figure(plots.system_bars(results), "Gold score of each system"))
    for key, label in CRITERIA.items():
        if any(is_number(row.get(key)) for row in systems):
            text = f"Share of answers that are {label}, for each system"
            figures.append(_figure(plots.verdict_bars(results, key), text))
    if not figures:
        return Html("")
    note = "Whiskers are 95% intervals; the dashed line is SFT. The numbers are in the table."
    return tag("div", tag("div", *figures, class_="grid"), tag("p", note, class_="note"))


def _figure(figure, label: str, caption: str = "") -> Html:
    return tag("figure", inline_svg(figure, label), tag("figcaption", caption) if caption else "")


def _questions(run: Run) -> list[Section]:
    """The moon question first, then the first five others in the file: nobody picked them."""
    prompts = list(dict.fromkeys(row["prompt"] for row in run.answers))
    if not prompts:
        return []
    moons = [p for p in prompts if p.strip().casefold() == "what is the moon?"][:1]
    others = [p for p in prompts if p not in moons][:OTHER_QUESTIONS]
    notes = ["RM is the reward model's score."]
    if any(is_number(row.get("gold")) for row in run.answers):
        notes.insert(0, "Gold is the gold judge's score from 0 to 1.")
    if moons:
        notes.append("The questions were fixed before the run, not picked after it.")
    body = [_question(run, prompt) for prompt in moons + others]
    note = tag("p", " ".join(notes), class_="note")
    return [_section("Answers", "The answers, side by side", note, *body)]


def _question(run: Run, prompt: str, only: tuple[str, ...] = ()) -> Html:
    rows = {}
    for row in run.answers:
        if row["prompt"] == prompt and (not only or row["system"] in only):
            rows.setdefault(row["system"], row)
    answers = tag("div", *(_answer(rows[name]) for name in in_order(rows)), class_="answers")
    return tag("article", tag("h3", prompt), answers, class_="question")


def _answer(row: Mapping) -> Html:
    lit = moon(row["gold"], 18) if is_number(row.get("gold")) else ""
    text = tag("p", row["answer"], class_="text")
    if not row["answer"].strip():
        text = tag("p", "(no text)", class_="text empty")
    numbers = [f"gold {row['gold']:.2f}"] if is_number(row.get("gold")) else []
    numbers += [f"RM {signed(row['score'])}"] if is_number(row.get("score")) else []
    parts = [tag("header", lit, row["system"]), text, _chips(row.get("verdict") or {})]
    return tag("section", *parts, tag("footer", " · ".join(numbers)), class_="answer")


def _chips(verdict: Mapping) -> Html:
    chips = []
    for key, label in CRITERIA.items():
        if isinstance(verdict.get(key), bool):
            passed = verdict[key]
            text = f"✓ {label}" if passed else f"✗ {FAILED[key]}"
            chips.append(tag("li", text, class_="yes" if passed else "no"))
    return tag("ul", *chips, class_="chips") if chips else Html("")


def _curves(run: Run) -> Section | None:
    blocks = []
    for stage, title in STAGE_TITLES.items():
        figures = []
        for panel in plots.panels_with_data(run.metrics, stage):
            label = f"{title}: {panel.title} in {panel.unit}, by update"
            figures.append(_figure(plots.panel_figure(run.metrics, panel), label, panel.note))
        if figures:
            stories = [findings.progress(run.metrics, name) for name in SHARED.get(stage, [stage])]
            # The heading takes a cell of the three-column grid where that leaves no hole.
            width = "stage" if len(figures) % 3 else "stage wide"
            head = tag("div", tag("h3", title), *(tag("p", s) for s in stories if s), class_=width)
            blocks.append(tag("div", head, *figures, class_="grid"))
    if not blocks:
        return None
    note = (
        "The dotted line is where the stage started or what chance gives. Long runs show every "
        "update faintly and a moving mean over a twentieth of the run."
    )
    return _section("Curves", "How it was learned", tag("p", note, class_="note"), *blocks)


def _health(run: Run) -> Section | None:
    found, looked = findings.health(run.metrics)
    if not looked:
        return None
    items = [
        tag("li", tag("b", f"{PARTS[stage]}, step {step}: {name}."), f" {saw} {advice}")
        for stage, (name, step, saw, advice) in found
    ]
    title = "What the guards saw"
    if not items:
        return _section("Health", title, tag("p", f"Nothing. They look for: {', '.join(looked)}."))
    return _section("Health", title, tag("ul", *items))


def _worse(run: Run) -> Section | None:
    found = findings.worse_than_sft(run.held_out)
    if not found:
        return None
    lost = len(found.prompts)
    total = lost + found.wins + found.ties
    rate, low, high = found.rate
    text = (
        f"The gold judge prefers PPO to SFT on {found.wins} of {total} prompts, sees no "
        f"difference on {found.ties}, and prefers SFT on {lost}: a win rate of {rate:.0%} "
        f"(95% interval {low:.0%} to {high:.0%}, a tie counting half)."
    )
    if found.fooled:
        text += (
            f" On {found.fooled} of the {lost} the reward model prefers PPO's answer all the "
            "same: there PPO has found a hole in the reward, not a better answer."
        )
    if lost > WORSE_SHOWN:
        text += f" These are the {WORSE_SHOWN} largest drops."
    body = [_question(run, prompt, ("SFT", "PPO")) for prompt in found.prompts[:WORSE_SHOWN]]
    title, cases = "Where it got worse", tag("div", *body, class_="cases")
    return _section(title, title, tag("p", text), cases)


def _settings(run: Run, paper: Mapping[str, Mapping[str, Any]]) -> Section | None:
    tables = []
    for stage, values in run.settings.items():
        theirs = paper.get(stage, {})
        heads = ["setting", "here", "paper"] if theirs else ["setting", "here"]
        rows = []
        for name, value in values.items():
            cells = [tag("td", tag("code", name)), tag("td", _plain(value))]
            cells += [tag("td", _plain(theirs[name]) if name in theirs else "")] if theirs else []
            rows.append(tag("tr", *cells))
        head = tag("thead", tag("tr", *(tag("th", word, scope="col") for word in heads)))
        title = tag("h3", PARTS.get(stage, stage))
        tables.append(tag("div", title, tag("table", head, tag("tbody", *rows))))
    if not tables:
        return None
    return _section("Settings", "Settings", tag("div", *tables, class_="settings"))


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}".replace("-", "−")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _times(run: Run) -> Section | None:
    seconds = {k: v for k, v in ((run.results or {}).get("seconds") or {}).items() if is_number(v)}
    if not seconds:
        return None
    longest, rows = max(seconds.values()) or 1, []
    for stage, value in seconds.items():
        bar = tag("span", class_="bar", style=f"width: {100 * value / longest:.1f}%")
        cells = [tag("td", PARTS.get(stage, stage)), tag("td", _clock(value))]
        rows.append(tag("tr", *cells, tag("td", bar)))
    total = tag("tr", tag("th", "All"), tag("th", _clock(sum(seconds.values()))), tag("th", ""))
    return _section("Time", "Time per stage", tag("table", *rows, total, class_="times"))


def _clock(seconds: float) -> str:
    """
    >>> _clock(7.26), _clock(171.9), _clock(7384)
    ('7.3 s', '2 min 52 s', '2 h 03 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _repeat(run: Run) -> Section:
    files = {"settings.yaml": "every setting", "metrics.jsonl": "every number behind the curves",
             "answers.jsonl": "every answer, score and verdict",
             "results.json": "the table"}  # fmt: skip
    items = [tag("li", tag("a", name, href=name), f": {what}")
             for name, what in files.items() if (run.folder / name).exists()]  # fmt: skip
    lines = [tag("p", "Beside this page lie the files it was made from:"), tag("ul", *items)]
    if run.settings:
        name = run.folder.name
        command = f'minirlhf run --settings "runs/{name}/settings.yaml" --name "{name}-again"'
        lines.insert(0, tag("pre", command))
    return _section("Repeat", "How to repeat it", *lines)


def _closing() -> Html:
    text = "Made by minirlhf after Ouyang et al. 2022 (InstructGPT), arXiv:2203.02155."
    return tag("footer", tag("p", text))
