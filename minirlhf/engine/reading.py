"""Reading token by token: what the sampler asks for the next token's logits."""

import torch
from torch import Tensor
from transformers import DynamicCache

from minirlhf.engine import decoder
from minirlhf.engine.backbone import Backbone, position_ids


class Reader:
    """Reads prompts as a role, then one token per row and step.

    `logits` (B, V) float32 are those of the next token. `pick` keeps some rows, so that finished
    ones cost nothing, or repeats them, so that several responses share one reading of the prompt.
    """

    def __init__(self, backbone: Backbone, role: str, ids: Tensor, mask: Tensor, room: int):
        self.role, self.model = role, backbone.model_of(role)
        batch, width = ids.shape
        self.cache = decoder.Cache(self.model, batch, width + room)
        later = mask.new_ones(batch, room)
        self.mask = None if mask.all() else torch.cat([mask, later], 1)[:, None, None]
        positions = position_ids(torch.cat([mask, later], 1))
        self.places = decoder.places(self.model, positions, None)
        self.fused = decoder.fuse(self.model, role) if decoder.can_fuse(self.model) else None
        self._read(ids, decoder.causal_mask(mask))

    def read(self, tokens: Tensor) -> None:
        """Append a token (B,) to each row."""
        seen = self.cache.length + 1
        self._read(tokens[:, None], None if self.mask is None else self.mask[..., :seen])

    def _read(self, ids: Tensor, mask: Tensor | None) -> None:
        cache, model = self.cache, self.model
        new = slice(cache.length, cache.length + ids.shape[1])
        where = decoder.Places(self.places.cos[:, new], self.places.sin[:, new], mask)
        if self.fused:
            hidden = decoder.read_on(model, self.fused, ids, where, cache)
        else:
            embedded = model.get_input_embeddings()(ids)
            hidden = decoder.run_layers(model, self.role, embedded, where, cache=cache)
        cache.length = new.stop
        self.logits = decoder.to_logits(model, hidden[:, -1:])[:, 0]

    def pick(self, rows: Tensor) -> None:
        """Keep these rows, each as often as it is named."""
        self.cache.pick(rows)
        cos, sin, _ = self.places
        self.places = decoder.Places(cos[rows], sin[rows], None)
        self.logits = self.logits[rows]
        self.mask = None if self.mask is None else self.mask[rows]


class PlainReader:
    """The same for any causal LM, by its own `forward` and transformers' cache."""

    def __init__(self, backbone: Backbone, role: str, ids: Tensor, mask: Tensor, room: int):
        self.backbone, self.role = backbone, role
        self.cache = DynamicCache(config=backbone.model.config)
        self.mask, self.positions = mask, position_ids(mask)
        self.logits = self._read(ids)

    def read(self, tokens: Tensor) -> None:
        """Append a token (B,) to each row."""
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
        self.positions = self.positions[:, -1:] + 1
        self.logits = self._read(tokens[:, None])

    def _read(self, ids: Tensor) -> Tensor:
        with self.backbone.active(self.role) as model:
            out = model(
                input_ids=ids,
                attention_mask=self.mask.long(),
                position_ids=self.positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return out.logits[:, -1].float()

    def pick(self, rows: Tensor) -> None:
        """Keep these rows, each as often as it is named."""
        self.cache.batch_select_indices(rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]
        self.logits = self.logits[rows]


def open_reader(
    backbone: Backbone, role: str, ids: Tensor, mask: Tensor, room: int
) -> Reader | PlainReader:
    """Read prompts (B, P), padded on the left, with room for that many tokens more."""
    kind = Reader if backbone.written_out else PlainReader
    return kind(backbone, role, ids, mask, room)
