"""One base model, and named roles on it.

InstructGPT needs five models at once: the pretrained base, the SFT model (`reference`), the
policy, the reward model and the value model. Here they share ONE base: each role is a LoRA
adapter, the last two with a scalar head. `backbone.active(role)` switches adapters; nothing is
ever loaded twice. With `lora=None` a role is a full copy of the weights instead (small models).
"""

import contextlib
import copy
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minirlhf.engine import decoder
from minirlhf.engine.batches import RankingBatch, Tree
from minirlhf.engine.records import DataError
from minirlhf.engine.settings import setting, validated
from minirlhf.maths.masked import gather_logprobs, zero_masked

BASE = "base"
SCALAR_ROLES = ("reward", "value")
# What a decoder layer calls the two blocks that add to its residual stream
BLOCKS = ("self_attn", "self_attention", "attention", "attn", "mlp")


@validated
@dataclass(frozen=True)
class LoRA:
    """Shape of every adapter (Hu et al. 2021, arXiv:2106.09685). InstructGPT tuned all weights."""

    rank: int = setting(16, "rank r of the update B A", above=0)
    alpha: int = setting(32, "the update is scaled by alpha / r", above=0)
    first_layer: int = setting(
        0, "layers below this one have no adapter; all roles share what they compute", least=0
    )


class RoleSize(NamedTuple):
    """What one role adds to the memory: parameters and their bytes."""

    parameters: int
    bytes: int


class Backbone:
    """A causal LM with named roles.

    Args:    model: a loaded causal LM, which the backbone takes over; tokenizer: with a pad token;
             name: id or path it was loaded from; lora: shape of the adapters, None = every role is
             a full copy; seed: for the adapters' and heads' initial weights.
    Roles:   `base` is always there and means no adapter: the *pretrained* model, which is not the
             SFT model. `add_role` makes the others. `reward` and `value` have a scalar head.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str = "",
        lora: LoRA | None = LoRA(),
        seed: int = 0,
    ):
        self.model = model.eval().requires_grad_(False)
        for module in model.modules():
            # bitsandbytes would repack 4-bit weights on a CPU with AVX512-BF16 at the first pass
            # without gradient, for a 16-bit kernel that passes no gradient on to lower layers
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        self.tokenizer = tokenizer
        self.name = name
        self.lora = lora
        self.checkpointing = False  # compute activations again in backward: less memory, more time
        self.heads: dict[str, nn.Linear] = {}
        self._seed = seed
        self._peft: PeftModel | None = None
        self._copies: dict[str, PreTrainedModel] = {}
        self._own: dict[str, dict[str, nn.Parameter]] = {}  # found once, asked at every switch
        self._trainable: set[str] = set()
        self._active = BASE
        self._dropout: decoder.Dropout | None = None
        if lora and lora.first_layer:
            self._check_first_layer(lora.first_layer)

    def _check_first_layer(self, first: int) -> None:
        count = self.model.config.num_hidden_layers
        if not self.written_out:
            known = ", ".join(decoder.FAMILIES)
            raise DataError(f"lora.first_layer: only models of these kinds can share: {known}")
        if first >= count:
            raise DataError(f"lora.first_layer: {first} leaves no layer of {count} an adapter")

    # Roles ------------------------------------------------------------------------------------

    @property
    def roles(self) -> list[str]:
        adapters = list(self._peft.peft_config) if self._peft else []
        return [BASE, *adapters, *self._copies]

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    @property
    def context_length(self) -> int:
        """Longest sequence the model was made for, in tokens."""
        return self.model.config.max_position_embeddings

    @property
    def written_out(self) -> bool:
        """Whether passes go through `engine.decoder`; other kinds through their own `forward`."""
        return decoder.can_read(self.model)

    def add_role(self, role: str, copy_of: str = BASE) -> None:
        """Make a role (or make it anew) that starts as an exact copy of another.

        A copy of `base` starts with an update of zero. A scalar role copies the head of a scalar
        role; else its head is drawn from N(0, 1 / (hidden + 1)), the variance of Stiennon et al.
        """
        if role == BASE or copy_of not in self.roles:
            raise ValueError(f"cannot make role {role!r} from {copy_of!r}; roles: {self.roles}")
        weights = self.weights(copy_of) if self.lora else {}  # first: it may be its own copy
        head = copy.deepcopy(self.heads.get(copy_of))
        if self.lora is None:
            self._copies[role] = copy.deepcopy(self._copies.get(copy_of, self.model))
            self._own.pop(role, None)
        else:
            self._add_adapter(role)
            if copy_of != BASE:
                self.load_weights(role, weights)
        self.heads.pop(role, None)
        if role in SCALAR_ROLES:
            self.heads[role] = head or self._new_head()
        self._trainable.discard(role)
        self._restore_requires_grad()

    def _add_adapter(self, role: str) -> None:
        first, count = self.lora.first_layer, self.model.config.num_hidden_layers
        config = LoraConfig(
            r=self.lora.rank,
            lora_alpha=self.lora.alpha,
            target_modules=[*decoder.LINEARS] if first else "all-linear",
            layers_to_transform=[*range(first, count)] if first else None,
            task_type="CAUSAL_LM",
            base_model_name_or_path=self.model.name_or_path,
        )
        # peft draws A from the global generator, asks transformers for a deprecated property, and
        # warns of what is meant: that a role is made anew, or that GPT-2's weights are transposed
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", UserWarning)
            torch.manual_seed(self._seed)
            if self._peft and role in self._peft.peft_config:
                self.switch(BASE)
                self._peft.base_model.delete_adapter(role)
                self._own.pop(role, None)  # only now: the switch has just asked for them
            if self._peft is None:
                self._peft = get_peft_model(self.model, config, adapter_name=role)
            else:
                self._peft.add_adapter(role, config)
        self._active = ""
        self.switch(BASE)

    def _new_head(self) -> nn.Linear:
        hidden = self.model.config.hidden_size
        head = nn.Linear(hidden, 1, device="meta").to_empty(device="cpu")
        generator = torch.Generator().manual_seed(self._seed)
        with torch.no_grad():
            head.weight.normal_(0.0, 1 / math.sqrt(hidden + 1), generator=generator)
            head.bias.zero_()
        return head.to(self.device).requires_grad_(False)

    def add_head(self, role: str) -> None:
        """Give a role a scalar head of zeros beside its logits (value model on the policy's trunk).

        Source: Ziegler et al. 2019 (arXiv:1909.08593), whose value head stood there.
        """
        head = self._new_head()
        torch.nn.init.zeros_(head.weight)
        self.heads[role] = head
        self._restore_requires_grad()

    def switch(self, role: str) -> None:
        """Make `role` the one that the next forward pass uses.

        A graph made before the switch keeps its own adapter; but a pass that is recomputed in
        backward (checkpointing) would see the new one, so run backward before the next switch.
        """
        if role == self._active:
            return
        if role not in self.roles:
            raise ValueError(f"no role {role!r}; roles: {self.roles}")
        if self._peft:
            if role == BASE:
                self._peft.base_model.disable_adapter_layers()
            else:
                self._peft.base_model.enable_adapter_layers()
                self._peft.base_model.set_adapter(role, inference_mode=True)
            self._restore_requires_grad()
        self._active = role

    def _restore_requires_grad(self) -> None:
        """peft decides anew at each switch what can be trained; here only `train_role` decides."""
        for role in self.roles[1:]:
            for parameter in self.parameters(role):
                parameter.requires_grad_(role in self._trainable)

    def train_role(self, role: str, trainable: bool = True) -> list[nn.Parameter]:
        """Say whether a role can be trained; returns its parameters, head included."""
        (self._trainable.add if trainable else self._trainable.discard)(role)
        self._restore_requires_grad()
        return self.parameters(role)

    @contextlib.contextmanager
    def active(self, role: str) -> Iterator[PreTrainedModel]:
        """The model as `role` sees it, for a `with` block."""
        self.switch(role)
        yield self._copies.get(role, self.model)

    def parameters(self, role: str) -> list[nn.Parameter]:
        """A role's own parameters: its adapter (or copy) and its head."""
        return [*self._named_parameters(role).values()] + (
            [*self.heads[role].parameters()] if role in self.heads else []
        )

    def named_parameters(self, role: str) -> list[tuple[str, nn.Parameter]]:
        """`parameters` with names that begin with the role's: what an optimiser is given."""
        head = self.heads[role].named_parameters("head") if role in self.heads else ()
        return [(f"{role}.{n}", p) for n, p in [*self._named_parameters(role).items(), *head]]

    def _named_parameters(self, role: str) -> dict[str, nn.Parameter]:
        if role not in self._own:
            self._own[role] = self._find_parameters(role)
        return self._own[role]

    def _find_parameters(self, role: str) -> dict[str, nn.Parameter]:
        if role in self._copies:
            return dict(self._copies[role].named_parameters())
        marker = f".{role}."
        return {
            name.replace(marker, "."): parameter
            for name, parameter in self.model.named_parameters()
            if ".lora_" in name and marker in name
        }

    def weights(self, role: str) -> dict[str, Tensor]:
        """A detached copy of a role's weights by name, without the head."""
        return {n: p.detach().clone() for n, p in self._named_parameters(role).items()}

    @torch.no_grad()
    def load_weights(self, role: str, weights: dict[str, Tensor]) -> None:
        """Put weights made by `weights` into a role."""
        own = self._named_parameters(role)
        if own.keys() != weights.keys():
            odd = sorted(own.keys() ^ weights.keys())[0]
            raise ValueError(f"weights do not fit role {role!r}: {odd} is on one side only")
        for name, parameter in own.items():
            parameter.copy_(weights[name])

    def adapter(self, role: str) -> tuple[dict[str, Tensor], LoraConfig]:
        """A role's adapter as peft writes it: state dict and config."""
        state = get_peft_model_state_dict(self._peft, adapter_name=role)
        return state, copy.deepcopy(self._peft.peft_config[role])

    def sizes(self) -> dict[str, RoleSize]:
        """Parameters and bytes of the base and of what each role adds to it.

        A 4-bit weight counts as the parameters it stands for and the bytes it takes, its
        quantisation constants included.
        """
        sizes = {BASE: _base_size(self.model)}
        for role in self.roles[1:]:
            own = self.parameters(role)
            sizes[role] = RoleSize(
                sum(p.numel() for p in own), sum(p.numel() * p.element_size() for p in own)
            )
        return sizes

    # Forward passes ---------------------------------------------------------------------------

    def logits(
        self,
        role: str,
        input_ids: Tensor,
        attention_mask: Tensor,
        keep: int = 0,
        trunk: Tensor | None = None,
    ) -> Tensor:
        """Next-token logits.

        Args:    input_ids (B, T); attention_mask (B, T) bool, padding on either side;
                 keep: only the last `keep` positions, 0 = all; trunk: from `trunk`, if at hand.
        Returns: (B, keep or T, V) float32, unscaled.
        """
        if self.written_out:
            hidden = self.hidden(role, input_ids, attention_mask, trunk)
            return self.to_logits(role, hidden[:, -keep:])
        with self.active(role) as model:
            return model(
                input_ids=input_ids,
                attention_mask=attention_mask.long(),
                position_ids=position_ids(attention_mask),
                logits_to_keep=keep,
                use_cache=False,
            ).logits.float()

    def hidden(
        self,
        role: str,
        input_ids: Tensor,
        attention_mask: Tensor,
        trunk: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the last norm, (B, T, D): what logits and scalar heads are read off.

        Args: as for `logits`.
        """
        if not self.written_out:
            with self.active(role) as model:
                return model.get_decoder()(
                    input_ids=input_ids,
                    attention_mask=attention_mask.long(),
                    position_ids=position_ids(attention_mask),
                    use_cache=False,
                ).last_hidden_state
        model, first = self.model_of(role), 0
        if trunk is None:
            trunk = model.get_input_embeddings()(input_ids)
        else:
            first = self.lora.first_layer
        return decoder.run_layers(
            model,
            role,
            trunk,
            self._places(model, attention_mask),
            first,
            dropout=self._dropout,
            checkpointing=self.checkpointing,
        )

    @torch.no_grad()
    def trunk(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor | None:
        """What enters the first layer with adapters, (B, T, D): the same for all roles, for good.

        None where nothing is shared (`first_layer` is 0).
        """
        if not (self.lora and self.lora.first_layer):
            return None
        embedded = self.model.get_input_embeddings()(input_ids)
        where = self._places(self.model, attention_mask)
        return decoder.run_layers(self.model, BASE, embedded, where, last=self.lora.first_layer)

    def _places(self, model: PreTrainedModel, attention_mask: Tensor) -> decoder.Places:
        mask = decoder.causal_mask(attention_mask)
        return decoder.places(model, position_ids(attention_mask), mask)

    def model_of(self, role: str) -> PreTrainedModel:
        """The model whose weights a role reads: the shared base, or its own copy."""
        if role not in self.roles:
            raise ValueError(f"no role {role!r}; roles: {self.roles}")
        return self._copies.get(role, self.model)

    def to_logits(self, role: str, hidden: Tensor) -> Tensor:
        """Next-token logits (B, T, V) float32 of what `hidden` returned, or a part of it."""
        return decoder.to_logits(self.model_of(role), hidden)

    def values(
        self,
        role: str,
        input_ids: Tensor,
        attention_mask: Tensor,
        trunk: Tensor | None = None,
    ) -> Tensor:
        """The scalar head of `reward` or `value` at every position: (B, T) float32, RM units."""
        hidden = self.hidden(role, input_ids, attention_mask, trunk)
        return self.heads[role](hidden.float()).squeeze(-1)

    def scores(
        self,
        role: str,
        input_ids: Tensor,
        attention_mask: Tensor,
        trunk: Tensor | None = None,
    ) -> Tensor:
        """One score per sequence, read at its last counted token: (B,) float32, RM units."""
        last = attention_mask.long().cumsum(-1).argmax(-1)
        values = self.values(role, input_ids, attention_mask, trunk)
        return values.gather(1, last[:, None]).squeeze(1)

    def ranking_scores(self, role: str, batch: RankingBatch) -> Tensor:
        """A score for each response of some rankings: (N,) float32, RM units.

        Each prompt is read once where passes are written out, else once for each response.
        """
        if not self.written_out:
            return self.scores(role, batch.sequences.input_ids, batch.sequences.attention_mask)
        hidden = self._read_tree(role, batch.tree)
        return self.heads[role](hidden.flatten(0, 1)[batch.tree.last].float()).squeeze(-1)

    def ranking_logprobs(self, role: str, batch: RankingBatch) -> Tensor:
        """log pi(y|x) of each response of some rankings, EOS included: (N,) nats.

        Prompts are read as in `ranking_scores`.
        """
        if not self.written_out:
            ids, mask, response = batch.sequences
            logits = self.logits(role, ids[:, :-1], mask[:, :-1])
            return zero_masked(gather_logprobs(logits, ids[:, 1:]), response[:, 1:]).sum(1)
        ids, branch = batch.tree.input_ids, batch.tree.branch
        hidden = self._read_tree(role, batch.tree)
        row, place = (branch > 0).nonzero(as_tuple=True)  # (n,) the tokens of all responses
        first = branch[row, place] != branch[row, place - 1]  # follows the prompt's last token
        before = torch.where(first, (branch == 0).sum(1)[row], place) - 1
        logits = self.to_logits(role, hidden[row, before][None])
        logprobs = gather_logprobs(logits, ids[row, place][None])[0]
        return logprobs.new_zeros(len(batch.row)).index_add(0, first.cumsum(0) - 1, logprobs)

    def _read_tree(self, role: str, tree: Tree) -> Tensor:
        """Hidden states after the last norm, (B, T, D)."""
        model = self.model_of(role)
        return decoder.run_layers(
            model,
            role,
            model.get_input_embeddings()(tree.input_ids),
            decoder.places(model, tree.positions, tree.mask),
            dropout=self._dropout,
            checkpointing=self.checkpointing,
        )

    @contextlib.contextmanager
    def dropout(self, rate: float, generator: torch.Generator) -> Iterator[None]:
        """Residual dropout, as GPT-3's SFT had it: on what each attention and MLP block adds.

        Drawn from `generator`, so that a run can be repeated; off outside of the block, so that
        log-probabilities of the policy are exact.
        """

        if rate > 0:
            self._dropout = decoder.Dropout(rate, generator)
        hooks = [] if self.written_out or rate == 0 else self._hook_dropout(self._dropout)
        try:
            yield
        finally:
            self._dropout = None
            for hook in hooks:
                hook.remove()

    def _hook_dropout(self, dropout: decoder.Dropout) -> list:
        """Dropout for models whose passes are their own `forward`."""

        def drop(module, args, output):
            first, *rest = output if isinstance(output, tuple) else (output,)
            first = dropout(first, dropout.seed())
            return (first, *rest) if isinstance(output, tuple) else first

        hooks = [
            block.register_forward_hook(drop)
            for model in [self.model, *self._copies.values()]
            for layer in model.modules()
            for name, block in layer.named_children()
            if name in BLOCKS
        ]
        if not hooks:
            raise DataError(
                f"dropout: found no blocks in a {type(self.model).__name__}; set it to 0"
            )
        return hooks


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions that ignore padding on the left: (B, T), the first counted token is 0.

    >>> position_ids(torch.tensor([[0, 0, 1, 1]])).tolist()
    [[0, 0, 0, 1]]
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def _base_size(model: PreTrainedModel) -> RoleSize:
    parameters = taken = 0
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        state = getattr(parameter, "quant_state", None)
        parameters += math.prod(state.shape) if state else parameter.numel()
        taken += parameter.numel() * parameter.element_size()
        if state:
            constants = [state.absmax]
            if state.nested:
                constants += [state.state2.absmax, state.state2.code, state.offset]
            taken += sum(t.numel() * t.element_size() for t in constants)
    return RoleSize(parameters, taken)
