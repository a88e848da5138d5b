"""Count the floating-point operations of a Llama-like model from its shapes.

A product of (n, a) and (a, b) counts 2 n a b. Norms, activations, softmax and the optimiser are
left out: they are little arithmetic, whatever time they take. Backward through a frozen matrix
costs one product (the input's gradient), through a trained one two.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A decoder and what is trained of it: rank 0 = all weights, layers from `first_layer` on."""

    hidden: int
    intermediate: int
    layers: int
    query: int  # width of all query heads together
    key: int  # width of all key heads
    vocabulary: int
    rank: int = 0
    first_layer: int = 0

    @classmethod
    def of(cls, config, rank: int, first_layer: int = 0) -> "Shape":
        """From a transformers config."""
        return cls(
            config.hidden_size,
            config.intermediate_size,
            config.num_hidden_layers,
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
            config.vocab_size,
            rank,
            first_layer,
        )

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(in, out) of the seven matrices of a layer."""
        d, f, q, k = self.hidden, self.intermediate, self.query, self.key
        return [(d, q), (d, k), (d, k), (q, d), (d, f), (d, f), (f, d)]

    def base(self, tokens: int) -> float:
        """All frozen (or fully trained) matrices of one layer."""
        return sum(2.0 * tokens * a * b for a, b in self.linears)

    def adapters(self, tokens: int) -> float:
        """All adapters of one layer."""
        return sum(2.0 * tokens * self.rank * (a + b) for a, b in self.linears)

    def attention(self, pairs: int) -> float:
        """Scores and mixing of one layer, over `pairs` of a query and a key that it may see."""
        return 4.0 * pairs * self.query

    def forward(self, rows: int, length: int, heads: int = 0, layers: range | None = None) -> float:
        """Forward pass of `rows` sequences through `layers` (default: all).

        `heads`: positions of a row that need logits.
        """
        tokens, pairs = rows * length, rows * length * (length + 1) // 2
        total = 2.0 * rows * heads * self.hidden * self.vocabulary
        for layer in range(self.layers) if layers is None else layers:
            total += self.base(tokens) + self.attention(pairs)
            if layer >= self.first_layer:
                total += self.adapters(tokens)
        return total

    def backward(self, rows: int, length: int, heads: int = 0) -> float:
        """Backward pass down to the lowest layer that is trained."""
        tokens, pairs = rows * length, rows * length * (length + 1) // 2
        trained = 1 if self.rank else 2
        layer = trained * self.base(tokens) + 2 * self.adapters(tokens) + 2 * self.attention(pairs)
        head = 2.0 * rows * heads * self.hidden * self.vocabulary
        return (self.layers - self.first_layer) * layer + trained * head


def ppo_stages(
    shape: Shape, rows: int, prompt: int, response: int, epochs: int, shared_value: bool
) -> dict[str, float]:
    """FLOPs of an update, stage by stage, each thing computed once that need be computed once.

    The layers below `first_layer` are the same for all roles and epochs: sampling has computed
    them. With `shared_value` the value is read off the policy's own pass.
    """
    length = prompt + response - 1  # the token drawn last is read by the reward model alone
    upper = range(shape.first_layer, shape.layers)
    value = shape.forward(rows, length, layers=upper)
    policy = shape.forward(rows, length, response, layers=upper)
    reward = value + shape.forward(rows, 1)
    return {
        "sampling": shape.forward(rows, length, response),
        "scoring": policy + reward + (0.0 if shared_value else value),  # policy: the reference's
        "policy epochs": epochs * (policy + shape.backward(rows, length, response)),
        "value epochs": 0.0 if shared_value else epochs * (value + shape.backward(rows, length)),
    }
