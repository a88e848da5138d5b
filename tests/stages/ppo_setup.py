"""What the tests of PPO and of its neighbours share."""

import torch

from minirlhf.stages.ppo import PPO, PPOConfig

QUICK = PPOConfig(
    updates=3,
    rollout_batch_size=8,
    minibatch_size=4,
    microbatch_size=4,
    ppo_epochs=2,
    max_new_tokens=12,
    policy_learning_rate=3e-3,
    value_learning_rate=3e-3,
    warmup_updates=0,
    kl_coef=0.05,
    ptx_ratio=1.0,
)


def config(**changes):
    return PPOConfig(**{**vars(QUICK), **changes})


def new(backbone, prompts, settings=QUICK, **options):
    return PPO(settings, backbone, prompts, **options)


def letters(prompts, texts):
    """A plain Python reward: how many of an answer's letters are an `a`."""
    return [10 * text.count("a") / max(len(text), 1) for text in texts]


def experience(ppo, count=8):
    """The first three phases, from the first prompts: rollout, scored, experience, stats."""
    indices = list(range(count))
    rollout = ppo.collect_rollout(indices)
    scored = ppo.score_rollout(rollout, [ppo.prompts[i] for i in indices])
    return (rollout, scored, *ppo.estimate_advantages(rollout, scored))


def grads(stage, role):
    """A role's gradients, taken away from it."""
    parameters = stage.backbone.parameters(role)
    found = [None if p.grad is None else p.grad.clone() for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return found


def close(ours, theirs, rel=1e-5):
    """Both the same, to a share of the largest; and not all of them nothing."""
    scale = max(g.abs().max() for g in theirs if g is not None)
    assert scale > 1e-6
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        assert one is None or (one - other).abs().max() <= rel * scale


def disturb(backbone, role, size=0.02, seed=0):
    """Move a role a little, so that no KL is 0 and no ratio 1 by itself."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.parameters(role):
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
