# %% [markdown]
r"""
# 2 · The objective, derived

**Question.** One line of mathematics says what InstructGPT's third stage wants.
How does that line become four numbers per token, and a loss?

**Afterwards you can**

- take PPO-ptx's objective apart into score, KL, advantage, clip and ptx, and
  compute each by hand,
- name the three policies in it, and never again mix them up,
- say which estimator of the KL belongs in a reward, and which in a loss,
- check a formula that you find on the web by computing it.

**Time** about 90 minutes, of which the computer works for less than one ·
**memory** under 1 GB · **seed** 0 · **needs** notebook 1, and the chain rule.
"""

# %%
import torch

from minirlhf.course import figures
from minirlhf.course.exercise import exercise
from minirlhf.maths import advantages, kl, losses, preferences

torch.manual_seed(0)
torch.set_printoptions(precision=4, sci_mode=False)

# %% [markdown]
r"""
## 1. The whole thing

Reward what the reward model likes; charge for every step away from the
supervised model; and do not forget how to write. Ouyang et al. 2022, equation 2:

$$\max_\phi\;
\mathbb{E}_{x,\,y\sim\pi_\phi}\Bigl[\underbrace{r(x,y)}_{\text{score}}
- \underbrace{\beta\log\frac{\pi_\phi(y|x)}{\pi_{\text{SFT}}(y|x)}}_{\text{KL}}
\Bigr]
+ \underbrace{\gamma\,\mathbb{E}_{x\sim D_{\text{pretrain}}}
\bigl[\log\pi_\phi(x)\bigr]}_{\text{ptx}}$$

with $\beta = 0.02$ (`kl_coef`) and $\gamma = 27.8$ (`ptx_coef`) in the paper;
$\gamma = 0$ is plain PPO.
"""

# %% [markdown]
r"""
**Three policies** play a part, and much confusion comes from taking one for
another.

| | what it is | changes | where it appears |
|---|---|---|---|
| $\pi_\phi$ | the policy being trained | every step | everywhere |
| $\pi_{\text{old}}$ | $\pi_\phi$ as it was when it sampled this batch | every batch | the ratio, section 6 |
| $\pi_{\text{SFT}}$ | the supervised model, frozen | never | the KL, section 3 |

We now go through the line from left to right, small numbers first. Our
companion is one answer of three tokens, with an empty slot behind it, as in a
padded batch.
"""

# %%
response_mask = torch.tensor([[True, True, True, False]])
logprobs = torch.tensor([[-1.0, -0.5, -2.0, 0.0]])  # of the sampler
ref_logprobs = torch.tensor([[-1.2, -0.9, -1.7, 0.0]])  # of the SFT model
scores = torch.tensor([1.0])  # one per answer, RM units

# %% [markdown]
r"""
## 2. The score

$r(x, y)$ comes from the reward model of [notebook 1](01_moon_question.ipynb),
trained on comparisons with

$$L = -\frac{1}{\binom K2}\sum_{(w,l)}\log\sigma\bigl(r_w - r_l\bigr).$$

Each term is the log-likelihood of one comparison. Is their mean then the
log-likelihood of the ranking? Not quite. The probability of a whole ranking
under the same scores (Plackett and Luce: pick the best, then the best of the
rest, ...) is $\prod_k e^{r_k} / \sum_{j \ge k} e^{r_j}$, and pairs that share an
answer are not independent.
"""

# %%
four = torch.tensor([[2.0, 1.0, 0.3, -0.7]])
ranks = torch.tensor([[1, 2, 3, 4]])
mean_of_pairs = preferences.ranking_loss(four, ranks)
whole_ranking = preferences.plackett_luce_loss(four, ranks)
print(f"mean over 6 pairs  {mean_of_pairs:.6f}")
print(f"sum over 6 pairs   {6 * mean_of_pairs:.6f}")
print(f"the whole ranking  {whole_ranking:.6f}")

# %% [markdown]
r"""
The sum of the pairs, 1.4303, is not 1.3127. InstructGPT's loss is a *composite*
likelihood: a sum of honest pieces that overlap. For $K = 2$ there is one piece,
and both are the same.

**One answer, one score.** In this third stage nothing is ranked any more: the
policy writes one answer per prompt, and the reward model gives it one number.
"""

# %%
two = torch.tensor([[0.4, -0.3]]), torch.tensor([[1, 2]])
print(preferences.ranking_loss(*two), preferences.plackett_luce_loss(*two))

# %% [markdown]
r"""
## 3. The KL, token by token

The model writes one token after the other, so
$\pi(y|x) = \prod_t \pi(y_t \mid x, y_{<t})$, and the logarithm of the ratio
splits into a sum:

$$\log\frac{\pi_\phi(y|x)}{\pi_{\text{SFT}}(y|x)}
= \sum_t \underbrace{\log\pi_\phi(y_t|\cdot) - \log\pi_{\text{SFT}}(y_t|\cdot)}
_{\text{logratio}_t}$$

So the charge can be paid where it arises, at each token. The reward model reads
only the finished answer, so its score arrives at the last token:

$$r_t = -\beta\,\text{logratio}_t + \begin{cases} r(x,y) & t \text{ last}\\
0 & \text{otherwise.}\end{cases}$$
"""

# %% [markdown]
r"""
**By hand**, with $\beta = 0.5$ to make it visible, and score 1.

| token | $\log\pi_\phi$ | $\log\pi_{\text{SFT}}$ | logratio | $-\beta\cdot$logratio | $r_t$ |
|---|---|---|---|---|---|
| 1 | −1.0 | −1.2 | +0.2 | −0.10 | −0.10 |
| 2 | −0.5 | −0.9 | +0.4 | −0.20 | −0.20 |
| 3 | −2.0 | −1.7 | −0.3 | +0.15 | +1.15 |
| sum | | | +0.3 | −0.15 | **+0.85** |

The sum is $1 - 0.5 \cdot 0.3$, as the formula for the whole answer demands.
"""

# %% [markdown]
r"""
**Exercise 1 · token_rewards** (easy, 10 minutes). Per-token rewards for a batch.
Answers have different lengths; masked slots get 0. The `logprobs` are those of
the policy that sampled, fixed for the whole batch.
"""


# %% nbgrader={"grade_id": "token_rewards", "solution": true}
def student_token_rewards(
    scores, logprobs, ref_logprobs, response_mask, kl_coef
):
    """scores (B,); the others (B, R), mask True = counts. Returns (B, R)."""
    ### BEGIN SOLUTION
    logratio = (logprobs - ref_logprobs).masked_fill(~response_mask, 0.0)
    rewards = -kl_coef * logratio
    last = response_mask.sum(-1) - 1
    rows = torch.arange(len(scores))
    rewards[rows, last] = rewards[rows, last] + scores
    return rewards
    ### END SOLUTION


# %% [markdown]
r"""
<details><summary>Hint: "My score lands in the padding"</summary>

`rewards[:, -1]` is the last *slot*, not the last token. The last token of a row
sits at `response_mask.sum(-1) - 1`.

</details>

<details><summary>Hint: "The score is there, but the KL of the last token is gone"</summary>

Assigning the score overwrites what stood there. Add it.

</details>

<details><summary>Hint: "I get nan or huge numbers in short answers"</summary>

What stands in masked slots means nothing, and can be anything. Replace it by 0
with `masked_fill`; multiplying by the mask keeps a nan a nan.

</details>
"""

# %% nbgrader={"grade_id": "token_rewards-check", "grade": true, "points": 2}
token_rewards = exercise("token_rewards", student_token_rewards)

# %%
rewards = token_rewards(
    scores, logprobs, ref_logprobs, response_mask, kl_coef=0.5
)
print(rewards, f"sum {rewards.sum():.2f}")

# %% [markdown]
r"""
*And then?* The third token has a *negative* logratio and is paid for it. Is
there an answer for which the whole charge is negative? Could a policy live from
that? (A single sample can have a negative log-ratio; the expectation under
$\pi_\phi$ cannot. The next section shows both.)
"""

# %% [markdown]
r"""
## 4. Three ways to estimate a KL

The expectation in the objective is a KL divergence,
$\mathbb{E}_{y\sim\pi}[\log\pi - \log\pi_{\text{ref}}] =
\mathrm{KL}(\pi\,\|\,\pi_{\text{ref}}) \ge 0$, and from samples $y \sim \pi$ we can
estimate it in several ways. With $\ell = \log\pi(y) - \log\pi_{\text{ref}}(y)$:

$$k_1 = \ell, \qquad k_2 = \tfrac12\ell^2, \qquad k_3 = e^{-\ell} - 1 + \ell .$$

By hand for $\ell = 0.2$: $0.2$, $0.02$ and $0.8187 - 1 + 0.2 = 0.0187$. For
$\ell = -0.3$: $-0.3$, $0.045$ and $1.3499 - 1 - 0.3 = 0.0499$.
"""

# %% [markdown]
r"""
**Predict 1.** Take $\pi = N(0, 1)$ and $\pi_{\text{ref}} = N(0.1, 1)$, where the
exact KL is $0.1^2/2 = 0.005$. Which of the three are right on average? Which
scatters most, and is its scatter below or above the value itself?

<details><summary>The answer, after the run</summary>

$k_1$ and $k_3$ are right on average; $k_2$ is off by a quarter of a per cent
here, and by 25 % when the policies are as far apart as $N(0,1)$ and $N(1,1)$.
$k_1$ scatters 20 times the value, the other two 1.4 times. When the policies
are close, a single $k_1$ tells you almost nothing. Its mean over a batch does.

</details>
"""

# %%
x = torch.linspace(-9, 9, 4001, dtype=torch.float64)
weight = torch.softmax(-(x**2) / 2, 0)  # pi = N(0, 1) on a fine grid
for shift in (0.1, 1.0):
    logp, ref = -(x**2) / 2, -((x - shift) ** 2) / 2
    exact = shift**2 / 2
    for k in (kl.k1, kl.k2, kl.k3):
        mean = (weight * k(logp, ref)).sum()
        std = (weight * (k(logp, ref) - mean) ** 2).sum().sqrt()
        bias = abs(mean / exact - 1)
        print(f"shift {shift} {k.__name__}: bias/KL {bias:.4f}", end="  ")
        print(f"std/KL {std / exact:.3f}")

# %%
sample = torch.randn(20_000, dtype=torch.float64)
logp, ref = -(sample**2) / 2, -((sample - 1.0) ** 2) / 2
figures.estimator_spread(
    {k.__name__: k(logp, ref) for k in (kl.k1, kl.k2, kl.k3)},
    exact=0.5,
    title="KL of N(0, 1) from N(1, 1), estimated from 20,000 samples",
)

# %% [markdown]
r"""
**A good value is not a good gradient.** Suppose you put an estimator into the
*loss* instead of the reward, and let autograd run through it.

**Predict 2.** The samples come from the policy itself and are held fixed, as
always. Averaged over them, which of the three has the gradient of the KL?

<details><summary>The answer, after the run</summary>

Only $k_2$, the one with the wrong value. The gradient of $k_1$ averages to
nothing at all, since $\mathbb{E}_\pi[\nabla\log\pi] = 0$: a KL penalty made of it
does not penalise. $k_3$ pulls towards the reference, but along the gradient of
the other KL, $\mathrm{KL}(\pi_{\text{ref}}\,\|\,\pi)$. In the *reward*, where no
gradient runs through it, $k_1$ is the right one, and it is the paper's.

</details>
"""

# %%
logits = torch.tensor([0.9, 0.0, -0.5], dtype=torch.float64)
logits.requires_grad_()
ref_logits = torch.tensor([0.0, 0.3, -0.3], dtype=torch.float64)
(true,) = torch.autograd.grad(kl.exact_kl(logits, ref_logits), logits)
print("exact KL:", true)
for k in (kl.k1, kl.k2, kl.k3):
    logp = logits.log_softmax(-1)
    sampler = logp.exp().detach()  # how often each token is drawn
    loss = (sampler * k(logp, ref_logits.log_softmax(-1))).sum()
    print(f"{k.__name__} loss: ", torch.autograd.grad(loss, logits)[0])

# %% [markdown]
r"""
## 5. Who deserves the credit?

The score arrives at the last token, but an earlier one may have earned it. A
value model $V$ guesses, before each token, what is still to come; the surprise
at each step is

$$\delta_t = r_t + V_{t+1} - V_t, \qquad V = 0 \text{ after the last token,}$$

and generalised advantage estimation lets each token share in later surprises,
with a weight that fades by $\lambda$ per token (Schulman et al. 2016):

$$A_t = \delta_t + \lambda A_{t+1}, \qquad \text{return}_t = A_t + V_t .$$

There is no discount: the paper's $\gamma_{RL}$ is 1. Its $\lambda$ is not
printed; Stiennon et al. 2020 used 0.95, and so do we.
"""

# %% [markdown]
r"""
**By hand**, on with our answer, and values 0.5, 0.6, 0.8. Work from the end.

| token | $r_t$ | $V_t$ | $V_{t+1}$ | $\delta_t$ | $A_t$, $\lambda = 0.95$ | return |
|---|---|---|---|---|---|---|
| 3 | 1.15 | 0.8 | 0 | 0.35 | 0.3500 | 1.1500 |
| 2 | −0.20 | 0.6 | 0.8 | 0 | 0.3325 | 0.9325 |
| 1 | −0.10 | 0.5 | 0.6 | 0 | 0.3159 | 0.8159 |

The value model saw the two charges coming ($\delta = 0$); only the end was better
than it thought, and the credit for that trickles back.
"""

# %% [markdown]
r"""
**Exercise 2 · gae** (medium, 15 minutes). Advantages and returns for a batch of
answers of different length. Masked slots get 0 in both.
"""


# %% nbgrader={"grade_id": "gae", "solution": true}
def student_gae(
    rewards, values, response_mask, discount=1.0, gae_lambda=0.95
):
    """All (B, R), mask True = counts. Returns (advantages, returns)."""
    ### BEGIN SOLUTION
    rewards = rewards.masked_fill(~response_mask, 0.0)
    values = values.detach().masked_fill(~response_mask, 0.0)
    result = torch.zeros_like(values)
    later = after = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + discount * after - values[:, t]
        later = delta + discount * gae_lambda * later
        after = values[:, t]
        result[:, t] = later
    return result, result + values
    ### END SOLUTION


# %% [markdown]
r"""
<details><summary>Hint: "The last token comes out wrong, the others nearly right"</summary>

After the last token the episode is over and $V = 0$. If you take the value from
the next slot, you read the padding. Setting the values of masked slots to 0
first settles it.

</details>

<details><summary>Hint: "Every token gets the same number as its delta"</summary>

You have $\lambda = 0$: is $A_{t+1}$ carried over from one step of the loop to the
next, and does the loop run from the end to the start?

</details>

<details><summary>Hint: "The returns are right only for λ = 1"</summary>

The return here is $A_t + V_t$, not the sum of the rewards to come. The two agree
for $\lambda = 1$.

</details>
"""

# %% nbgrader={"grade_id": "gae-check", "grade": true, "points": 3}
gae = exercise("gae", student_gae)

# %%
values = torch.tensor([[0.5, 0.6, 0.8, 0.0]])
for gae_lambda in (0.0, 0.95, 1.0):
    A, returns = gae(rewards, values, response_mask, gae_lambda=gae_lambda)
    print(f"lambda {gae_lambda:4.2f}  A {A[0]}  returns {returns[0]}")

# %% [markdown]
r"""
**Predict 3.** A longer answer: 16 tokens, a score of 1 at the end, no KL, and a
value model that says 0.5 all along. With $\lambda = 0$, which tokens learn that
the answer was a good one? With $\lambda = 1$?

<details><summary>The answer, after the run</summary>

With $\lambda = 0$ the last one only; all the others have to wait until the value
model has learned to expect it, one token per round. With $\lambda = 1$ all of
them, equally, and each token also carries all the noise of what came after it.
0.95 lies between: the first of 16 tokens still gets $0.95^{15} = 46\,\%$.

</details>
"""

# %%
long_mask = torch.ones(1, 16, dtype=torch.bool)
end_only = torch.zeros(1, 16)
end_only[0, -1] = 1.0
flat = torch.full((1, 16), 0.5)
credit = {
    f"λ = {lam:g}": gae(end_only, flat, long_mask, gae_lambda=lam)[0][0]
    for lam in (0.0, 0.95, 1.0)
}
figures.lines(
    range(1, 17),
    credit,
    "How far back the news of a good end travels",
    "token",
    "advantage (RM units)",
    reference=(0.0, "nothing learned"),
)

# %% [markdown]
r"""
## 6. A step, but not too far

An advantage says how much better a token was than expected. PPO raises the
probability of good tokens and lowers that of bad ones, measured against the
policy that *sampled* them:

$$\text{ratio}_t = \frac{\pi_\phi(y_t|\cdot)}{\pi_{\text{old}}(y_t|\cdot)}
= e^{\log\pi_\phi - \log\pi_{\text{old}}},$$
$$L = -\,\text{mean}_t\,\min\bigl(\text{ratio}_t A_t,\;
\text{clip}(\text{ratio}_t, 1-\epsilon, 1+\epsilon)\,A_t\bigr),
\qquad \epsilon = 0.2 .$$

Not $\pi_{\text{SFT}}$: that one is in the reward already, and stays there.
"""

# %% [markdown]
r"""
**By hand**, four tokens, $\epsilon = 0.2$.

| ratio | $A$ | ratio · $A$ | clipped · $A$ | min |
|---|---|---|---|---|
| 1.5 | +1 | 1.5 | 1.2 | 1.2 |
| 0.5 | +1 | 0.5 | 0.8 | 0.5 |
| 1.5 | −1 | −1.5 | −1.2 | −1.5 |
| 0.5 | −1 | −0.5 | −0.8 | −0.8 |

The mean of the last column is −0.15, so the loss is +0.15.

**Predict 4.** For which of the four tokens is the gradient exactly zero?

<details><summary>The answer, after the run</summary>

The first and the last: a good token that has already become 1.5 times as likely,
and a bad one that is already half as likely. They have moved far enough in the
right direction. The two in the middle have moved the *wrong* way, and for them
the minimum makes sure that nothing is clipped. The clip is not symmetric, and
that is its point.

</details>
"""

# %%
figures.clip_curves(clip_range=0.2)

# %% [markdown]
r"""
**Exercise 3 · policy_loss** (medium, 15 minutes). The loss above, averaged over
all tokens that count, all answers of the batch together. Only `logprobs` is to
be trained; `old_logprobs` and `advantages` are constants of the rollout.
"""


# %% nbgrader={"grade_id": "policy_loss", "solution": true}
def student_policy_loss(
    logprobs, old_logprobs, advantages, response_mask, clip_range=0.2
):
    """All (B, R), mask True = counts. Returns a scalar to be minimised."""
    ### BEGIN SOLUTION
    logratio = logprobs - old_logprobs.detach()
    ratio = logratio.masked_fill(~response_mask, 0.0).exp()
    A = advantages.detach().masked_fill(~response_mask, 0.0)
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    objective = torch.minimum(ratio * A, clipped * A)
    return -objective.sum() / response_mask.sum()
    ### END SOLUTION


# %% [markdown]
r"""
<details><summary>Hint: "It is right for positive advantages only"</summary>

Is the advantage a factor in *both* terms? $\min(\text{ratio} \cdot A,
\text{clip}(\text{ratio}))$ without the second $A$ is a mistake that has been
published more than once, and runs without complaint.

</details>

<details><summary>Hint: "The right size, the wrong sign"</summary>

The objective is to be maximised; an optimiser minimises. Either minus the
minimum of the objectives, or the maximum of the two losses, each with its own
minus.

</details>

<details><summary>Hint: "It changes when I add padding"</summary>

`.mean()` divides by the number of slots. Divide by the number of tokens,
`response_mask.sum()`.

</details>

<details><summary>Hint: "The numbers are right and the check still complains"</summary>

Then it is about the gradient: `.detach()` what is a constant. A gradient through
the advantages would teach the value model to make them large.

</details>
"""

# %% nbgrader={"grade_id": "policy_loss-check", "grade": true, "points": 3}
policy_loss = exercise("policy_loss", student_policy_loss)

# %%
old = torch.full((1, 4), -1.0)
new = (old + torch.tensor([[1.5, 0.5, 1.5, 0.5]]).log()).requires_grad_()
A = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
four_tokens = torch.ones(1, 4, dtype=torch.bool)
loss = policy_loss(new, old, A, four_tokens)
(gradient,) = torch.autograd.grad(loss, new)
print(f"loss {loss.item():.4f}  gradient {gradient[0]}")

# %% [markdown]
r"""
**Predict 5.** On the first minibatch after sampling nothing has been updated
yet, so $\pi_\phi = \pi_{\text{old}}$. What is the loss there, and the share of
clipped tokens?

<details><summary>The answer, after the run</summary>

Every ratio is 1, so the loss is minus the mean advantage and nothing is clipped.
That costs nothing to check, and catches dropout left on, a temperature
forgotten, positions shifted by padding. minirlhf checks it on every first
minibatch and says so (`ratio_error`).

</details>
"""

# %%
first = policy_loss(logprobs, logprobs, returns - values, response_mask)
mean_advantage = (returns - values)[response_mask].mean()
clipped = losses.clip_fraction(
    logprobs, logprobs, returns - values, response_mask, clip_range=0.2
)
print(f"loss {first:.4f}  mean advantage {mean_advantage:.4f}")
print(f"clip fraction {clipped:.1f}")

# %% [markdown]
r"""
## 7. The value model's own loss, and a silent bug

The value model learns to foresee the returns, by squared error. OpenAI's code
clips here too: the new value may not profit from having moved further than
$\epsilon$ from the value it had at sampling time,

$$L_V = \tfrac12\,\text{mean}_t\,\max\bigl((V_t - R_t)^2,\;
(\text{clip}(V_t, V^{\text{old}}_t \pm \epsilon) - R_t)^2\bigr).$$

By hand, $V^{\text{old}} = 0.5$ and $R = 1$. If $V$ has moved to 0.9:
$\frac12\max(0.01, 0.09) = 0.045$, no gradient, it has moved enough. If it has
moved the wrong way, to 0.1: $\frac12\max(0.81, 0.49) = 0.405$, and a gradient
that pulls it back.
"""


# %% nbgrader={"grade_id": "value_loss", "solution": true}
def student_value_loss(
    values, old_values, returns, response_mask, clip_range=0.2
):
    """All (B, R), mask True = counts. Returns a scalar to be minimised."""
    values = values.masked_fill(~response_mask, 0.0)
    old_values = old_values.detach().masked_fill(~response_mask, 0.0)
    returns = returns.detach().masked_fill(~response_mask, 0.0)
    eps = float("inf") if clip_range is None else clip_range
    near = old_values + (values - old_values).clamp(-eps, eps)
    plain_error = (values - returns) ** 2
    clipped_error = (near - returns) ** 2
    ### BEGIN SOLUTION
    error = torch.maximum(plain_error, clipped_error)
    ### STUDENTS SEE
    # error = torch.minimum(plain_error, clipped_error)
    ### END SOLUTION
    return 0.5 * error.sum() / response_mask.sum()


# %%
V_old, R = torch.tensor([[0.5]]), torch.tensor([[1.0]])
one = torch.ones(1, 1, dtype=torch.bool)
for moved_to in (0.6, 0.9, 0.1):
    V = torch.tensor([[moved_to]], requires_grad=True)
    loss = student_value_loss(V, V_old, R, one)
    (pull,) = torch.autograd.grad(loss, V)
    print(f"V = {moved_to}: loss {loss:.4f}  gradient {pull.item():+.4f}")

# %% [markdown]
r"""
**Exercise 4 · find the bug** (medium, 10 minutes). `student_value_loss` runs,
falls in training, and is wrong in one word. Compare the three lines above with
the numbers by hand. What becomes of a value that has moved the wrong way?
Repair it, run the cell again, and check it here.

<details><summary>Hint: "It looks just like the policy loss"</summary>

It was copied from there. But $\min$ belongs to something that is maximised, and
this is an error that is minimised. The pessimist takes the smaller objective
and the *larger* loss.

</details>

<details><summary>Hint: "What is wrong with a zero gradient at 0.1?"</summary>

A value that is too low and has been pushed lower still is left there. Nothing
pulls it back until the next batch is sampled.

</details>
"""

# %% nbgrader={"grade_id": "value_loss-check", "grade": true, "points": 2}
value_loss = exercise("value_loss", student_value_loss)

# %%
print(f"{value_loss(torch.tensor([[0.1]]), V_old, R, one):.3f} (0.405)")

# %% [markdown]
r"""
## 8. Not forgetting: ptx

A policy trained only to please the reward model gets worse at public language
benchmarks, the "alignment tax". InstructGPT's remedy mixes in the plain
pretraining gradient: for every episode 8 pieces of pretraining text, and

$$\nabla_\phi\bigl(L_{\text{PPO}} + \gamma\,L_{\text{ptx}}\bigr), \qquad
L_{\text{ptx}} = -\,\text{mean}_t \log\pi_\phi(x_t \mid x_{<t}).$$

It is not what keeps the policy from fooling the reward model. That is the KL.
"""

# %% [markdown]
r"""
A language model of one line will do to see how the two mix: 5 tokens, one logit
each. The paper computes the two gradients in consecutive steps and adds them up;
since a gradient is linear, that is the gradient of the sum.
"""

# %%
logits = torch.zeros(5, requires_grad=True)
text = torch.randint(0, 5, (8, 50))  # 8 pieces of 50 tokens
text_mask = torch.ones_like(text, dtype=torch.bool)
ptx = losses.ptx_loss(logits.log_softmax(-1)[text], text_mask)
answer = torch.tensor([[0, 3, 3, 1]])
now = logits.log_softmax(-1)[answer]
ppo = policy_loss(now, now.detach(), A, four_tokens)
(joint,) = torch.autograd.grad(ppo + 27.8 * ptx, logits, retain_graph=True)
(first,) = torch.autograd.grad(ppo, logits, retain_graph=True)
(second,) = torch.autograd.grad(27.8 * ptx, logits, retain_graph=True)
print("both at once:", joint)
print("one by one:  ", first + second)

# %% [markdown]
r"""
**Predict 6.** Another library *sums* the pretraining loss over its
$8 \cdot 50 = 400$ tokens where we average. Which coefficient gives it the same
gradient as our 27.8?

<details><summary>The answer, after the run</summary>

$27.8 / 400 = 0.0695$. A coefficient means nothing without its normalisation,
which is why 27.8 from the paper, 16 from one library and 0.05 from another do
not contradict each other, and why none of them can simply be copied.

</details>
"""

# %%
summed = -logits.log_softmax(-1)[text].sum()
(gradient,) = torch.autograd.grad(27.8 / 400 * summed, logits)
print("27.8 / 400, summed:", gradient)
print("27.8, averaged:    ", second)

# %% [markdown]
r"""
## 9. A published mistake, refuted by computing

Among the reading notes that this course grew from is one that wants to reuse
samples of the SFT model instead of sampling from the policy, and rewrites the
objective as

$$J_{\text{notes}} = \mathbb{E}_{y\sim\pi_{\text{SFT}}}\Bigl[
\frac{\pi_\phi(y)}{\pi_{\text{SFT}}(y)}\,r(y)
- \beta\log\frac{\pi_\phi(y)}{\pi_{\text{SFT}}(y)}\Bigr].$$

It looks plausible: change the sampling distribution, and pay with an importance
weight $w = \pi_\phi / \pi_{\text{SFT}}$. Before you read on, find what is missing.
"""

# %% [markdown]
r"""
The weight is missing on the second term. Written correctly, it is
$\mathbb{E}_{\text{SFT}}\bigl[w\,(r - \beta\log w)\bigr]$. Without the weight the
second term is $-\beta\,\mathbb{E}_{\text{SFT}}[\log w] =
+\beta\,\mathrm{KL}(\pi_{\text{SFT}}\,\|\,\pi_\phi)$: the *other* KL, with a plus
sign.

Three possible answers are enough to see what that does, for then every
expectation is a sum of three terms, and no sampling can blur it.
"""

# %%
sft = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
r = torch.tensor([1.0, 0.0, 0.2], dtype=torch.float64)
beta = 0.5


def true_objective(logits):
    log_w = logits.log_softmax(-1) - sft.log()
    return (logits.softmax(-1) * (r - beta * log_w)).sum()


def correctly_weighted(logits):
    log_w = logits.log_softmax(-1) - sft.log()
    return (sft * log_w.exp() * (r - beta * log_w)).sum()


def as_in_the_notes(logits):
    log_w = logits.log_softmax(-1) - sft.log()
    return (sft * (log_w.exp() * r - beta * log_w)).sum()


# %% [markdown]
r"""
First what is true. For a bandit like this the optimum is known in closed form:
tilt the SFT model by the reward,

$$\pi^* \propto \pi_{\text{SFT}}\,e^{r/\beta}, \qquad
\max J = \beta\log\mathbb{E}_{\text{SFT}}\bigl[e^{r/\beta}\bigr].$$
"""

# %%
best = (sft.log() + r / beta).softmax(-1)
best_value = beta * (sft * (r / beta).exp()).sum().log()
print("optimal policy:", best, f"J = {best_value:.4f}")
anywhere = torch.randn(3, dtype=torch.float64)
for J in (true_objective, correctly_weighted, as_in_the_notes):
    print(f"{J.__name__:20s} at a random policy: {J(anywhere):.6f}")

# %% [markdown]
r"""
The correctly weighted form agrees with the true objective to the last digit; the
notes' form does not.

**Predict 7.** We climb each formula by gradient ascent, starting from the SFT
model. Where does the notes' formula lead, and what does it say of itself on the
way?

<details><summary>The answer, after the run</summary>

To a policy that gives one answer with certainty, while the "objective" rises
without end: it pays for every bit of probability taken from answers that the SFT
model would have given. Meanwhile the true objective passes its peak and falls
again. A term that was to keep the policy near SFT drives it away.

</details>
"""


# %%
def climb(J, steps, learning_rate=1.0):
    """Gradient ascent from the SFT model. Returns the logits (steps, 3)."""
    logits, path = sft.log().clone().requires_grad_(), []
    for _ in range(steps):
        path.append(logits.detach())
        (gradient,) = torch.autograd.grad(J(logits), logits)
        logits = (logits + learning_rate * gradient).detach()
        logits.requires_grad_()
    return torch.stack(path)


# %%
right = climb(true_objective, 400)
wrong = climb(as_in_the_notes, 400)
print("true objective:", right[-1].softmax(-1))
print("notes' formula:", [f"{p:.1e}" for p in wrong[-1].softmax(-1)])
for step in (0, 10, 100, 399):
    says, is_ = as_in_the_notes(wrong[step]), true_objective(wrong[step])
    print(f"step {step:3d}: it says {says:6.2f}, the truth is {is_:.4f}")

# %%
shown = 25
curves = {
    "climbing the true objective": map(true_objective, right[:shown]),
    "climbing the notes': what it says": map(as_in_the_notes, wrong[:shown]),
    "climbing the notes': the truth": map(true_objective, wrong[:shown]),
}
figures.lines(
    range(shown),
    {name: [float(value) for value in curves[name]] for name in curves},
    "One missing factor",
    "step of gradient ascent",
    "objective (RM units)",
    reference=(best_value.item(), "best possible"),
)

# %% [markdown]
r"""
**Could the notes' plan be saved** by putting the weight where it belongs? In
principle; the formula is then exact. In practice the weight of an answer is a
product over its tokens. If one token's weight has a variance of only 0.05, its
second moment is 1.05, and over 100 tokens that multiplies.
"""

# %%
for tokens in (1, 10, 100):
    print(f"{tokens:3d} tokens: second moment {1.05**tokens:8.1f}")

# %% [markdown]
r"""
A weight with a mean of 1 and a second moment of 131: a few lucky samples decide
everything. That is why PPO samples afresh from the current policy for every
batch, and why the ratio in section 6 compares it with the policy of a moment
ago.

*And then?* The notes also say that "SFT corresponds to PPO's $\theta'$". With
the table of the three policies in section 1, say in one sentence what is wrong
with that.
"""

# %% [markdown]
r"""
## What is what

| symbol | in the code | in the logs | unit |
|---|---|---|---|
| $r(x,y)$ | `scores` (B,) | `scores` | RM units |
| $\beta$ | `kl_coef` | `kl_coef` | RM units per nat |
| $\log\pi_\phi - \log\pi_{\text{SFT}}$ | `kl.k1(logprobs, ref_logprobs)` | `ref_kl` (summed over an answer) | nats |
| $r_t$ | `advantages.token_rewards` | `rewards` (summed) | RM units |
| $V_t$ | `values` (B, R) | `explained_variance` | RM units |
| $A_t$, returns | `advantages.gae` | | RM units |
| $\lambda$ | `gae_lambda` | | |
| ratio | `(logprobs - old_logprobs).exp()` | `ratio_error`, `approx_kl` | |
| $\epsilon$ | `clip_range` | `clip_fraction` | |
| $L$ | `losses.policy_loss` | `policy_loss` | RM units |
| $L_V$ | `losses.value_loss` | `value_loss` | RM units² |
| $\gamma$, $L_{\text{ptx}}$ | `ptx_coef`, `losses.ptx_loss` | `ptx_loss` | nats per token |
"""

# %% [markdown]
r"""
**Next.** [Live PPO](03_live_ppo.ipynb): all of this at work on a small language
model, with the two knobs $\beta$ and $\epsilon$ in your hands.

**Sources.** Ouyang et al. 2022 (arXiv:2203.02155), section 3.5, appendix C.4;
Schulman et al. 2016 (1506.02438) and 2017 (1707.06347); Stiennon et al. 2020
(2009.01325); on KL gradients, arXiv:2510.01555.
"""
