"""What many tests share: a micro model that trains in a second, and a few records for it.

The micro model is a real one (Llama, its own tokenizer, pretrained for a second on the almanac's
pages), only too small to be useful. Nothing here goes to the network.
"""

import copy
import json
import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is first imported

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from minirlhf.cli import main
from minirlhf.engine.backbone import Backbone, LoRA
from minirlhf.engine.paths import data_folder
from minirlhf.engine.records import Demonstration, Prompt, Ranking
from minirlhf.stages.pretrain import PretrainConfig, Pretraining, new_model, train_tokenizer
from minirlhf.stages.reward import RewardConfig, RewardTraining
from minirlhf.stages.sft import SFT, SFTConfig
from minirlhf.world.almanac import load_almanac
from minirlhf.world.corpus import corpus

logging.disable_progress_bar()

MICRO = PretrainConfig(
    vocabulary=400,
    hidden_size=64,
    layers=2,
    heads=2,
    intermediate_size=128,
    context_length=128,
    documents=90,
    epochs=10,
    batch_size=16,
    learning_rate=1e-2,
    warmup_steps=2,
)
RANK = LoRA(rank=8, alpha=16)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Threads only cost on tensors this small, and results then do not depend on the machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def micro_texts():
    pages = corpus(load_almanac(), MICRO.documents, seed=0)
    return [line for page in pages for line in page.splitlines() if line]


@pytest.fixture(scope="session")
def micro_folder(micro_texts, tmp_path_factory):
    """The micro model on disk, as `minirlhf pretrain` would have saved it."""
    tokenizer = train_tokenizer(micro_texts, MICRO.vocabulary, MICRO.context_length)
    model = new_model(MICRO, tokenizer)
    for _ in Pretraining(MICRO, model, tokenizer, micro_texts):
        pass
    folder = tmp_path_factory.mktemp("models") / "micro"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def _micro(micro_folder):
    model = AutoModelForCausalLM.from_pretrained(micro_folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(micro_folder)


@pytest.fixture(scope="session")
def tokenizer(_micro):
    return _micro[1]


@pytest.fixture(scope="session")
def new_backbone(_micro, micro_folder):
    """Makes a fresh backbone on the micro model: `new_backbone(lora=None)` for full copies."""

    def make(lora=RANK, seed=0):
        model, tokenizer = _micro
        return Backbone(copy.deepcopy(model), tokenizer, str(micro_folder), lora, seed)

    return make


@pytest.fixture(params=["lora", "full"])
def lora(request):
    """Tests that take this run twice: roles as adapters, and roles as full copies."""
    return RANK if request.param == "lora" else None


@pytest.fixture
def backbone(new_backbone, lora):
    return new_backbone(lora)


@pytest.fixture(scope="session")
def demonstrations():
    pairs = [
        ("What is the moon?", "A moon of Earth."),
        ("What is Mars?", "A red planet."),
        ("What is Io?", "A moon of Jupiter."),
        ("What is the sun?", "A star."),
        ("Who found Titan?", "Huygens."),
        ("What does Europa orbit?", "Jupiter."),
        ("Is Venus hot? Say why.", "Yes, its air is thick."),
        ("Name a planet.", "Saturn."),
    ]
    return [Demonstration(p, r, id=str(i)) for i, (p, r) in enumerate(pairs)]


@pytest.fixture(scope="session")
def prompts(demonstrations):
    return [Prompt(d.prompt, d.id) for d in demonstrations]


@pytest.fixture(scope="session")
def rankings():
    """K = 2 to 5, ties among them; the better answers are the shorter ones."""
    return [
        Ranking("What is Mars?", ("A planet.", "It is a question of taste, of course."), (1, 2)),
        Ranking("What is Io?", ("A moon.", "Who asks?", "Moon moon moon moon."), (1, 2, 2)),
        Ranking(
            "Name a star.", ("Sirius.", "The sun.", "No stars for you today.", ""), (1, 1, 2, 3)
        ),
        Ranking(
            "What is Earth?",
            ("Ours.", "A planet that goes round the sun.", "Go away.", "Mars.", "Earth is."),
            (2, 1, 5, 3, 3),
        ),
    ]


@pytest.fixture(scope="session")
def _trained(new_backbone, demonstrations, rankings):
    """Weights of a small SFT and reward model, trained once per session and mode."""
    found = {}
    for mode in (RANK, None):
        backbone = new_backbone(mode)
        rate = 1e-2
        for _ in SFT(
            SFTConfig(epochs=40, learning_rate=rate, batch_size=8, dropout=0.0),
            backbone,
            demonstrations,
        ):
            pass
        settings = RewardConfig(epochs=4, learning_rate=rate / 4)
        for _ in RewardTraining(settings, backbone, rankings):
            pass
        weights = {role: backbone.weights(role) for role in ("reference", "reward")}
        found[mode] = weights, copy.deepcopy(backbone.heads["reward"].state_dict())
    return found


@pytest.fixture(scope="session")
def ready_backbone(new_backbone, _trained):
    """Makes a backbone with trained roles `reference` and `reward`, as PPO wants it."""

    def make(lora=RANK):
        backbone = new_backbone(lora)
        weights, head = _trained[lora]
        for role in weights:
            backbone.add_role(role)
            backbone.load_weights(role, weights[role])
        backbone.heads["reward"].load_state_dict(head)
        return backbone

    return make


@pytest.fixture
def ready(ready_backbone, lora):
    return ready_backbone(lora)


@pytest.fixture(scope="session")
def moonlet():
    """The folder of the shipped base model."""
    folder = data_folder() / "models" / "moonlet-1m"
    assert (folder / "model.safetensors").is_file(), f"{folder} is part of the project"
    return folder


# A project in miniature, for the pipeline and the commands ---------------------------------------


def write_jsonl(path, rows):
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def tiny_data(folder):
    for part in ("almanac", "settings"):
        shutil.copytree(data_folder() / part, folder / part)
    texts = folder / "comparisons"
    texts.mkdir()
    things = "Mars Io Titan Earth Venus Pluto Ceres Rhea Dione Ariel Vega Sirius".split()  # noqa: SIM905
    write_jsonl(
        texts / "demonstrations.jsonl",
        [{"prompt": f"What is {t}?", "response": f"It is {t}."} for t in things],
    )
    answers = ["It is known.", "Go away.", "Who asks?", "It is."]
    write_jsonl(
        texts / "rankings.jsonl",
        [{"prompt": f"Why {t}?", "responses": answers, "ranks": [1, 3, 3, 2]} for t in things],
    )
    write_jsonl(
        texts / "prompts.jsonl",
        [{"prompt": f"{w} {t}?"} for w in ("Where is", "How big is") for t in things],
    )
    return folder


def tiny_settings(folder, micro_folder):
    run = dict(model=str(micro_folder), task="handmade", rankings=8, valid_rankings=2)
    ppo = dict(updates=2, rollout_batch_size=4, minibatch_size=4, max_new_tokens=8, ptx_length=16)
    settings = {"run": run | {"test_prompts": 3}, "lora": dict(rank=4, alpha=8)}
    settings |= {"sft": dict(batch_size=6, epochs=2), "reward": {"epochs": 1}, "ppo": ppo}
    (folder / "tiny.yaml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    return ["--settings", str(folder / "tiny.yaml")]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder of one's own: the real almanac and settings, a tiny hand-made set."""
    folder = tiny_data(tmp_path / "data")
    monkeypatch.setenv("MINIRLHF_DATA", str(folder))
    return folder


@pytest.fixture
def tiny_flags(micro_folder, tmp_path):
    """Flags under which a whole run takes a second or two."""
    return tiny_settings(tmp_path, micro_folder)


@pytest.fixture(scope="session")
def _earlier_run(micro_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MINIRLHF_DATA", str(tiny_data(folder / "data")))
        assert main(["run", "--name", "mine", *tiny_settings(folder, micro_folder)]) == 0
    return folder / "runs"


@pytest.fixture
def finished(_earlier_run, data, tmp_path):
    """The folder of a whole run that was made earlier, below runs/ in `tmp_path`."""
    shutil.copytree(_earlier_run, tmp_path / "runs")
    return tmp_path / "runs" / "mine"
