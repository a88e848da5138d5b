"""minirlhf.engine.settings: one source of bounds, help and the paper's values."""

import dataclasses

import pytest

from minirlhf.engine.backbone import LoRA
from minirlhf.engine.records import DataError
from minirlhf.engine.settings import (
    convert,
    line_of,
    paper_values,
    read_settings,
    setting,
    validated,
    with_values,
    write_settings,
)
from minirlhf.stages.ppo import PPOConfig
from minirlhf.stages.pretrain import PretrainConfig
from minirlhf.stages.reward import RewardConfig
from minirlhf.stages.sft import SFTConfig

CONFIGS = [SFTConfig, RewardConfig, PPOConfig, PretrainConfig, LoRA]


@validated
@dataclasses.dataclass(frozen=True)
class Example:
    steps: int = setting(3, "steps", least=1, most=10)
    rate: float = setting(0.5, "rate", paper=0.25, above=0)
    clip: float | None = setting(0.2, "clip", above=0)
    quiet: bool = setting(False, "quiet")
    loss: str = setting("a", "loss", choices=("a", "b"))


# Bounds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"steps": 0}, "steps: 0 must be at least 1"),
        ({"steps": 11}, "steps: 11 must be at most 10"),
        ({"rate": 0.0}, "rate: 0.0 must be above 0"),
        ({"rate": float("nan")}, "rate: nan must be above 0"),
        ({"loss": "c"}, "loss: 'c' is none of a, b"),
        ({"clip": -1.0}, "clip: -1.0 must be above 0"),
    ],
)
def test_values_out_of_bounds_are_named(changes, text):
    with pytest.raises(DataError) as raised:
        Example(**changes)
    assert str(raised.value) == text


def test_bounds_themselves_and_none_are_fine():
    assert Example(steps=1).steps == 1
    assert Example(steps=10).steps == 10
    assert Example(clip=None).clip is None


@pytest.mark.parametrize("config", CONFIGS)
def test_defaults_are_valid_and_everything_is_explained(config):
    config()
    for item in dataclasses.fields(config):
        assert len(item.metadata["help"]) > 4, item.name


# Conversion -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("steps", "7", 7),
        ("steps", 7.0, 7),
        ("steps", "1e1", 10),
        ("rate", "2e-4", 2e-4),
        ("rate", 1, 1.0),
        ("clip", "none", None),
        ("clip", None, None),
        ("clip", "0.1", 0.1),
        ("quiet", "True", True),
        ("quiet", False, False),
        ("loss", "b", "b"),
    ],
)
def test_text_and_yaml_values_become_the_fields_type(name, value, expected):
    found = getattr(with_values(Example(), {name: value}), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "name, value, text",
    [
        ("steps", "many", "steps: 'many' is not a whole number"),
        ("steps", "1.5", "steps: '1.5' is not a whole number"),
        ("steps", "inf", "steps: 'inf' is not a whole number"),
        ("steps", "nan", "steps: 'nan' is not a whole number"),
        ("steps", [1], r"steps: \[1\] is not a whole number"),
        ("steps", None, "steps: None is not a whole number"),
        ("rate", "fast", "rate: 'fast' is not a number"),
        ("rate", "inf", "rate: 'inf' is not a number"),
        ("rate", {"a": 1}, "is not a number"),
        ("quiet", "maybe", "quiet: 'maybe' is not true or false"),
        ("quiet", 1, "quiet: 1 is not true or false"),
        ("colour", "red", "colour: no such setting; known are clip, loss, quiet, rate, steps"),
    ],
)
def test_what_cannot_be_converted_is_named(name, value, text):
    with pytest.raises(DataError, match=text):
        with_values(Example(), {name: value})


def test_changing_gives_a_copy():
    old = Example()
    assert with_values(old, {"steps": 5}).steps == 5
    assert old.steps == 3


def test_convert_knows_every_type_of_every_stage():
    for config in CONFIGS:
        for item in dataclasses.fields(config):
            assert convert(item, str(getattr(config(), item.name))) == getattr(config(), item.name)


# Files ------------------------------------------------------------------------------------------


def test_written_settings_give_the_run_again(tmp_path):
    settings = {
        "sft": SFTConfig(epochs=5, learning_rate=2e-4),
        "ppo": PPOConfig(value_clip_range=None),
    }
    write_settings(tmp_path / "settings.yaml", settings)
    values = read_settings(tmp_path / "settings.yaml")
    assert with_values(SFTConfig(), values["sft"]) == settings["sft"]
    assert with_values(PPOConfig(), values["ppo"]) == settings["ppo"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("sft: {epochs: 3", ":1: broken YAML"),
        ("run: {rankings: 8}\nsft:\n\tepochs: 3\n", ":3: broken YAML"),
        ("sft: 3", ": must map each stage to its settings"),
        ("- sft", ": must map each stage to its settings"),
        ("", ": must map each stage to its settings"),
        ("sft: null", ": must map each stage to its settings"),
    ],
)
def test_broken_files_name_file_and_line(tmp_path, text, message):
    file = tmp_path / "my.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as raised:
        read_settings(file)
    assert str(raised.value).startswith(f"{file}{message}")
    assert "\n" not in str(raised.value)


def test_missing_and_unreadable_files_are_one_line(tmp_path):
    with pytest.raises(DataError, match=r"no\.yaml: no such file"):
        read_settings(tmp_path / "no.yaml")
    with pytest.raises(DataError, match="cannot be read"):
        read_settings(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"sft: {select: \xff}")
    with pytest.raises(DataError, match=r"latin\.yaml: cannot be read"):
        read_settings(tmp_path / "latin.yaml")


def test_files_are_data_and_never_code(tmp_path):
    file = tmp_path / "evil.yaml"
    file.write_text("sft: !!python/object/apply:os.getcwd []\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"evil\.yaml:1: broken YAML"):
        read_settings(file)


def test_lines_of_settings_are_found(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("# mine\nrun: {seed: 1}\nppo:\n  updates: 3\n  seed: 4\n", encoding="utf-8")
    places = [("run", "seed"), ("ppo", ""), ("ppo", "updates"), ("ppo", "seed"), ("ppo", "none")]
    assert [line_of(file, *place) for place in places] == [2, 3, 4, 5, 3]


# The paper --------------------------------------------------------------------------------------


def test_the_papers_values_stand_beside_ours():
    """Ouyang et al. 2022, appendix C."""
    assert paper_values(SFTConfig()) == {
        "epochs": 16,
        "batch_size": 32,
        "learning_rate": 9.65e-6,
        "final_rate": 0.1,
        "dropout": 0.2,
        "pretraining_mix": 0.1,
        "select": "score",
    }
    reward = paper_values(RewardConfig())
    assert (reward["epochs"], reward["batch_size"], reward["learning_rate"]) == (1, 64, 9e-6)
    assert (reward["loss"], reward["ties"]) == ("pairs", "drop")
    ppo = paper_values(PPOConfig())
    assert ppo["rollout_batch_size"] * ppo["updates"] == 256_000  # "256k episodes"
    assert ppo["rollout_batch_size"] // ppo["minibatch_size"] == 8
    expected = dict(kl_coef=0.02, ptx_coef=27.8, ptx_ratio=8, clip_range=0.2, ema_decay=0.992)
    expected |= dict(ppo_epochs=1, warmup_updates=10, discount=1.0, value_learning_rate=9e-6)
    assert {name: ppo[name] for name in expected} == expected
    assert "gae_lambda" not in ppo  # not printed there
    assert "policy_learning_rate" not in ppo
