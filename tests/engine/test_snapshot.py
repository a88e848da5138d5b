"""minirlhf.engine.snapshot: what is read back is what was saved, or is refused."""

import math
import random

import pytest
import torch
from safetensors.torch import save_file

from minirlhf.engine import snapshot
from minirlhf.engine.optimisation import adam, optimiser_step
from minirlhf.engine.records import DataError
from minirlhf.engine.snapshot import (
    load_snapshot,
    optimiser_state,
    restore_optimiser,
    restore_role,
    role_state,
    save_snapshot,
)

STATE = {
    "step": 7,
    "merit": 0.1 + 0.2,
    "worst": -math.inf,
    "best": None,
    "name": "Ünïcode\n",
    "order": [3, 1, 2],
    "none yet": {},
    "generator": torch.Generator().manual_seed(3).get_state(),
    "deep": {
        "weights": {"layers.0.q_proj": torch.randn(3, 5), "half": torch.randn(4).bfloat16()},
        "step": torch.tensor(2.0),
        "flags": torch.tensor([True, False]),
        "nothing": torch.empty(0, 4),
        "turned": torch.arange(6.0).view(2, 3).T,
    },
}


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return type(one) is type(other) and one == other


@pytest.fixture
def file(tmp_path):
    save_snapshot(tmp_path / "state.safetensors", STATE)
    return tmp_path / "state.safetensors"


def refused(path, text):
    with pytest.raises(DataError, match=text) as raised:
        load_snapshot(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


# There and back ----------------------------------------------------------------------------------


def test_it_comes_back_to_the_bit(file):
    assert same(load_snapshot(file), STATE)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_without_tensors_too(tmp_path):
    save_snapshot(tmp_path / "next", {"stage": "ppo", "step": 0})
    assert load_snapshot(tmp_path / "next") == {"stage": "ppo", "step": 0}


def test_the_one_before_survives_a_failure(file, monkeypatch):
    def full(tensors, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshot, "save_file", full)
    with pytest.raises(DataError, match=r"state\.safetensors: cannot be written: No space left"):
        save_snapshot(file, {"step": 8})
    assert same(load_snapshot(file), STATE)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


# Damage ------------------------------------------------------------------------------------------


def test_cut_short_anywhere_it_is_refused(file):
    whole = file.read_bytes()
    for length in {0, 1, 7, 8, 9, len(whole) - 1, *range(0, len(whole), len(whole) // 30)}:
        file.write_bytes(whole[:length])
        refused(file, "is damaged")


def test_any_changed_byte_is_refused_or_without_effect(file):
    whole, rng = file.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(8), *rng.sample(range(8, header), 150), *range(header, len(whole), 97)]
    survived = 0
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(8)
        file.write_bytes(changed)
        try:
            assert same(load_snapshot(file), STATE), place
            survived += 1
        except DataError as error:
            assert "\n" not in str(error)
    assert survived <= 20  # the version, and blanks that fill up the header


def test_a_changed_value_is_refused(file):
    whole = file.read_bytes()
    assert whole.count(b'\\"step\\": 7') == 1
    file.write_bytes(whole.replace(b'\\"step\\": 7', b'\\"step\\": 8'))
    refused(file, "is damaged: its contents are not those that were saved")


def test_what_is_no_snapshot_is_refused(tmp_path):
    refused(tmp_path / "nowhere", "cannot be read: No such file")
    refused(tmp_path, "cannot be read|is damaged")
    (tmp_path / "text").write_text("not tensors at all", encoding="utf-8")
    refused(tmp_path / "text", "is damaged")
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    refused(tmp_path / "model.safetensors", "is no snapshot of minirlhf")


# Roles and optimisers ----------------------------------------------------------------------------


def train(backbone, optimiser, steps):
    ids = torch.tensor([[5, 6, 7, 8]])
    for _ in range(steps):
        backbone.values("value", ids, torch.ones_like(ids, dtype=torch.bool)).sum().backward()
        optimiser_step(optimiser, 1e-2, 1.0)


def new_training(backbone):
    backbone.add_role("value")
    backbone.train_role("value")
    return adam(backbone.named_parameters("value"), 1e-2)


def test_a_role_and_its_optimiser_go_on_exactly(new_backbone, lora, tmp_path):
    backbone = new_backbone(lora)
    optimiser = new_training(backbone)
    train(backbone, optimiser, 2)
    state = {"role": role_state(backbone, "value"), "optimiser": optimiser_state(optimiser)}
    train(backbone, optimiser, 2)  # which must not change the copy
    save_snapshot(tmp_path / "state", state)
    other = new_backbone(lora, seed=1)
    again = new_training(other)
    state = load_snapshot(tmp_path / "state")
    restore_role(other, "value", state["role"])
    restore_optimiser(again, state["optimiser"])
    train(other, again, 2)
    assert same(role_state(other, "value"), role_state(backbone, "value"))
    assert same(optimiser_state(again), optimiser_state(optimiser))
    assert {float(own["step"]) for own in optimiser_state(again).values()} == {4.0}
    assert same(load_snapshot(tmp_path / "state"), state)  # restoring gave a copy away, too
