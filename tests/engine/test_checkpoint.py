"""minirlhf.engine.checkpoint: what is saved is whole, exact, and open to plain peft."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
)

from minirlhf.engine import checkpoint
from minirlhf.engine.backbone import Backbone, LoRA
from minirlhf.engine.batches import Encoder
from minirlhf.engine.checkpoint import (
    CARD,
    export_merged,
    load_role,
    merged_weights,
    open_checkpoint,
    put_right,
    read_card,
    save_role,
    whole_folder,
)
from minirlhf.engine.models import load_backbone
from minirlhf.engine.records import DataError


@pytest.fixture
def batch(tokenizer, demonstrations):
    encoder = Encoder(tokenizer, 128)
    return encoder.sequences([encoder.pair(d, d.response) for d in demonstrations])


@pytest.fixture
def trained(ready):
    """All four roles, each with weights of its own and a bias that is not 0."""
    ready.add_role("policy", copy_of="reference")
    ready.add_role("value", copy_of="reward")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for role in ("policy", "value"):
            for parameter in ready.parameters(role):
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        ready.heads["reward"].bias.fill_(-0.75)
        ready.heads["value"].bias.fill_(1.5)
    return ready


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# Round trips ------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["reference", "policy", "reward", "value"])
def test_a_saved_role_comes_back_bit_for_bit(trained, new_backbone, lora, batch, tmp_path, role):
    save_role(trained, role, tmp_path / role)
    fresh = new_backbone(lora, seed=7)
    load_role(fresh, role, tmp_path / role)
    for one, other in zip(fresh.parameters(role), trained.parameters(role), strict=True):
        assert torch.equal(one, other)
    ids, mask = batch.input_ids, batch.attention_mask
    if role in trained.heads:
        assert torch.equal(fresh.scores(role, ids, mask), trained.scores(role, ids, mask))
    else:
        assert torch.equal(fresh.logits(role, ids, mask), trained.logits(role, ids, mask))


def test_a_checkpoint_opens_with_its_own_base(trained, lora, batch, tmp_path):
    save_role(trained, "reward", tmp_path / "reward")
    found = open_checkpoint(tmp_path / "reward", "reward")
    assert found.lora == lora
    ids, mask = batch.input_ids, batch.attention_mask
    assert torch.equal(found.scores("reward", ids, mask), trained.scores("reward", ids, mask))
    assert found.tokenizer.chat_template == trained.tokenizer.chat_template


def test_a_role_may_load_under_another_name(trained, new_backbone, lora, batch, tmp_path):
    save_role(trained, "policy", tmp_path / "ppo")
    fresh = new_backbone(lora)
    load_role(fresh, "reference", tmp_path / "ppo")
    ids, mask = batch.input_ids, batch.attention_mask
    assert torch.equal(fresh.logits("reference", ids, mask), trained.logits("policy", ids, mask))


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside_it(trained, tmp_path):
    folder = tmp_path / "ppo"
    save_role(trained, "policy", folder)
    (folder / "left-over.txt").write_text("old", encoding="utf-8")
    save_role(trained, "policy", folder)
    assert [path.name for path in tmp_path.iterdir()] == ["ppo"]
    assert not (folder / "left-over.txt").exists()


# Plain transformers and peft --------------------------------------------------------------------


def test_plain_peft_loads_the_policy(ready_backbone, batch, micro_folder, tmp_path):
    backbone = ready_backbone()
    save_role(backbone, "reference", tmp_path / "sft")
    base = AutoModelForCausalLM.from_pretrained(micro_folder)
    plain = PeftModel.from_pretrained(base, tmp_path / "sft").eval()
    with torch.no_grad():
        theirs = plain(batch.input_ids, attention_mask=batch.attention_mask.long()).logits
    ours = backbone.logits("reference", batch.input_ids, batch.attention_mask)
    assert (theirs - ours)[batch.attention_mask].abs().max() < 5e-5
    tokens = AutoTokenizer.from_pretrained(tmp_path / "sft")
    assert tokens.get_vocab() == backbone.tokenizer.get_vocab()


def test_plain_peft_loads_the_reward_model(ready_backbone, batch, micro_folder, tmp_path):
    backbone = ready_backbone()
    backbone.heads["reward"].bias.data.fill_(-2.5)
    save_role(backbone, "reward", tmp_path / "reward")
    base = AutoModelForSequenceClassification.from_pretrained(micro_folder, num_labels=1)
    plain = PeftModel.from_pretrained(base, tmp_path / "reward").eval()
    with torch.no_grad():
        logits = plain(batch.input_ids, attention_mask=batch.attention_mask.long()).logits
    theirs = logits.squeeze(1) + read_card(tmp_path / "reward")["score_bias"]
    ours = backbone.scores("reward", batch.input_ids, batch.attention_mask)
    assert (theirs - ours).abs().max() < 1e-5
    assert ours.std() > 1e-3  # a head of zeros would pass, too


def test_plain_transformers_loads_full_copies(ready_backbone, batch, tmp_path):
    backbone = ready_backbone(None)
    ids, mask = batch.input_ids, batch.attention_mask
    save_role(backbone, "reference", tmp_path / "sft")
    save_role(backbone, "reward", tmp_path / "reward")
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "sft").eval()
    reward = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    with torch.no_grad():
        logits = policy(ids, attention_mask=mask.long()).logits
        scores = reward(ids, attention_mask=mask.long()).logits.squeeze(1)
    ours = backbone.logits("reference", ids, mask)
    assert (logits - ours)[mask].abs().max() < 5e-5
    scores = scores + read_card(tmp_path / "reward")["score_bias"]
    assert (scores - backbone.scores("reward", ids, mask)).abs().max() < 5e-5


@pytest.mark.parametrize("role", ["reference", "base"])
def test_export_is_one_plain_model(ready, batch, tmp_path, role):
    export_merged(ready, role, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    ids, mask = batch.input_ids, batch.attention_mask
    with torch.no_grad():
        theirs = plain(ids, attention_mask=mask.long()).logits
    assert (theirs - ready.logits(role, ids, mask))[mask].abs().max() < 1e-4
    assert not any("lora" in name for name, _ in plain.named_parameters())
    # the backbone is as it was: merging happens in a copy
    other = "base" if role == "reference" else "reference"
    assert not torch.allclose(ready.logits(other, ids, mask), theirs, atol=1e-3)


@pytest.mark.parametrize("role", ["policy", "reward"])
def test_export_merges_transposed_weights_the_right_way(tokenizer, batch, tmp_path, role):
    """GPT-2 keeps its weights transposed, and its square ones fit either way round."""
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=128, n_embd=32, n_layer=1, n_head=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config)
    backbone = Backbone(model, tokenizer, "gpt2-like", LoRA(2, 4))
    backbone.add_role(role)
    generator = torch.Generator().manual_seed(0)
    for parameter in backbone.parameters(role):
        parameter.data += torch.randn(parameter.shape, generator=generator)
    export_merged(backbone, role, tmp_path / "merged")
    ids, mask = batch.input_ids, batch.attention_mask
    if role == "policy":
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
        theirs, ours = Backbone(plain, tokenizer).logits("base", ids, mask), backbone.logits
    else:
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
        with torch.no_grad():
            theirs = plain(ids, attention_mask=mask.long()).logits.squeeze(1)
        theirs, ours = theirs + plain.config.score_bias, backbone.scores
    assert torch.allclose(theirs, ours(role, ids, mask), atol=1e-3)


def test_a_16_bit_base_is_rounded_once(ready_backbone):
    backbone = ready_backbone()
    for name, parameter in backbone.model.named_parameters():
        if ".lora_" not in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    name, module = next((n, m) for n, m in backbone.model.named_modules() if hasattr(m, "lora_A"))
    base, scale = module.base_layer.weight.double(), module.scaling["reference"]
    a, b = module.lora_A["reference"].weight.double(), module.lora_B["reference"].weight.double()
    merged = merged_weights(backbone, "reference")[f"{name}.weight"]
    assert merged.dtype == torch.bfloat16
    assert ((base + scale * b @ a).float().bfloat16() == merged).double().mean() > 0.999


def test_four_bits_are_not_merged(micro_folder, tmp_path):
    backbone = load_backbone(str(micro_folder), quantize="4bit", lora=LoRA(2, 4), device="cpu")
    backbone.add_role("policy")
    with pytest.raises(ValueError, match="4-bit base cannot be merged"):
        export_merged(backbone, "policy", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


# All or nothing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_folder(trained, tmp_path, monkeypatch, error):
    folder = tmp_path / "ppo"
    save_role(trained, "policy", folder)
    before = contents(tmp_path)

    def fail(*args):
        raise error

    monkeypatch.setattr(checkpoint, "_write_card", fail)
    with pytest.raises(error):
        save_role(trained, "value", folder)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("step", [1, 2])
def test_a_failure_while_renaming_leaves_the_old_folder(tmp_path, monkeypatch, step):
    """As on Windows, where a file that is open elsewhere keeps its folder in place."""
    folder = tmp_path / "ppo"
    with whole_folder(folder) as partial:
        (partial / "weights").write_text("old", encoding="utf-8")
    replace, calls = checkpoint.os.replace, []

    def stubborn(source, target):
        calls.append(source)
        if len(calls) == step:
            raise PermissionError(13, "Permission denied", str(target))
        replace(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", stubborn)
    refusal = pytest.raises(DataError, match="cannot be written: Permission denied")
    with refusal, whole_folder(folder) as partial:
        (partial / "weights").write_text("new", encoding="utf-8")
    assert contents(tmp_path) == {str(folder.relative_to(tmp_path) / "weights"): b"old"}


def test_what_a_kill_left_is_put_right(tmp_path):
    """Killed between the two renames; before them; and after them, before the old one had gone."""
    for name in (".ppo.1.old", ".ppo.2.partial", ".sft.1.partial", "reward", ".reward.1.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name, encoding="utf-8")
    for stage in ("ppo", "sft", "reward", "ppo-ptx"):
        put_right(tmp_path / stage)
    assert contents(tmp_path) == {"ppo/weights": b".ppo.1.old", "reward/weights": b"reward"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ppo", "reward"]


def test_a_full_disk_is_one_line(trained, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*args, **options):
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    monkeypatch.setattr(checkpoint, "_save_copy", full)
    with pytest.raises(DataError, match=r"ppo: cannot be written: .*No space left on device"):
        save_role(trained, "policy", tmp_path / "ppo")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_left_alone(trained, tmp_path):
    (tmp_path / "ppo").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="ppo: is a file"):
        save_role(trained, "policy", tmp_path / "ppo")
    with pytest.raises(DataError, match="cannot be written"):
        save_role(trained, "policy", tmp_path / "ppo" / "deeper")
    assert contents(tmp_path) == {"ppo": b"mine"}


# Damage -----------------------------------------------------------------------------------------


@pytest.fixture
def saved(trained, tmp_path):
    for role in ("policy", "reward"):
        save_role(trained, role, tmp_path / role)
    return tmp_path


def weights_file(folder, lora):
    return folder / ("adapter_model.safetensors" if lora else "model.safetensors")


def refused(backbone, role, folder, text):
    with pytest.raises(DataError, match=text) as raised:
        load_role(backbone, role, folder)
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)


@pytest.mark.parametrize("damage", [b"", b"not a tensor file at all", None])
def test_damaged_weights_are_refused(saved, new_backbone, lora, damage):
    file = weights_file(saved / "policy", lora)
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    refused(new_backbone(lora), "policy", saved / "policy", "is damaged")


def test_tampering_is_refused(saved, new_backbone, lora):
    """A file that is whole and well formed, but not the one that was saved."""
    file, card = weights_file(saved / "reward", lora), saved / "reward" / CARD
    whole, written = file.read_bytes(), card.read_text(encoding="utf-8")
    for place in (len(whole) - 1, len(whole) - 1_001):
        changed = bytearray(whole)
        changed[place] ^= 1
        file.write_bytes(changed)
        refused(new_backbone(lora), "reward", saved / "reward", "is damaged: weights or card are")
    file.write_bytes(whole)
    card.write_text(written.replace("-0.75", "-0.5"), encoding="utf-8")
    refused(new_backbone(lora), "reward", saved / "reward", "is damaged: weights or card are")
    card.write_text(json.dumps(json.loads(written)), encoding="utf-8")  # only laid out otherwise
    load_role(new_backbone(lora), "reward", saved / "reward")


def test_missing_parts_are_refused(saved, new_backbone, lora):
    weights_file(saved / "policy", lora).unlink()
    refused(new_backbone(lora), "policy", saved / "policy", "cannot be read: No such file")
    (saved / "reward" / CARD).unlink()
    refused(new_backbone(lora), "reward", saved / "reward", "is not a checkpoint of minirlhf")
    refused(new_backbone(lora), "reward", saved / "nowhere", "is not a checkpoint of minirlhf")


@pytest.mark.parametrize(
    "card, text",
    [
        ("{", "cannot be read"),
        ("[]", "field 'role': is missing"),
        ('{"role": "policy", "lora": null}', "field 'base': is missing"),
        (
            '{"role": "reward", "base": "micro", "lora": null, "quantize": "none"}',
            "field 'score_bias': is missing",
        ),
    ],
)
def test_a_damaged_card_is_refused(saved, new_backbone, lora, card, text):
    (saved / "policy" / CARD).write_text(card, encoding="utf-8")
    refused(new_backbone(lora), "policy", saved / "policy", text)


def test_another_base_is_refused(saved, new_backbone, lora):
    backbone = new_backbone(lora)
    backbone.name = "some/other-model"
    refused(backbone, "policy", saved / "policy", "was trained on .*micro, not on some/other-model")


def test_another_shape_of_adapters_is_refused(saved, new_backbone, lora):
    other = new_backbone(LoRA(2, 4))
    refused(
        other, "policy", saved / "policy", r"has LoRA .*, the backbone \{'rank': 2, 'alpha': 4,"
    )


def test_a_base_of_the_same_name_but_another_size_is_refused(saved, new_backbone, lora, tokenizer):
    """The card knows the base's name only; its shapes must fit as well."""
    config = new_backbone().model.config.__class__.from_dict(new_backbone().model.config.to_dict())
    config.hidden_size, config.head_dim, config.intermediate_size = 32, 16, 64
    small = Backbone(type(new_backbone().model)(config), tokenizer, "micro", lora)
    refused(small, "policy", saved / "policy", "but the base needs")


def test_a_policy_is_no_reward_model(saved, new_backbone, lora):
    refused(new_backbone(lora), "reward", saved / "policy", "holds no score head")


def test_the_card_says_what_a_reader_needs(saved, lora, micro_folder):
    card = json.loads((saved / "reward" / CARD).read_text(encoding="utf-8"))
    assert card["role"] == "reward"
    assert card["base"] == str(micro_folder)
    assert card["lora"] == ({"rank": 8, "alpha": 16, "first_layer": 0} if lora else None)
    assert card["score_bias"] == -0.75


def test_a_card_names_the_shipped_base_and_no_folder_of_this_machine(moonlet, tmp_path):
    backbone = load_backbone("moonlet-1m", lora=LoRA(2, 4), device="cpu")
    backbone.add_role("policy")
    save_role(backbone, "policy", tmp_path / "ppo")
    assert read_card(tmp_path / "ppo")["base"] == "moonlet-1m"
    copied = tmp_path / "moonlet-1m"
    shutil.copytree(moonlet, copied)
    same = load_backbone(str(copied), lora=LoRA(2, 4), device="cpu")
    load_role(same, "policy", tmp_path / "ppo")  # by name: the same base lies elsewhere here


def test_the_card_remembers_how_the_base_was_quantised(backbone, tmp_path, monkeypatch):
    backbone.add_role("policy")
    save_role(backbone, "policy", tmp_path / "policy")
    assert read_card(tmp_path / "policy")["quantize"] == "none"
    monkeypatch.setattr(backbone.model, "is_quantized", True, raising=False)
    save_role(backbone, "policy", tmp_path / "policy")
    assert read_card(tmp_path / "policy")["quantize"] == "4bit"
