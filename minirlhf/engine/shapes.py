"""The sizes of a model: from its config, or from a table of common models where no hub answers."""

import json
from dataclasses import dataclass
from pathlib import Path

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

from minirlhf.engine.decoder import FAMILIES
from minirlhf.engine.models import reachable, resolve
from minirlhf.engine.paths import data_folder
from minirlhf.engine.records import DataError

SMOLLM2 = "SmolLM2-135M"  # what `smollm2` is, before it is fetched


@dataclass(frozen=True)
class Shapes:
    """A decoder of the Llama kind, in numbers; everything about its memory follows from these."""

    family: str  # which of `decoder.FAMILIES`; Qwen2 has biases on queries, keys and values
    vocabulary: int
    hidden: int  # width of the residual stream
    intermediate: int  # width of the MLP
    layers: int
    heads: int  # of the queries
    kv_heads: int  # of keys and values: fewer where several queries share them
    head_size: int
    tied: bool  # whether the output matrix is the embedding
    context: int  # longest sequence, tokens

    @property
    def queries(self) -> int:
        """Width of all queries of a token."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """Width of all keys of a token, and of all values."""
        return self.kv_heads * self.head_size

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of a layer's seven matrices: queries, keys, values, output; gate, up, down."""
        d, f = self.hidden, self.intermediate
        attention = ((d, self.queries), (d, self.keys), (d, self.keys), (self.queries, d))
        return (*attention, (d, f), (d, f), (f, d))

    @property
    def layer_weights(self) -> int:
        """Entries of a layer's matrices: what `quantize: 4bit` packs, and what has adapters."""
        return sum(i * o for i, o in self.linears)

    @property
    def other_weights(self) -> int:
        """Embedding, output matrix, norms and biases: what 4 bits leave alone."""
        biases = self.queries + 2 * self.keys if self.family == "qwen2" else 0
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * (2 * self.hidden + biases) + self.hidden

    @property
    def parameters(self) -> int:
        return self.layers * self.layer_weights + self.other_weights

    def adapter(self, rank: int, first_layer: int = 0) -> int:
        """Parameters of one LoRA adapter on all matrices from `first_layer` on.

        Source:  Hu et al. 2021 (arXiv:2106.09685): A is (rank, in), B is (out, rank).
        """
        return (self.layers - first_layer) * sum(rank * (i + o) for i, o in self.linears)

    def config(self) -> PretrainedConfig:
        """A transformers config of these shapes."""
        return CONFIG_MAPPING[self.family](
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_size,
            tie_word_embeddings=self.tied,
            max_position_embeddings=self.context,
        )


def shapes_of(config: PretrainedConfig) -> Shapes:
    """Read the shapes off a transformers config; DataError for other architectures."""
    if config.model_type not in FAMILIES:
        raise DataError(
            f"model: the sums know {', '.join(FAMILIES)}, not {config.model_type!r}; "
            "its memory has to be measured"
        )
    heads = config.num_attention_heads
    return Shapes(
        family=config.model_type,
        vocabulary=config.vocab_size,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        tied=config.tie_word_embeddings,
        context=config.max_position_embeddings,
    )


def table() -> dict[str, Shapes]:
    """The shipped table: name -> shapes."""
    rows = json.loads((data_folder() / "models" / "shapes.json").read_text(encoding="utf-8"))
    return {name: Shapes(**row) for name, row in rows.items()}


def find_shapes(name: str) -> tuple[str, Shapes]:
    """The model's name as it is known, and its shapes.

    Looks at: a folder or a shipped model; the table, where `Qwen/Qwen2.5-7B-Instruct` is found as
    Qwen2.5-7B; a hub. Downloads no weights.
    Raises:  DataError, one line that names the models of the table.
    """
    known = table()
    if name == "smollm2":
        return SMOLLM2, known[SMOLLM2]
    source = resolve(name)
    if Path(source).is_dir():
        return name, shapes_of(_config(source, name))
    plain = name.rpartition("/")[2].lower()
    for entry, shapes in known.items():
        if plain.removesuffix("-instruct") == entry.lower():
            return entry, shapes
    if not reachable(source):
        raise DataError(
            f"model {name!r}: no folder, not in the table, and no hub that has it answers; "
            f"the table has {', '.join(known)}"
        )
    return name, shapes_of(_config(source, name))


def _config(source: str, name: str) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise DataError(f"model {name!r}: has no config that can be read ({first})") from None
