"""benchmarks/gpu_check.py and memory_peak.py: they run, here without a card."""

import importlib
import mmap
import re
from pathlib import Path

import pytest

from minirlhf.engine.shapes import Shapes, find_shapes

TINY = Shapes("llama", 300, 64, 128, 2, 4, 2, 16, True, 512)


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module


def ratios(rows) -> dict[str, float]:
    found = {what: re.search(r"MiB, ratio ([\d.]+)", value) for what, value in rows}
    return {what: float(match.group(1)) for what, match in found.items() if match}


@pytest.mark.parametrize("bits", [16, 4])
def test_an_update_is_measured_beside_its_sum(benchmark, bits):
    check = benchmark("gpu_check")
    rows = dict(check.update(TINY, bits, small=True))
    assert ratios(rows.items()).keys() == {
        f"PPO: {stage}, sum and counted" for stage in ("sampling", "scoring", "policy", "value")
    }
    assert all(0.7 < ratio < 1.3 for ratio in ratios(rows.items()).values()), rows
    assert re.fullmatch(
        r"\d+ and \d+, ratio [\d.]+", rows["tokens/s at batch 8, ours and `generate`"]
    )
    off = float(rows["ratio of the first minibatch, off 1 by"])
    assert off < (1e-4 if bits == 4 else 0.1)


def test_the_other_rows_and_what_fails(benchmark, capsys):
    check = benchmark("gpu_check")
    assert check.choose(None) == find_shapes("moonlet-1m")
    assert float(check.gradients("cpu").split()[0]) == 0.0
    assert check.products(check.torch.float32).endswith(" TFLOP/s")
    check.attempt("machine", check.machine)
    check.attempt("one thing", lambda: "well")

    def broken():
        yield "first", "fine"
        raise RuntimeError("the card\nfell out")

    check.attempt("another", broken)
    printed = capsys.readouterr().out
    assert "| card | none; " in printed
    assert printed.endswith(
        "| one thing | well |\n| first | fine |\n| another | **failed**: RuntimeError: the card |\n"
    )


def touched(megabytes):
    """Memory with every page written, not from the heap, which may keep what is freed."""
    block = mmap.mmap(-1, megabytes * 2**20)
    block[:: mmap.PAGESIZE] = b"x" * len(block[:: mmap.PAGESIZE])
    return block


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
def test_the_high_water_mark_is_that_of_the_memory_touched(benchmark):
    peaks = benchmark("memory_peak")
    touched(256).close()  # what was before does not count
    water, megabytes = peaks.HighWater(), 64
    block = touched(megabytes)
    held = water.peak
    assert held == pytest.approx(megabytes * 2**20, rel=0.1)
    block.close()
    water.restart()
    assert water.peak < held / 2
