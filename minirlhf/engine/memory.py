"""Will it fit? Bytes per role and per stage, by arithmetic on a model's shapes.

    weights + Adam's moments + gradients            what lies there
    + cache + activations + logits + unpacking      what comes and goes

Each line of the sums below names the tensors it counts, so that they can be checked against the
code (`engine/decoder.py`, `stages/`), against a run on tensors without memory (`memory_trial.py`)
and against a measured one (`benchmarks/memory_peak.py`).
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from minirlhf.engine.decoder import FUSE_UP_TO
from minirlhf.engine.shapes import Shapes
from minirlhf.maths.nf4 import BLOCK, bits_per_parameter

GIB = 2**30
FLOAT = 4  # bytes of a float32: adapters, heads, Adam's moments, log-probabilities
# What a card of N GB does not give us: CUDA's own libraries take about 0.7 GiB, and the allocator
# cannot fill every gap. An estimate: `benchmarks/gpu_check.py` measures it on your card.
CUDA_CONTEXT, FRAGMENTATION = 0.7 * GIB, 0.05


def usable(card: float) -> int:
    """Bytes that a card of so many GB has for us."""
    return int(card * GIB * (1 - FRAGMENTATION) - CUDA_CONTEXT)


@dataclass(frozen=True)
class Job:
    """What is to be run: how the roles are kept, and how much goes through the model at once."""

    quantize: str = "none"
    full: bool = False  # roles are copies of all weights, in 32 bits
    rank: int = 16
    first_layer: int = 0  # layers below it have no adapter
    checkpointing: bool = False
    half: bool = True  # a frozen base in 16 bits, as on CUDA
    prompt_tokens: int = 256
    response_tokens: int = 256
    rollout_rows: int = 16  # episodes sampled at once
    ppo_rows: int = 4  # responses in a forward pass: the micro-batch
    sft_rows: int = 2  # demonstrations
    reward_rows: int = 1  # prompts, with all their responses
    responses: int = 4  # to each of these
    ptx_tokens: int = 0  # of a pretraining block; 0 = no PPO-ptx
    value_model: str = "separate"  # else "shared", a head on the policy, or "none"
    ema: bool = False
    dropout: bool = False

    @property
    def width(self) -> int:
        """Bytes of a number of the base and of what it computes."""
        return 2 if self.half and not self.full else FLOAT

    @property
    def tokens(self) -> int:
        """Longest sequence: prompt and response."""
        return self.prompt_tokens + self.response_tokens


class Need(NamedTuple):
    """Bytes at the worst moment of a stage, by what they are for."""

    weights: int = 0  # base, adapters (or copies) and heads of all roles
    adam: int = 0  # two moments for each weight that is trained
    gradients: int = 0
    cache: int = 0  # of the sampler: keys and values, fused weights; the trunk that roles share
    activations: int = 0  # kept for the backward pass, or taken by a layer while it computes
    logits: int = 0
    unpacking: int = 0  # the largest 4-bit matrix, unpacked for one product

    @property
    def total(self) -> int:
        return sum(self)


# What lies there ----------------------------------------------------------------------------------


def base_bytes(shapes: Shapes, job: Job) -> int:
    """The shared base: 4 bits for the layers' matrices if so asked, embeddings always whole."""
    matrix = bits_per_parameter() / 8 if job.quantize == "4bit" else job.width
    return int(shapes.layers * shapes.layer_weights * matrix + shapes.other_weights * job.width)


def role_parameters(shapes: Shapes, job: Job) -> int:
    """Parameters that a role adds to the base, without a head."""
    return shapes.parameters if job.full else shapes.adapter(job.rank, job.first_layer)


def role_bytes(shapes: Shapes, job: Job) -> dict[str, int]:
    """Bytes of the base, and of what each role adds to it, when PPO runs."""
    role, head = FLOAT * role_parameters(shapes, job), FLOAT * (shapes.hidden + 1)
    roles = {"base": base_bytes(shapes, job), "reference": role, "reward": role + head}
    roles["policy"] = role + head if job.value_model == "shared" else role
    if job.value_model == "separate":
        roles["value"] = role + head
    return roles | ({"average of the policy": role} if job.ema else {})


# What comes and goes ------------------------------------------------------------------------------


def kept_by_layer(shapes: Shapes, job: Job, tokens: int) -> int:
    """Bytes per token that the backward pass through one layer needs.

    A frozen matrix needs none of its input, but LoRA's A does, and in 32 bits. The attention kernel
    keeps queries, keys, values, its output, and the mask over `tokens` that it added to its scores.
    """
    d, f, r = shapes.hidden, shapes.intermediate, job.rank
    attention = 2 * shapes.queries + 2 * shapes.keys + tokens
    mlp = 3 * f  # gate before and after silu, up
    if job.full:  # the stream into both norms, what left them before and after their weights
        kept = 4 * (2 * d + 2 * d + 2 * d + attention + mlp + f)
    elif job.width == 4:  # the stream into both norms, what left them; what enters `down`
        kept = 4 * (2 * d + 2 * d + attention + mlp + f + 7 * r)
    else:  # norms in 32 bits, and a copy in 32 bits of what enters each of the seven matrices
        kept = 2 * (attention + mlp) + 4 * (2 * d + 5 * d + shapes.queries + f + 7 * r)
    dropped = 2 * d * job.width if job.dropout else 0
    return kept + dropped + 4 * shapes.heads + 8  # a float32 for each softmax and norm


def passing_layer(shapes: Shapes, job: Job, fused: bool = False) -> int:
    """Bytes per token while a layer computes without gradients, at its MLP.

    Five tensors of the stream. Of the MLP's width there are three in 32 bits, and one more where
    the adapter's share is added to an unpacked or joined matrix's; 16 bits take as much as three.
    """
    four = fused or (job.quantize == "4bit" and job.width == 4)
    return (16 if four else 12) * shapes.intermediate + 5 * shapes.hidden * job.width


def unpacked(shapes: Shapes, job: Job) -> int:
    """The largest matrix of a 4-bit layer, whole, and its scales in float32."""
    if job.quantize != "4bit":
        return 0
    largest = max(i * o for i, o in shapes.linears)
    return largest * job.width + largest // BLOCK * FLOAT


def _learning(shapes: Shapes, job: Job, rows: int, tokens: int, words: int) -> list[Need]:
    """The two bad moments of a pass with gradients: at the loss, and back in the top layer.

    With checkpointing a layer keeps what enters it, and the rest while it is computed again. Above
    the layers are the last norm's input and what left it; below them, the embedding.

    Args: rows of `tokens` tokens; `words`: positions in each that have logits.
    """
    n, d, width = rows * tokens, shapes.hidden, job.width
    layer = kept_by_layer(shapes, job, tokens)
    each = d * width if job.checkpointing else layer
    kept = n * ((shapes.layers - job.first_layer) * each + d * (2 * width + FLOAT))
    gradients = 2 * shapes.intermediate * width + (0 if width == 4 else 3 * d * FLOAT)
    inside = kept + n * (gradients + (layer if job.checkpointing else 0))
    logits = rows * words * shapes.vocabulary * FLOAT
    return [
        Need(activations=kept, logits=4 * logits),  # with three more in logsumexp's gradient
        Need(activations=inside, logits=logits, unpacking=unpacked(shapes, job)),
    ]


def _reading(
    shapes: Shapes, job: Job, rows: int, tokens: int, words: int, fused: bool = False
) -> list[Need]:
    """The bad moments of a pass without: twice in a layer, for the unpacking, and at the logits."""
    n, stream = rows * tokens, shapes.hidden * job.width
    early = n * (2 * shapes.intermediate * job.width + 5 * stream)
    logits = 2 * rows * words * shapes.vocabulary * FLOAT  # and a copy inside of logsumexp
    return [
        Need(activations=n * passing_layer(shapes, job, fused)),
        Need(activations=early, unpacking=unpacked(shapes, job)),
        Need(activations=2 * n * stream, logits=logits),
    ]


def _sampling(shapes: Shapes, job: Job) -> list[Need]:
    """Reading the prompts into the cache; then, as rows end, copying what is left of it.

    A small model in 32 bits is read with a copy of its weights that has the adapter in it.
    """
    fused = job.quantize == "none" and job.width == 4 and shapes.parameters <= FUSE_UP_TO
    copied = shapes.layer_weights
    if job.full:  # output and down are as they are
        copied -= sum(i * o for i, o in (shapes.linears[3], shapes.linears[6]))
    weights = FLOAT * shapes.layers * copied if fused else 0
    cache = 2 * shapes.layers * shapes.keys * job.width * job.rollout_rows * job.tokens
    prompts = _reading(shapes, job, job.rollout_rows, job.prompt_tokens, 0, fused)
    drawing = 28 * job.rollout_rows * shapes.vocabulary  # probabilities and their sums, 64 bits
    return [
        *(moment._replace(cache=cache + weights) for moment in prompts),
        Need(cache=cache + cache // 2 + weights, logits=drawing),
    ]


# Stage by stage -----------------------------------------------------------------------------------


def needs(shapes: Shapes, job: Job) -> dict[str, Need]:
    """Each stage at its worst moment; those of PPO as they are after the first update."""
    sizes, one = role_bytes(shapes, job), FLOAT * role_parameters(shapes, job)
    headed = one + FLOAT * (shapes.hidden + 1)
    until = {"sft": sizes["base"] + one, "reward": sizes["base"] + one + headed}
    policy = headed if job.value_model == "shared" else one
    trained = policy + headed if job.value_model == "separate" else policy
    trunk = job.rollout_rows * job.tokens * shapes.hidden * job.width if job.first_layer else 0
    calm, tokens, words = replace(job, dropout=False), job.tokens, job.response_tokens
    tree = job.prompt_tokens + job.responses * words  # each prompt once, for all its responses

    def worst(moments: list[Need], weights: int, trained: int, gradients: int) -> Need:
        standing = Need(weights, 2 * trained, gradients)
        return max((_plus(standing, moment) for moment in moments), key=lambda need: need.total)

    def in_ppo(moments: list[Need], gradients: int = 0) -> Need:
        return _plus(worst(moments, sum(sizes.values()), trained, gradients), Need(cache=trunk))

    stages = {
        "sft": worst(_learning(shapes, job, job.sft_rows, tokens, tokens), until["sft"], one, one),
        "reward": worst(
            _learning(shapes, calm, job.reward_rows, tree, 0), until["reward"], headed, headed
        ),
        "rollout": in_ppo(_sampling(shapes, job)),
        "scoring": in_ppo(_reading(shapes, job, job.ppo_rows, tokens, words)),
        "policy": in_ppo(_learning(shapes, calm, job.ppo_rows, tokens, words), policy),
    }
    if job.ptx_tokens:
        blocks = _learning(shapes, calm, job.ppo_rows, job.ptx_tokens, job.ptx_tokens)
        stages["ptx"] = in_ppo(blocks, policy)
    if job.value_model == "separate":
        stages["value"] = in_ppo(_learning(shapes, calm, job.ppo_rows, tokens, 0), headed)
    return stages


def _plus(one: Need, other: Need) -> Need:
    return Need(*(a + b for a, b in zip(one, other, strict=True)))


def peak(shapes: Shapes, job: Job) -> int:
    """Bytes at the worst moment of the whole run."""
    return max(need.total for need in needs(shapes, job).values())


# What fits ----------------------------------------------------------------------------------------

# Which setting of a job makes a stage larger
SETTING_OF = {
    "sft": "sft_rows",
    "reward": "reward_rows",
    "rollout": "rollout_rows",
    "scoring": "ppo_rows",
    "policy": "ppo_rows",
    "ptx": "ppo_rows",
    "value": "ppo_rows",
}


def largest(shapes: Shapes, job: Job, setting: str, room: int, most: int = 1024) -> int:
    """The largest value of a `..._rows` setting with which all stages it steers fit; 0 = none."""
    steered = [stage for stage, name in SETTING_OF.items() if name == setting]

    def fits(rows: int) -> bool:
        stages = needs(shapes, replace(job, **{setting: rows}))
        return all(stages[stage].total <= room for stage in steered if stage in stages)

    return _last(fits, most)


def longest(shapes: Shapes, job: Job, room: int) -> int:
    """The longest response that fits, tokens, with every micro-batch 1 and a prompt as long.

    0 = none; at most half of the model's context.
    """
    alone = replace(job, ppo_rows=1, sft_rows=1, reward_rows=1)

    def fits(tokens: int) -> bool:
        longer = replace(alone, prompt_tokens=tokens, response_tokens=tokens)
        return peak(shapes, longer) <= room

    return _last(fits, shapes.context // 2)


def _last(fits, most: int) -> int:
    """The largest number from 0 to `most` that fits, where 0 does and more never fits better."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
