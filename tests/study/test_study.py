"""The whole study on next to nothing: every section gets its jobs and writes its part."""

import csv
import json
from dataclasses import replace

import pytest

from minirlhf.study import command
from minirlhf.study.graph import everything, is_done, read_card
from minirlhf.study.plan import QUICK
from minirlhf.study.sections import ablations, reward_models

TINY = replace(
    QUICK,
    sizes=("moonlet-300k",),
    middle="moonlet-300k",
    prompts=6,
    pooled=14,
    pooled_questions=14,
    held=5,
    items=4,
    sft_epochs=1,
    updates=1,
    episodes=4,
    long_sft=2,
    ranking_counts=(4, 8),
    responses_read=48,
    proxies=(("moonlet-300k", 6),),
    far=12,
    best_of=2,
)


@pytest.fixture(scope="module")
def patched():
    """Fewer variants; the jobs of a plan carry all their settings to the workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "QUICK", TINY)
        patch.setattr(reward_models, "FOLDS", 2)
        few = {name: ablations.VARIANTS[name] for name in ("PPO", "REINFORCE", "RLOO", "DPO")}
        patch.setattr(ablations, "VARIANTS", few)
        yield


@pytest.fixture(scope="module")
def made(patched, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    command.study_command(flags("--quick", "--out", str(folder), "--workers", "2"))
    return folder


def flags(*given):
    parser = command.argparse.ArgumentParser()
    command.add_study_flags(parser)
    return parser.parse_args(given)


def test_every_section_stands_on_the_page(made):
    page = (made / "results.html").read_text(encoding="utf-8")
    text = (made / "results.md").read_text(encoding="utf-8")
    for name in command.SECTIONS:
        assert f'<section id="{name}">' in page
    assert page.count("<figure ") == text.count("![") == len([*made.glob("results/*.png")]) > 12
    assert "nan" not in text.lower().replace("governance", "")


def test_tables_are_full(made):
    tables = {path.stem: path for path in made.glob("results/*.csv")}
    assert {"figure1-labelers", "ticked", "tax", "reward-models", "gao-forms", "ablations"} <= {
        *tables
    }
    for path in tables.values():
        with path.open(encoding="utf-8") as file:
            head, *rows = csv.reader(file)
        assert rows and all(len(row) == len(head) for row in rows), path.name


def test_each_job_says_what_it_was(made):
    jobs = everything([j for s in command.SECTIONS.values() for j in s.jobs(TINY)])
    assert len({job.folder for job in jobs}) == len(jobs)
    done = [job for job in jobs if is_done(job, made / "jobs")]
    assert len(done) > 40
    for job in done:
        card = read_card(job, made / "jobs")
        assert card["settings"] == json.loads(json.dumps(dict(job.settings)))
        assert card["seconds"] > 0 and card["minirlhf"]
