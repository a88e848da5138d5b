"""A Llama's forward pass, on the weights of the transformers model.

embedding -> layers: attention, MLP -> norm -> logits

Written out for three things that the model's own `forward` does not offer: a role's adapter is read
where it is needed, so that no switch is thrown; a pass can start at any layer, so that layers below
the first adapter are computed once and shared by all roles; and the cache of keys and values lies
in one block that is made once. Other architectures go through their own `forward` (see `Backbone`).
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

FAMILIES = ("llama", "mistral", "qwen2")  # alike but for biases and sizes

FUSE_UP_TO = 200_000_000  # parameters; a copy of a larger model's weights is too much memory
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Dropout:
    """Residual dropout: zeroes a share of what a block adds, and scales the rest up.

    Each block gets a generator with a seed of its own, so that a pass that is computed again in
    backward drops the same; the seeds come from `generator`, so that a run can be repeated.
    """

    def __init__(self, rate: float, generator: torch.Generator):
        self.rate, self.generator = rate, generator

    def seed(self) -> int:
        device = self.generator.device
        return int(torch.randint(2**62, (1,), generator=self.generator, device=device))

    def __call__(self, added: Tensor, seed: int) -> Tensor:
        own = torch.Generator(added.device).manual_seed(seed)
        keep = torch.empty_like(added).bernoulli_(1 - self.rate, generator=own)
        return added * keep / (1 - self.rate)


class Places(NamedTuple):
    """Where the tokens of a batch stand and what they may look at; the same for all layers."""

    cos: Tensor  # (B, T, d) of the rotary embedding
    sin: Tensor  # (B, T, d), the first half negative
    mask: Tensor | None  # (B or 1, 1, T, S) bool, True = looks at; None = all that came before


class Cache:
    """Keys and values of all layers, for `batch` sequences that grow to at most `room` tokens."""

    def __init__(self, model: PreTrainedModel, batch: int, room: int):
        layers, embedding = model.get_decoder().layers, model.get_input_embeddings().weight
        heads, size = model.config.num_key_value_heads, layers[0].self_attn.head_dim
        shape = (len(layers), batch, heads, room, size)
        options = {"dtype": model.dtype, "device": embedding.device}
        self.keys, self.values = torch.empty(shape, **options), torch.empty(shape, **options)
        self.length = 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add a layer's new keys and values (B, H, T, d); returns all it has by now."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def pick(self, rows: Tensor) -> None:
        """Keep these rows, each as often as it is named."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]


def can_read(model: PreTrainedModel) -> bool:
    """Whether a model is of a family whose pass is written out here."""
    config = model.config
    return config.model_type in FAMILIES and not getattr(config, "sliding_window", None)


def places(model: PreTrainedModel, positions: Tensor, mask: Tensor | None) -> Places:
    """Rotary angles of `positions` (B, T), and the mask beside them."""
    cos, sin = model.get_decoder().rotary_emb(model.get_input_embeddings().weight[:1], positions)
    half = sin.shape[-1] // 2
    return Places(cos, torch.cat([-sin[..., :half], sin[..., half:]], -1), mask)


def causal_mask(attention_mask: Tensor) -> Tensor | None:
    """Each token looks at the counted ones up to itself: (B, T) -> (B, 1, T, T), None = at all.

    A token of the padding on the left looks at itself, so that no softmax is empty.
    """
    if attention_mask.all():
        return None
    length = attention_mask.shape[1]
    ones = torch.ones(length, length, dtype=torch.bool, device=attention_mask.device)
    return (attention_mask[:, None, None] & ones.tril()) | ones.diag().diag()


def run_layers(
    model: PreTrainedModel,
    role: str,
    hidden: Tensor,
    where: Places,
    first: int = 0,
    last: int | None = None,
    cache: Cache | None = None,
    dropout: Dropout | None = None,
    checkpointing: bool = False,
) -> Tensor:
    """Take hidden states (B, T, D) through the layers first .. last - 1, with a role's adapter.

    Args:    role: whose adapter, where a layer has it; where: from `places`; last: None = to the
             end, the final norm included; cache: read and extended; dropout: on what each block
             adds; checkpointing: keep only what enters a layer, and compute the rest again in the
             backward pass.
    """
    decoder = model.get_decoder()
    for number in range(first, len(decoder.layers) if last is None else last):
        drops = (partial(dropout, seed=dropout.seed()) for _ in "12") if dropout else (_keep, _keep)
        layer = partial(_layer, decoder.layers[number], role, number, where, cache, *drops)
        if checkpointing and torch.is_grad_enabled():
            hidden = checkpoint(layer, hidden, use_reentrant=False, preserve_rng_state=False)
        else:
            hidden = layer(hidden)
    return _norm(decoder.norm, hidden) if last is None else hidden


def to_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Next-token logits (B, T, V) float32 of hidden states (B, T, D) that the norm has left."""
    flat = hidden.reshape(-1, hidden.shape[-1])  # one matrix product, where a slice makes many
    return model.get_output_embeddings()(flat).view(*hidden.shape[:2], -1).float()


def _layer(layer, role, number, where, cache, drop_attention, drop_mlp, hidden: Tensor) -> Tensor:
    entering = _norm(layer.input_layernorm, hidden)
    attention = _attention(layer.self_attn, role, number, where, cache, entering)
    hidden = hidden + drop_attention(attention)
    mlp, entering = layer.mlp, _norm(layer.post_attention_layernorm, hidden)
    gate = mlp.act_fn(project(mlp.gate_proj, entering, role))
    gated = gate * project(mlp.up_proj, entering, role)
    return hidden + drop_mlp(project(mlp.down_proj, gated, role))


def _keep(added: Tensor) -> Tensor:
    return added


def _attention(block, role, number, where, cache, hidden: Tensor) -> Tensor:
    batch, length, _ = hidden.shape
    queries, keys, values = (
        project(linear, hidden, role).view(batch, length, -1, block.head_dim).transpose(1, 2)
        for linear in (block.q_proj, block.k_proj, block.v_proj)
    )
    queries, keys = _rotate(queries, where), _rotate(keys, where)
    if cache is not None:
        keys, values = cache.extend(number, keys, values)
    out = _attend(queries, keys, values, where.mask)
    return project(block.o_proj, out.transpose(1, 2).reshape(batch, length, -1), role)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of queries (B, H, T, d); without a mask, to all that came before."""
    groups = queries.shape[1] // keys.shape[1]
    if groups > 1 and not _knows_groups(keys.device, mask):
        keys, values = (heads.repeat_interleave(groups, 1) for heads in (keys, values))
    return F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=mask,
        is_causal=mask is None and queries.shape[2] > 1,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )


def _knows_groups(device: torch.device, mask: Tensor | None) -> bool:
    """Whether a kernel shares keys among queries; CUDA would write out (T, T) scores for a mask."""
    return device.type == "cpu" or mask is None


def _rotate(heads: Tensor, where: Places) -> Tensor:
    """Rotary position embedding of (B, H, T, d), halves side by side as in Llama's weights."""
    swapped = heads.roll(heads.shape[-1] // 2, -1)
    return torch.addcmul(heads * where.cos[:, None], swapped, where.sin[:, None])


def _norm(norm: nn.Module, hidden: Tensor) -> Tensor:
    return F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def project(linear: nn.Module, x: Tensor, role: str) -> Tensor:
    """W x, and where the role has an adapter on this layer, + (alpha / r) B A x."""
    adapters = getattr(linear, "lora_A", None)
    if adapters is None:
        return linear(x)
    out = linear.base_layer(x)
    if role not in adapters:
        return out
    low, up = adapters[role].weight, linear.lora_B[role].weight
    update, scale = F.linear(x.to(low.dtype), low), linear.scaling[role]
    if type(linear.base_layer) is not nn.Linear or out.dtype != low.dtype:  # 4 or 16 bits
        return out + (F.linear(update, up) * scale).to(out.dtype)
    out.view(-1, len(up)).addmm_(update.view(-1, len(low)), up.t(), alpha=scale)
    return out


# Reading with fused weights -----------------------------------------------------------------------


class Fused(NamedTuple):
    """A layer's weights for reading: the adapter added in, what reads the same input in one matrix.

    A token at a time costs calls and fetched weights; this has a third of the calls.
    """

    qkv: Tensor  # (heads * d, D)
    qkv_bias: Tensor | None
    out: Tensor  # (heads * d, D)
    gate_up: Tensor  # (2 I, D)
    down: Tensor  # (I, D)


@torch.no_grad()
def fuse(model: PreTrainedModel, role: str) -> list[Fused]:
    """The layers' weights as a role reads them, copied: float32 models without odd biases only."""
    layers = []
    for layer in model.get_decoder().layers:
        block, mlp = layer.self_attn, layer.mlp
        inward = [block.q_proj, block.k_proj, block.v_proj]
        biases = [_plain(linear).bias for linear in inward]
        layers.append(
            Fused(
                torch.cat([_merged(linear, role) for linear in inward]),
                None if biases[0] is None else torch.cat(biases),
                _merged(block.o_proj, role).t(),
                torch.cat([_merged(mlp.gate_proj, role), _merged(mlp.up_proj, role)]),
                _merged(mlp.down_proj, role).t(),
            )
        )
    return layers


def can_fuse(model: PreTrainedModel) -> bool:
    """Whether `fuse` is exact to rounding (not so in 16 or 4 bits) and worth the copy it makes."""
    layer = model.get_decoder().layers[0]
    later = [layer.self_attn.o_proj, layer.mlp.gate_proj, layer.mlp.down_proj]
    return (
        model.dtype == torch.float32
        and not getattr(model, "is_quantized", False)
        and all(_plain(linear).bias is None for linear in later)
        and model.num_parameters() <= FUSE_UP_TO
    )


def _plain(linear: nn.Module) -> nn.Module:
    return getattr(linear, "base_layer", linear)


def _merged(linear: nn.Module, role: str) -> Tensor:
    weight = _plain(linear).weight
    if role not in getattr(linear, "lora_A", ()):
        return weight
    low, up = linear.lora_A[role].weight, linear.lora_B[role].weight
    return torch.addmm(weight, up, low, alpha=linear.scaling[role])


@torch.no_grad()
def read_on(
    model: PreTrainedModel, fused: list[Fused], ids: Tensor, where: Places, cache: Cache
) -> Tensor:
    """Read more tokens (B, T): what `run_layers` does with a cache, by a role's `fuse`.

    Returns: hidden states after the last norm, (B, T, D).
    """
    decoder, config = model.get_decoder(), model.config
    queries, heads = config.num_attention_heads, config.num_key_value_heads
    (batch, length), half = ids.shape, where.cos.shape[-1] // 2
    cos, sin = where.cos[:, :, None], where.sin[:, :, None]
    hidden = model.get_input_embeddings()(ids).view(batch * length, -1)
    for number, (layer, weights) in enumerate(zip(decoder.layers, fused, strict=True)):
        entering = _norm(layer.input_layernorm, hidden)
        qkv = F.linear(entering, weights.qkv, weights.qkv_bias)
        turned, values = qkv.view(batch, length, -1, 2 * half).split((queries + heads, heads), 2)
        turned = torch.addcmul(turned * cos, turned.roll(half, -1), sin).transpose(1, 2)
        keys, values = cache.extend(number, turned[:, queries:], values.transpose(1, 2))
        attention = _attend(turned[:, :queries], keys, values, where.mask)
        attention = attention.transpose(1, 2).reshape(batch * length, -1)
        hidden = torch.addmm(hidden, attention, weights.out)
        entering = _norm(layer.post_attention_layernorm, hidden)
        gate, up = F.linear(entering, weights.gate_up).chunk(2, -1)
        hidden = torch.addmm(hidden, layer.mlp.act_fn(gate) * up, weights.down)
    return _norm(decoder.norm, hidden).view(batch, length, -1)
