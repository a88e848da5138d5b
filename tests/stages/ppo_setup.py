"""What the two files of PPO tests share."""

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
