"""minirlhf.engine.simulate: fake tensors that answer truly, and a count of bytes."""

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from torch import nn
from transformers import AutoConfig

from minirlhf.engine.backbone import LoRA
from minirlhf.engine.models import load_backbone
from minirlhf.engine.simulate import EOS, FourBitLinear, LiveBytes, fake_backbone, simulation


def test_live_bytes_come_and_go():
    with LiveBytes() as live:
        one = torch.zeros(10, 100)
        assert live.now == live.peak == 4000
        view = one[2:].t()
        assert live.now == 4000  # a view takes nothing
        two = one.double()
        assert live.now == 12_000
        del one
        assert live.now == 12_000  # the view still holds it
        del view, two
        assert (live.now, live.peak) == (0, 12_000)
        live.restart()
        assert live.peak == 0
        kept = torch.zeros(5)
        kept += 1
    assert (live.now, live.peak) == (20, 20)


def test_logsumexp_takes_a_copy_and_autograd_what_it_keeps():
    logits = torch.zeros(10, 100, requires_grad=True)
    with LiveBytes() as live:
        out = logits.logsumexp(-1)
        assert (live.now, live.peak) == (40, 4000)
        squared = (logits.exp() ** 2).sum()  # keeps what is squared, and not the square
        assert live.now == pytest.approx(4000 + 40 + 4, abs=64)
        del squared, out
    assert live.now == 0


def test_whole_numbers_are_true_and_others_are_not_known():
    with simulation() as simulated:
        mask = torch.tensor([[False, True, True], [True, True, True]])
        lengths = mask.sum(1)
        assert lengths.tolist() == [2, 3]
        assert int(lengths.max()) == 3
        assert lengths.argsort(descending=True).tolist() == [1, 0]
        assert mask.long().cumsum(-1)[0].tolist() == [0, 1, 2]
        ids = torch.zeros(2, 3, dtype=torch.long)
        ids[:, 1] = lengths  # through a view, in place
        ids[mask] += 5
        assert ids.tolist() == [[0, 7, 5], [5, 8, 5]]
        assert mask.nonzero().shape == (5, 2)
        assert ids.unique().tolist() == [0, 5, 7, 8]
        numbers = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
        assert numbers[mask].shape == (5,)
        assert numbers.sum().item() == 1.0
        assert bool((numbers > 0).all())
        assert numbers.argmax(-1).tolist() == [1, 1]
        simulated.draw = lambda shape: torch.full(shape, EOS)
        assert numbers.argmax(-1).tolist() == [EOS, EOS]
        assert torch.equal(numbers, numbers + 1)


def test_nothing_is_allocated():
    with simulation() as simulated:
        matrix = torch.empty(2**20, 2**20)
        assert (matrix @ matrix).shape == matrix.shape
        assert simulated.live.peak == 2 * 2**42


def test_a_gradient_is_as_large_as_its_weights():
    with simulation() as simulated:
        linear = nn.Linear(100, 50, bias=False)
        simulated.live.restart()
        linear(torch.zeros(7, 100)).sum().backward()
        assert linear.weight.grad.shape == (50, 100)
        assert simulated.live.now == 4 * (2 * 50 * 100)
        # weights, gradient, input, loss and its gradient; the output is gone by then
        assert simulated.live.peak == 4 * (2 * 50 * 100 + 7 * 100 + 1 + 1)


def test_a_stand_in_takes_the_bytes_of_the_true_4_bit_layer():
    real = Linear4bit(256, 192, bias=False, quant_type="nf4", compress_statistics=True)
    real = real.to("cpu")
    state = real.weight.quant_state
    taken = [real.weight, state.absmax, state.state2.absmax, state.state2.code]
    stand_in = FourBitLinear(nn.Linear(256, 192, bias=False))
    own = [stand_in.weight, *stand_in.buffers()]
    assert sum(t.nbytes for t in own) == sum(t.nbytes for t in taken)
    # forward and backward each unpack the matrix and drop it
    with simulation() as simulated:
        stand_in = FourBitLinear(nn.Linear(256, 192, bias=False))
        x = torch.zeros(3, 256, requires_grad=True)
        simulated.live.restart()
        before = simulated.live.now
        out = stand_in(x)
        assert simulated.live.now == before + out.nbytes
        whole = 4 * 256 * 192
        assert before + whole <= simulated.live.peak <= before + 1.1 * whole
        simulated.live.restart()
        out.sum().backward()
        assert x.grad.shape == (3, 256)
        assert simulated.live.peak >= before + whole


@pytest.mark.parametrize("quantize", ["none", "4bit"])
def test_a_fake_backbone_has_the_sizes_of_the_true_one(quantize, moonlet):
    lora = LoRA(rank=4)
    real = load_backbone("moonlet-1m", quantize, lora, device="cpu")
    config = AutoConfig.from_pretrained(moonlet)
    with simulation():
        fake = fake_backbone(config, quantize, lora, torch.float32)
        for role in ("reference", "reward"):
            real.add_role(role)
            fake.add_role(role)
        sizes = fake.sizes()
        found = sum(t.nbytes for t in [*fake.model.parameters(), *fake.model.buffers()])
    assert {r: s.bytes for r, s in sizes.items() if r != "base"} == {
        r: s.bytes for r, s in real.sizes().items() if r != "base"
    }
    adapters = sum(s.bytes for r, s in sizes.items() if r != "base") - 4 * 129  # the head is apart
    assert found - adapters == pytest.approx(real.sizes()["base"].bytes, rel=0.001)
