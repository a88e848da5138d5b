"""Run training on tensors that have shapes and no memory, and count the bytes they would take.

PyTorch's fake tensors know their shape and type and nothing else, so an 8B model is built in
seconds on any machine. Here they learn a little more, because a training loop asks its data
questions: every tensor of whole numbers or of True and False (masks, lengths, token ids) keeps its
true values beside it, which costs next to nothing. Floating-point numbers keep none: where the loop
asks for one, it is 1.0, and the tokens that a model draws are those that `Simulation.draw` gives.
"""

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterator

import torch
from bitsandbytes.functional import create_dynamic_map
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten
from transformers import AutoModelForCausalLM, PretrainedConfig

from minirlhf.engine.backbone import Backbone, LoRA
from minirlhf.maths.nf4 import BLOCK, SUPER_BLOCK

WHOLE = (torch.bool, torch.int32, torch.int64)
LARGEST = 2**25  # entries; a larger tensor of whole numbers is taken to be all ones
PAD, WORD, EOS = 0, 1, 2  # the simulated tokens


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors made inside of the block that are still alive.

    now, peak: bytes; `restart` begins a new peak. Works with fake tensors and with real ones. What
    an operation needs inside and frees before it returns is not seen, but for logsumexp, which
    works on a copy of what it is given.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}  # by the address of the storage

    def restart(self) -> None:
        self.peak = self.now

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "prim":  # a question about a tensor
            return function(*args)
        if function is torch.ops.aten.logsumexp.default:
            self.peak = max(self.peak, self.now + args[0].numel() * args[0].element_size())
        out = function(*args, **(kwargs or {}))
        for tensor in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes and storage.nbytes():
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


class Simulation(TorchDispatchMode):
    """Gives fake tensors of whole numbers their true values, and answers questions with them.

    draw: shape -> the values of whole numbers that come from a model, such as drawn tokens.
    """

    def __init__(self, fake: FakeTensorMode):
        super().__init__()
        self.fake = fake
        self.live = LiveBytes()
        self.draw: Callable[[torch.Size], Tensor] = words

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "prim":
            return function(*args)
        kwargs = kwargs or {}
        if torch.Tag.data_dependent_output in function.tags:  # .item(), bool(), torch.equal
            known, value = self._truly(function, args, kwargs)
            return value if known else (1.0 if function._opname != "equal" else True)
        if function is torch.ops.aten.index.Tensor:
            args = (args[0], self._places(args[1]))
        elif torch.Tag.dynamic_output_shape in function.tags:  # nonzero, unique
            _, value = self._truly(function, args, kwargs)
            return tree_map_only(Tensor, self._shadowed, value)
        return self._shaped(function, args, kwargs)

    def _shaped(self, function, args, kwargs):
        """The fake result; where it is of whole numbers, with its values."""
        given = kwargs
        if function._schema.is_mutable and "generator" in kwargs:  # fake noise needs no generator
            given = {name: value for name, value in kwargs.items() if name != "generator"}
        out = function(*args, **given)
        # torch keeps weak references to parameters here, and a module with such cannot be moved
        self.fake.fake_tensor_converter.meta_converter.tensor_memo.clear()
        fakes = (out,) if isinstance(out, Tensor) else tree_leaves(out)
        if any(_is_whole(t) and t.numel() <= LARGEST for t in fakes):
            known, values = self._truly(function, args, kwargs)
            if known:
                for fake, value in zip(fakes, tree_leaves(values), strict=True):
                    if _is_whole(fake):
                        fake.truth = value
        return out

    def _truly(self, function, args, kwargs):
        """(True, the result on the true values), or (False, None) where one is not known."""
        flat, structure = tree_flatten((args, kwargs))
        with no_dispatch():
            values = [self._truth(item) for item in flat]
            if any(v is None and isinstance(t, Tensor) for v, t in zip(values, flat, strict=True)):
                return False, None
            true_args, true_kwargs = tree_unflatten(values, structure)
            return True, function(*true_args, **true_kwargs)

    def _places(self, indices):
        """Masks among the indices as the places where they are True."""
        places = []
        for index in indices:
            if index is not None and index.dtype == torch.bool:
                with no_dispatch():
                    found = self._truth(index).nonzero(as_tuple=True)
                places += [self._shadowed(place) for place in found]
            else:
                places.append(index)
        return places

    def _shadowed(self, value: Tensor) -> FakeTensor:
        fake = self.fake.from_tensor(value)
        fake.truth = value
        return fake

    def _truth(self, item):
        """A tensor's values: a real one's own, those kept beside a fake one, `draw`'s for whole
        numbers that nobody knows, None for floating-point numbers."""
        if not isinstance(item, FakeTensor):
            return item
        value = getattr(item, "truth", None)
        if value is None and item.dtype in WHOLE:
            value = item.truth = self.draw(item.shape).to(item.dtype)
        return value


def _is_whole(item) -> bool:
    return isinstance(item, FakeTensor) and item.dtype in WHOLE


def words(shape: torch.Size) -> Tensor:
    """A model that never ends its answer."""
    return torch.full(shape, WORD)


class _Fake(FakeTensorMode):
    """Fake tensors that stay in one world when a model is copied."""

    def __deepcopy__(self, memo):
        return self


@contextlib.contextmanager
def simulation() -> Iterator[Simulation]:
    """Everything inside of the block is made of fake tensors; `.live` counts their bytes."""
    fake = _Fake()
    with warnings.catch_warnings(), fake, Simulation(fake) as simulated, simulated.live:
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        yield simulated


# A model to simulate ----------------------------------------------------------------------------


class FourBitLinear(nn.Linear):
    """Stands in for bitsandbytes' 4-bit layer, whose weights cannot be fake; keeps the same bytes.

    Forward and backward each unpack the whole matrix, as that layer does for more than a few rows.
    """

    def __init__(self, linear: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        count = linear.weight.numel()
        blocks = -(-count // BLOCK)
        codes = torch.empty(-(-count // 2), 1, dtype=torch.uint8)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.register_buffer("scale_codes", torch.empty(blocks, dtype=torch.uint8))
        self.register_buffer("scale_scales", torch.empty(-(-blocks // SUPER_BLOCK)))
        self.register_buffer("code", create_dynamic_map())
        self.bias = linear.bias

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        operations = torch.ops.bitsandbytes
        scales = operations.dequantize_blockwise(
            self.scale_codes, self.scale_scales, self.code, SUPER_BLOCK, torch.float32
        )
        shape = (self.out_features, self.in_features)
        return operations.dequantize_4bit(self.weight, scales, BLOCK, "nf4", shape, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return _FourBitProduct.apply(x, self)


class _FourBitProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        return nn.functional.linear(x, layer.unpacked(x.dtype), layer.bias)

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ ctx.layer.unpacked(gradient.dtype), None


class FakeTokenizer:
    """A tokenizer for which each character is one token."""

    chat_template = None
    eos_token, eos_token_id, pad_token_id = "", EOS, PAD

    def apply_chat_template(self, messages, **options) -> str:
        return "".join(message["content"] for message in messages)

    def __call__(self, text, **options) -> dict:
        ids = [WORD] * len(text) if isinstance(text, str) else [[WORD] * len(t) for t in text]
        return {"input_ids": ids}


def fake_backbone(
    config: PretrainedConfig,
    quantize: str = "none",
    lora: LoRA | None = LoRA(),  # noqa: B008  (frozen)
    dtype: torch.dtype = torch.bfloat16,
) -> Backbone:
    """A backbone of fake tensors, as `load_backbone` makes it; to be called in a `simulation`.

    Args: config: of any causal LM; quantize, lora: as there; dtype: of the base.
    """
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if quantize == "4bit":
        head = model.get_output_embeddings()
        for module in [*model.modules()]:
            for name, child in [*module.named_children()]:
                if isinstance(child, nn.Linear) and child is not head:
                    setattr(module, name, FourBitLinear(child))
        model.is_quantized = True
    return Backbone(model, FakeTokenizer(), config.model_type, lora)
