"""DPO, RLOO and GRPO against the losses of TRL's trainers, fed with the same log-probabilities."""

import math
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from minirlhf.maths.losses import grpo_loss, reinforce_loss, token_weights
from minirlhf.maths.masked import gather_logprobs
from minirlhf.stages.dpo import DPO, DPOConfig
from tests.stages.ppo_setup import disturb

LENGTHS = torch.tensor([3, 5, 1, 4])
MASK = torch.arange(5) < LENGTHS[:, None]
LONGEST = 9  # what a response could have, for Dr. GRPO


def numbers(seed=0):
    """logprobs with a gradient, old and reference's near them, (B, R); advantages (B,)."""
    generator = torch.Generator().manual_seed(seed)
    new, old, ref = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    advantages = torch.randn(4, generator=generator, dtype=torch.float64)
    return new.requires_grad_(), (new + 0.3 * old).detach(), (new + 0.5 * ref).detach(), advantages


def trainer(new, **settings):
    """What the loss of TRL's online trainers asks of a trainer."""
    fake = MagicMock(**settings)
    fake.model.training = False
    fake.aux_loss_enabled = False
    fake.epsilon_low = fake.epsilon_high = 0.2
    fake.accelerator.gather = fake.accelerator.reduce = lambda tensor, **options: tensor
    fake._get_per_token_logps_and_entropies.return_value = new, torch.zeros(4, 5), None
    return fake


def batch(**tensors):
    ids = torch.zeros(4, 2, dtype=torch.long)
    inputs = {"prompt_ids": ids, "prompt_mask": ids, "completion_ids": MASK.long()}
    return inputs | {"completion_mask": MASK.long(), **tensors}


def gradient(loss, new):
    return torch.autograd.grad(loss, new)[0]


@pytest.mark.parametrize(
    ("mean", "theirs"), [("response", "grpo"), ("token", "bnpo"), ("constant", "dr_grpo")]
)
def test_grpo(mean, theirs):
    from trl import GRPOTrainer

    new, old, ref, advantages = numbers()
    fake = trainer(
        new, loss_type=theirs, beta=0.3, importance_sampling_level="token", use_vllm=False,
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, max_completion_length=LONGEST,
        _entropy_bonus_enabled=False,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None),
    )  # fmt: skip
    inputs = batch(advantages=advantages, old_per_token_logps=old, ref_per_token_logps=ref)
    wanted = GRPOTrainer._compute_loss(fake, None, inputs)
    weights = token_weights(MASK, mean, LONGEST).double()
    ours = grpo_loss(new, old, ref, advantages, weights, clip_range=0.2, kl_coef=0.3)
    assert ours.item() == pytest.approx(wanted.item(), abs=1e-7)  # the weights are float32
    torch.testing.assert_close(gradient(ours, new), gradient(wanted, new), rtol=1e-6, atol=1e-7)


def test_rloo():
    """TRL's has a clipped ratio of whole responses, which is 1 on what was just sampled."""
    from trl import RLOOTrainer

    new, _, _, advantages = numbers(seed=1)
    old = torch.where(MASK, new, 0.0).sum(1).detach()
    inputs = batch(advantages=advantages, old_logps=old)
    wanted = RLOOTrainer._compute_loss(trainer(new), None, inputs)
    ours = reinforce_loss(new, advantages, MASK)
    torch.testing.assert_close(gradient(ours, new), gradient(wanted, new), rtol=1e-9, atol=1e-12)


def test_dpo(ready, rankings):
    """A ranking of two is a pair; TRL sums the tokens of its own batch, prompt and padding out."""
    from trl import DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    pairs = [r for r in rankings if len(r.ranks) == 2]
    pairs += [type(r)(r.prompt, r.responses[1:3], (2, 1)) for r in rankings if len(r.ranks) > 2]
    dpo = DPO(DPOConfig(beta=0.4), ready, pairs)
    disturb(ready, "policy")
    ours = dpo._accumulate(pairs, dpo._train_ref)

    rows = []
    for pair in pairs:
        best, worst = (pair.responses[pair.ranks.index(rank)] for rank in (1, 2))
        (prompt, chosen), (_, rejected) = (dpo.encoder.pair(pair, x) for x in (best, worst))
        rows.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    inputs = DataCollatorForPreference(pad_token_id=ready.tokenizer.pad_token_id)(rows)

    def read(role):
        def model(input_ids, attention_mask, labels, **options):
            with ready.active(role) as own:
                logits = own(input_ids, attention_mask=attention_mask).logits[:, :-1]
            logprobs = gather_logprobs(logits, input_ids[:, 1:])
            logprobs = torch.where(labels[:, 1:] == -100, 0.0, logprobs)
            return SimpleNamespace(
                log_probs=logprobs,
                entropy=0 * logprobs,
                mean_logits=0 * logprobs,
                is_top1=logprobs > 0,
            )

        return model

    fake = MagicMock(beta=0.4, ld_alpha=None, precompute_ref_logps=False, use_weighting=False,
                     f_divergence_type="reverse_kl", loss_types=["sigmoid"], loss_weights=[1.0],
                     aux_loss_enabled=False, ref_model=read("reference"))  # fmt: skip
    fake.accelerator.device = "cpu"
    fake.accelerator.gather_for_metrics = fake.accelerator.gather = lambda tensor: tensor
    fake.model.training = False
    wanted = DPOTrainer._compute_loss(fake, read("policy"), inputs, False)
    assert abs(wanted.item() - math.log(2)) > 1e-3
    assert ours["dpo_loss"] == pytest.approx(wanted.item(), rel=1e-4)
