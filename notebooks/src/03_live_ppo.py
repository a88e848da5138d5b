# %% [markdown]
r"""
# 3 · Live PPO

**Question.** What does a language model do, minute by minute, when it is paid
for pleasing a reward model, and what can you do about it while it happens?

**Afterwards you can**

- read the curves of a PPO run: what should rise, what must not, in which units,
- predict what the KL coefficient and the clip range do, and try it on a run
  that is under way,
- tell a better *score* from a better *answer*,
- steer the KL coefficient by a rule instead of by hand.

**Time** about 60 minutes, of which the computer works for about five ·
**memory** under 2 GB · **seed** 0 · **needs** notebooks 1 and 2.
"""

# %%
from dataclasses import replace

import torch

from minirlhf.course import figures
from minirlhf.course.exercise import exercise
from minirlhf.course.live import LiveRun
from minirlhf.engine.batches import Encoder
from minirlhf.engine.models import load_backbone
from minirlhf.engine.rollout import answers
from minirlhf.evaluation.evaluate import System, answer_prompts, summarise
from minirlhf.stages.ppo import PPO, PPOConfig
from minirlhf.stages.reward import RewardConfig, RewardTraining
from minirlhf.stages.sft import SFT, SFTConfig
from minirlhf.tasks import load_task

torch.manual_seed(0)
torch.set_printoptions(precision=4, sci_mode=False)

# %% [markdown]
r"""
## 1. One base, and what we hang on it

`moonlet-1m` is a language model of a million parameters that has read a small
web of astronomy and everyday science: pages, quizzes, forum threads, rude
answers and all. InstructGPT's third stage needs five models. Here they are five
roles on this one base: the *base* itself, the *reference* (SFT), the *reward*
model, the *policy* and the *value* model, each of them a small LoRA adapter.

We need the first three before PPO can begin. That takes about a minute.
"""

# %%
task = load_task("almanac")
backbone = load_backbone("moonlet-1m")
encoder = Encoder(
    backbone.tokenizer, backbone.context_length, backbone.device
)


def ask(role, count=4):
    """Answers of a role to the first prompts, the moon question first."""
    prompts = task.shown_prompts[:count]
    encoded = [encoder.prompt(p) for p in prompts]
    found = answers(backbone, role, encoder, encoded, 40, seed=1)
    return [(p.prompt, text) for p, (text, _) in zip(prompts, found)]


# %%
for prompt, answer in ask("base"):
    print(f"{prompt}\n    {answer}")

# %% [markdown]
r"""
The base goes on writing, as it has learned to: that need not be an answer.

**Stage 1: SFT**, on demonstrations. The loss of notebook 2's last section, on
the answer's tokens only.
"""

# %%
steps = list(
    SFT(
        SFTConfig(epochs=2),
        backbone,
        task.demonstrations,
        pretraining=task.pretraining,
    )
)
figures.lines(
    range(len(steps)),
    {"SFT": [stats["train_loss"] for stats in steps]},
    "Stage 1: learning to answer",
    "step",
    "loss (nats per response token)",
    reference=(steps[-1]["train_loss"], "last step"),
)

# %%
for prompt, answer in ask("reference"):
    print(f"{prompt}\n    {answer}")

# %% [markdown]
r"""
**Stage 2: the reward model.** Simulated labelers rank 4 to 9 answers to each
prompt, sampled from the models we have just made; then it is notebook 1's
ranking loss, for a single epoch. Its bias is set such that demonstrations score
0 on average.
"""

# %%
rankings = task.collect_rankings(backbone, 240, 0, 40)
steps = list(
    RewardTraining(
        RewardConfig(epochs=1),
        backbone,
        rankings[40:],
        rankings[:40],
        task.demonstrations[:200],
    )
)
share = steps[-1]["valid_pair_accuracy"]
print(f"held-out pairs in the labelers' order: {share:.2f} (a coin: 0.50)")

# %% [markdown]
r"""
Not a wise reward model, then, and that is the interesting case: whatever it has
not understood, an optimiser will find.
"""

# %% [markdown]
r"""
## 2. What to watch

| curve | formula | at the start | worry when |
|---|---|---|---|
| score | mean reward-model score of the sampled answers | as SFT | it rises and the answers do not improve |
| KL from SFT | mean of $\sum_t \log\pi - \log\pi_{\text{SFT}}$ | 0 | tens of nats |
| answer length | tokens, end included | as SFT | it climbs steadily |
| clip fraction | share of tokens held back by the clip | small | near 0 (steps too small) or above about 0.3 |

PPO makes one *update* at a time: sample 32 answers, score them, work out
advantages, four gradient steps, and sample again. (The paper: 512 answers, eight
steps, some 500 updates.)
"""

# %%
config = PPOConfig(
    updates=25,
    kl_coef=0.05,
    rollout_batch_size=32,
    minibatch_size=8,
    ppo_epochs=1,
    warmup_updates=3,
)
ppo = PPO(config, backbone, task.prompts)
print(f"kl_coef {ppo.kl_coef}, clip_range {ppo.clip_range}")

# %% [markdown]
r"""
**Predict 1.** At the very first update, before anything has been learned: what
is the KL from SFT? By how much is the ratio off 1?

<details><summary>The answer, after the run</summary>

Both are 0, apart from rounding: the policy starts as a copy of the SFT model,
and it is the very policy that sampled. If either number is not 0 here, stop and
look for the mistake; a KL that is off at the start usually means that the
reference is not the model the policy came from.

</details>
"""

# %%
first = next(ppo)
for name in ("ref_kl", "ratio_error", "scores", "response_length"):
    print(f"{name:16s} {first[name]:.6f}")

# %% [markdown]
r"""
## 3. Live

**Predict 2.** Over the next 24 updates, what will rise, what will fall, what
will stay: score, KL, length, clip fraction? Draw four little curves before you
start.

<details><summary>The answer, after the run</summary>

The score rises, quickly at first. The KL rises with it: there is no improvement
without moving. The length goes where the reward model's taste lies (labelers
have a weakness for longer answers, simulated ones too). The clip fraction stays
small: it measures single steps, not the way travelled.

</details>
"""

# %%
run = LiveRun(ppo, sample=lambda update: ask("policy"))
run.start()
run

# %% [markdown]
r"""
The cell has returned, and the run goes on in a thread of its own. The panel
shows four curves and the answers as they change; *Pause*, *Step* and *Stop* act
after the update at hand, and the two sliders on the next one. Every button has
a line of Python: `run.pause()`, `run.step()`, `run.resume()`, `run.stop()`, and
`run.set(kl_coef=0.5)`.

Guards look at every update, too: for an entropy that collapses, one answer to
everything, a KL that explodes, answers that only grow, a value model that learns
nothing. What they find stands above the sliders, and in `run.findings`.
"""

# %% [markdown]
r"""
**Try**, while it runs: pull the KL coefficient far up for ten updates, then back.
Which curve answers first?

The next cell waits for the end and hands back the metrics. It also raises
whatever went wrong in the thread, so never leave it out.
"""

# %%
history = run.result()
print(f"{len(history)} updates, state: {run.state}")
run.figure()

# %%
before, after = run.samples[1], run.samples[max(run.samples)]
for (prompt, old), (_, new) in zip(before, after):
    print(f"{prompt}\n   before: {old}\n   after:  {new}")

# %% [markdown]
r"""
Better, or just longer? Look for a thing said twice, and for a sentence that
sounds right and means nothing. Nobody told the policy to do that. It found that
the reward model pays for it.
"""

# %% [markdown]
r"""
**Predict 3.** On a hundred questions that no stage has seen, asked of both: the
reward model gives the policy a higher score than the SFT model, since that is
what it was paid for. The almanac's judge knows the facts. Does it, too?

<details><summary>The answer, after the run</summary>

The score rises by a lot, the judge's mark by little or nothing. Look which of
its findings have moved: answers become more polite and more complete, which this
reward model has learned to see. They do not become truer, which it can hardly
see, and as they grow longer they find new occasions to be wrong.

</details>
"""

# %%
def marks(role):
    found = answer_prompts(
        backbone, System(role, role), task.test_prompts[:100], 40, 0,
        judge=task.judge,
    )
    return summarise(found)


table = {"SFT": marks("reference"), "PPO": marks("policy")}
for name in ("score", "gold", "true", "polite", "complete", "length"):
    row = "  ".join(f"{who} {table[who][name]:6.2f}" for who in table)
    print(f"{name:9s} {row}")

# %% [markdown]
r"""
## 4. Reading the gauges

**Exercise 1 · clip_fraction** (medium, 10 minutes). The share of tokens that the
clip holds back. Careful: that is *not* the share of tokens whose ratio has left
$[1-\epsilon, 1+\epsilon]$. A token is held back only where the clipped loss is
the larger one (notebook 2, section 6).
"""


# %% nbgrader={"grade_id": "clip_fraction", "solution": true}
def student_clip_fraction(
    logprobs, old_logprobs, advantages, response_mask, clip_range
):
    """All (B, R), mask True = counts. Returns a scalar in [0, 1]."""
    ### BEGIN SOLUTION
    logratio = (logprobs - old_logprobs).masked_fill(~response_mask, 0.0)
    ratio = logratio.exp()
    A = advantages.masked_fill(~response_mask, 0.0)
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    held = (-A * clipped > -A * ratio) & response_mask
    return held.sum() / response_mask.sum()
    ### END SOLUTION


# %% [markdown]
r"""
<details><summary>Hint: "I count too many"</summary>

A good token (advantage above 0) with ratio 0.5 has left the range, but on the
side where nothing is clipped. Compare the two losses instead of the ratio.

</details>

<details><summary>Hint: "It changes with the padding"</summary>

Divide by the number of tokens that count, and count none that do not.

</details>
"""

# %% nbgrader={"grade_id": "clip_fraction-check", "grade": true, "points": 2}
clip_fraction = exercise("clip_fraction", student_clip_fraction)

# %% [markdown]
r"""
*And then?* What would the clip fraction be with one gradient step per rollout,
and why? What does a clip fraction of exactly 0 over many updates suggest about
the learning rate?
"""

# %% [markdown]
r"""
## 5. A silent bug: whitening

PPO scales the advantages of a batch to mean 0 and variance 1, so that the size
of its steps does not hang on the units of the reward model:

$$\hat A_t = \frac{A_t - \mu}{\sqrt{\sigma^2 + 10^{-8}}},$$

with $\mu$ and $\sigma^2$ over the tokens that count. By hand: the advantages 2
and 6, with one padded slot behind them, have mean 4 and variance 4, and become
$-1$ and $+1$. The padding stays 0.
"""


# %% nbgrader={"grade_id": "masked_whiten", "solution": true}
def student_masked_whiten(values, mask, epsilon=1e-8):
    """values, mask (B, R), True = counts. Returns (B, R), 0 where masked."""
    values = values.masked_fill(~mask, 0.0)
    ### BEGIN SOLUTION
    mean = values.sum() / mask.sum()
    variance = (((values - mean) ** 2) * mask).sum() / mask.sum()
    ### STUDENTS SEE
    # mean = values.mean()
    # variance = ((values - mean) ** 2).mean()
    ### END SOLUTION
    whitened = (values - mean) / torch.sqrt(variance + epsilon)
    return whitened.masked_fill(~mask, 0.0)


# %%
two_tokens = torch.tensor([[2.0, 6.0, 0.0], [2.0, 6.0, 0.0]])
counts = torch.tensor([[True, True, False], [True, True, False]])
print(student_masked_whiten(two_tokens, counts)[0])
padded = torch.nn.functional.pad(two_tokens, (0, 6))
print(student_masked_whiten(padded, torch.nn.functional.pad(counts, (0, 6)))[0])

# %% [markdown]
r"""
**Exercise 2 · find the bug** (medium, 10 minutes). The second line is the same
batch with more padding. Are the two tokens the same? What happens to a token
that was *worse* than the average one, and what does PPO then do with it? Repair
`student_masked_whiten`, run the cell again, and check it here.

<details><summary>Hint: "With a full batch it is right"</summary>

So it is the padding. Which zeros are in the mean that should not be there?

</details>

<details><summary>Hint: "The mean is right now, the scale is not"</summary>

The variance is a mean, too. And a padded slot, which holds 0, is at a distance
of $\mu$ from the mean: mask the squares, not only the values.

</details>
"""

# %% nbgrader={"grade_id": "masked_whiten-check", "grade": true, "points": 2}
masked_whiten = exercise("masked_whiten", student_masked_whiten)

# %% [markdown]
r"""
## 6. Let a rule hold the slider

You have moved $\beta$ by hand. Ziegler et al. (2019) let a rule do it: name the
KL you want, and after every update raise the price when the policy strays
further, lower it when it keeps closer,

$$e = \text{clip}\Bigl(\frac{\text{KL}}{\text{KL}_{\text{target}}} - 1,\;
-0.2,\; 0.2\Bigr), \qquad
\beta \leftarrow \beta\,\Bigl(1 + e\,\frac{\text{episodes}}{\text{horizon}}\Bigr).$$

By hand, with their numbers ($\beta = 0.15$, target 6 nats, 512 episodes, horizon
10,000): a KL of 6.6 is a tenth too large, $e = 0.1$, and $\beta$ becomes
$0.15 \cdot 1.00512 = 0.150768$.
"""

# %% [markdown]
r"""
**Exercise 3 · proportional_kl_coef** (easy, 5 minutes). Plain Python numbers.
"""


# %% nbgrader={"grade_id": "proportional_kl_coef", "solution": true}
def student_proportional_kl_coef(
    kl_coef, observed_kl, target_kl, episodes, horizon
):
    """KLs in nats per response. Returns the new kl_coef."""
    ### BEGIN SOLUTION
    error = observed_kl / target_kl - 1
    error = max(-0.2, min(0.2, error))
    return kl_coef * (1 + error * episodes / horizon)
    ### END SOLUTION


# %% [markdown]
r"""
<details><summary>Hint: "It goes the wrong way"</summary>

Too large a KL must make the KL *dearer*. The error is observed minus target,
relative to the target.

</details>

<details><summary>Hint: "It jumps when the KL is far off"</summary>

The error is clipped to ±0.2 *before* it is multiplied by episodes / horizon.

</details>
"""

# %% nbgrader={"grade_id": "proportional_kl_coef-check", "grade": true, "points": 1}
proportional_kl_coef = exercise(
    "proportional_kl_coef", student_proportional_kl_coef
)

# %% [markdown]
r"""
No thread this time: PPO is an ordinary iterator, and between two updates the
loop may do what it likes. A horizon of 40 episodes makes the rule quick enough
to see.
"""

# %% [markdown]
r"""
**Predict 4.** Target 2 nats, starting from $\beta = 0.05$ and the SFT model.
What will $\beta$ do first, and then?

<details><summary>The answer, after the run</summary>

At first the KL is 0, far below the target, and the rule lowers the price. As
soon as the policy has walked past 2 nats the price goes up. The rule lags
behind, like a thermostat: $\beta$ remembers all earlier errors, so the KL
overshoots before it settles.

</details>
"""

# %%
steered = PPO(replace(config, updates=20), backbone, task.prompts)
betas, kls = [], []
for stats in steered:
    betas.append(stats["kl_coef"])
    kls.append(stats["ref_kl"])
    steered.kl_coef = proportional_kl_coef(
        steered.kl_coef, stats["ref_kl"], 2.0, 32, horizon=40
    )

# %%
figures.lines(
    range(1, len(kls) + 1),
    {"KL from SFT": kls},
    "A thermostat for the KL",
    "update",
    "nats per response",
    reference=(2.0, "target"),
)

# %%
figures.lines(
    range(1, len(betas) + 1),
    {"kl_coef": betas},
    "What the rule did to its price",
    "update",
    "RM units per nat",
    reference=(0.05, "start"),
)

# %% [markdown]
r"""
InstructGPT kept $\beta$ fixed, at 0.02, and found values of 0.01 to 0.02 best;
both 0 and 2 were bad. A fixed price lets the KL find its own level; a target
fixes the level and lets the price float. Which would you rather explain to
somebody who asks how far your model has moved?
"""

# %% [markdown]
r"""
## What is what

| symbol | in the code | in the logs | unit |
|---|---|---|---|
| $\mathbb{E}\,r(x,y)$ | `scores` | `scores` | RM units |
| $\mathrm{KL}(\pi\,\Vert\,\pi_{\text{SFT}})$ | `kl.k1(...).sum(1).mean()` | `ref_kl` | nats per response |
| $\beta$ | `ppo.kl_coef` | `kl_coef` | RM units per nat |
| $\epsilon$ | `ppo.clip_range` | `clip_fraction` | share of tokens |
| $\hat A_t$ | `masked.masked_whiten` | `advantages` (before) | |
| KL target | `kl.proportional_kl_coef` | `kl_coef` | nats per response |
| ratio at the first step | `ratio_error` | `ratio_error` | 0 in exact arithmetic |

**Sources.** Ouyang et al. 2022 (arXiv:2203.02155), section 3.5, appendix C.4;
Ziegler et al. 2019 (1909.08593), section 2.2; Schulman et al. 2017 (1707.06347).
"""
