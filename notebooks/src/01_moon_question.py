# %% [markdown]
r"""
# 1 · The moon question

**Question.** Four people answer the same question and a fifth puts the answers
in order. How does that order become a number that a machine can learn from?

**Afterwards you can**

- turn a ranking, ties included, into the comparisons that a reward model
  learns from,
- work out the reward model's loss and gradient with a pocket calculator,
- say what a score of 9.4 means, and what it does not,
- train a reward model and find out where it will mislead you.

**Time** about 60 minutes, of which the computer works for less than two ·
**memory** under 2 GB · **seed** 0 · **needs** Python, and what a derivative is.
"""

# %% [markdown]
r"""
**How to work here.** Where it says *Predict*, write your guess down before you
run the next cell; the answer is folded under the question. Where it says
*Exercise*, fill in the stub. The cell after it checks your function, tells you
what is missing, and goes on with minirlhf's own function until yours is right,
so you can always read on and come back.
"""

# %%
import random
import re

import torch

from minirlhf.course import figures
from minirlhf.course.exercise import exercise
from minirlhf.course.ranking_widget import RankingWidget, order, rank
from minirlhf.engine.models import load_backbone
from minirlhf.engine.paths import data_folder
from minirlhf.engine.records import Prompt, Ranking, read_records
from minirlhf.engine.rollout import score_texts
from minirlhf.labeling.rankings import ranking_of
from minirlhf.maths import preferences
from minirlhf.stages.reward import RewardConfig, RewardTraining
from minirlhf.world.almanac import load_almanac, question, split_facts
from minirlhf.world.demonstrations import MANNERS, respond
from minirlhf.world.judge import Judge
from minirlhf.world.labelers import label, training_labelers

torch.manual_seed(0)
torch.set_printoptions(precision=4, sci_mode=False)

# %% [markdown]
r"""
## 1. Be the labeler

InstructGPT was taught by about 40 people. Each was shown a prompt and between 4
and 9 answers to it, gave every answer a mark from 1 to 7, and then put them all
in order, with ties encouraged where two answers were equally good
(Ouyang et al. 2022, section 3.4 and appendix B).

Now it is your turn. Drag the best answer to the top. Drop one answer onto
another to tie them. With the keyboard: Tab to a card, then the arrow keys.
"""

# %%
moon, second_opinion = read_records(
    data_folder() / "moon" / "moon.jsonl", Ranking
)
widget = RankingWidget(moon.prompt, moon.responses)
widget

# %% [markdown]
r"""
No widget on your screen? The same thing in plain Python is one line,
`rank("D > C > A = B", n=4)`. A ranking is a list of ranks in the order of the
answers A, B, C, D: 1 is best, and equal ranks are a tie.
"""

# %%
mine = widget.ranks  # or, by hand: mine = rank("A > B > C > D", n=4)
print("you:    ", order(mine), mine)
print("labeler:", order(moon.ranks), moon.ranks)

# %% [markdown]
r"""
Our first labeler ranked $D > C > A = B$, so $\text{ranks} = (3, 3, 2, 1)$. Keep
your own order in mind, and whether anything about the labeler's bothers you.
We come back to it at the end.
"""

# %% [markdown]
r"""
## 2. From a ranking to pairs

The model never hears "third place". It is told, for two answers at a time, which
one won. A ranking of $K$ answers holds at most $\binom{K}{2} = K(K-1)/2$ such
pairs:

$$\mathcal{P} = \{(w, l) : \text{rank}_w < \text{rank}_l\}$$

with $w$ for the winner and $l$ for the loser. A tie says neither, so it gives
no pair; the paper drops them.
"""

# %% [markdown]
r"""
**Predict 1.** How many pairs does $D > C > A = B$ give?

<details><summary>The answer, after the run</summary>

Five. Four answers make six pairs, and the tie $A = B$ is not one of them. Notes
on the paper that count "six losses" for this ranking have overlooked the tie.

</details>
"""

# %%
figures.pair_grid(moon.ranks, "ABCD")

# %% [markdown]
r"""
**Exercise 1 · ranking_to_pairs** (easy, 5 minutes). Return the pairs of one
ranking as a list of `(index of the better, index of the worse)`. A rank of 0
marks an empty slot, which takes part in no pair: later, prompts with different
$K$ share a batch.
"""


# %% nbgrader={"grade_id": "ranking_to_pairs", "solution": true}
def student_ranking_to_pairs(ranks):
    """ranks: K whole numbers. Returns a list of (better, worse) indices."""
    ### BEGIN SOLUTION
    pairs = []
    for better, high in enumerate(ranks):
        for worse, low in enumerate(ranks):
            if 0 < high < low:
                pairs.append((better, worse))
    return pairs
    ### END SOLUTION


# %% [markdown]
r"""
<details><summary>Hint: "I get twice as many pairs as I should"</summary>

Each pair turns up once as (i, j) and once as (j, i). Keep only the one in which
the first index has the better rank, and better means a *smaller* number.

</details>

<details><summary>Hint: "The ties come back in"</summary>

`<=` lets equal ranks through; a tie needs the strict `<`.

</details>

<details><summary>Hint: "An empty slot beats everybody"</summary>

0 is smaller than 1. Ask for `0 < rank` as well.

</details>
"""

# %% nbgrader={"grade_id": "ranking_to_pairs-check", "grade": true, "points": 1}
ranking_to_pairs = exercise("ranking_to_pairs", student_ranking_to_pairs)

# %%
print([f"{'ABCD'[w]} > {'ABCD'[l]}" for w, l in ranking_to_pairs(moon.ranks)])

# %% [markdown]
r"""
*And then?* How many pairs does a ranking of $K = 9$ without ties hold? Can the
pairs of one ranking ever run in a circle ($A > B > C > A$)? Can those of two
labelers?
"""

# %% [markdown]
r"""
## 3. From a pair to a loss

A reward model gives a prompt $x$ and an answer $y$ one number, the score
$r(x, y)$. The paper's assumption, which is Bradley and Terry's from 1952: the
chance that $y_w$ beats $y_l$ depends only on the difference of their scores,

$$P(y_w \succ y_l) = \sigma(r_w - r_l) = \frac{1}{1 + e^{-(r_w - r_l)}},$$

a number between 0 and 1. The loss of a pair is how surprised the model is by
what the labeler said, $-\log \sigma(r_w - r_l)$, in nats.
"""

# %% [markdown]
r"""
**By hand.** Suppose the model gives $D$ 9.4, $C$ 8.2, and $A$ and $B$ 5.4 each.

| pair | margin $r_w - r_l$ | $\sigma(\text{margin})$ | loss $-\log\sigma$ |
|---|---|---|---|
| $D > C$ | 1.2 | 0.7685 | 0.2633 |
| $D > A$ | 4.0 | 0.9820 | 0.0181 |
| $D > B$ | 4.0 | 0.9820 | 0.0181 |
| $C > A$ | 2.8 | 0.9427 | 0.0590 |
| $C > B$ | 2.8 | 0.9427 | 0.0590 |
| **mean of 5** | | | **0.0835** |

Divide by the pairs that are there: 5. Dividing by 6 gives 0.0696, and quietly
makes a ranking with a tie count for less than one without.
"""

# %% [markdown]
r"""
**Exercise 2 · bradley_terry_loss** (easy, 5 minutes). The loss of each pair,
for tensors of any length, right also where a margin is as large as 200.
`margin` asks the winner to lead by that much; it is 0 in the paper.
"""


# %% nbgrader={"grade_id": "bradley_terry_loss", "solution": true}
def student_bradley_terry_loss(chosen_scores, rejected_scores, margin=0.0):
    """chosen_scores, rejected_scores: (M,). Returns (M,), nats."""
    ### BEGIN SOLUTION
    lead = chosen_scores - rejected_scores - margin
    return torch.nn.functional.softplus(-lead)
    ### END SOLUTION


# %% [markdown]
r"""
<details><summary>Hint: "It is inf where the model is very wrong"</summary>

In `torch.log(torch.sigmoid(z))` the sigmoid of $-200$ is rounded to 0 before
the logarithm sees it. `torch.nn.functional.logsigmoid(z)` does both in one step,
and so does $-\log \sigma(z) = \log(1 + e^{-z})$ = `softplus(-z)`.

</details>

<details><summary>Hint: "My loss is negative"</summary>

The logarithm of a probability is negative. A loss is its negative.

</details>
"""

# %% nbgrader={"grade_id": "bradley_terry_loss-check", "grade": true, "points": 1}
bradley_terry_loss = exercise(
    "bradley_terry_loss", student_bradley_terry_loss
)

# %%
scores = torch.tensor([5.4, 5.4, 8.2, 9.4])  # A, B, C, D
winners, losers = zip(*ranking_to_pairs(moon.ranks))
losses = bradley_terry_loss(scores[list(winners)], scores[list(losers)])
print("per pair:", losses)
print(f"mean: {losses.mean():.4f}")

# %% [markdown]
r"""
**Predict 2.** A reward model that knows nothing gives all four answers the same
score. What is its loss on this ranking?

<details><summary>The answer, after the run</summary>

$\ln 2 = 0.6931$: every margin is 0, $\sigma(0) = 1/2$, and $-\log\frac12 = \ln 2$.
It is the loss of a tossed coin and the first number to compare a training run
with. Above it, the model is worse than the coin.

</details>
"""

# %%
ranks = torch.tensor([moon.ranks])  # (B, K) = (1, 4)
know_nothing = preferences.ranking_loss(torch.zeros(1, 4), ranks)
by_hand = preferences.ranking_loss(scores[None], ranks)
print(f"equal scores: {know_nothing:.4f}")
print(f"9.4, 8.2, 5.4, 5.4: {by_hand:.4f}")

# %%
figures.margin_curve(
    {"D > C": 1.2, "C > A, C > B": 2.8, "D > A, D > B": 4.0}
)

# %% [markdown]
r"""
Read the curve from right to left. A pair that is already clear costs next to
nothing; a pair in the wrong order costs about as much as its margin is wide.
`preferences.ranking_loss` is the function that the reward-model stage of
minirlhf calls. Nothing is hidden behind it but what you just wrote.
"""

# %% [markdown]
r"""
## 4. Which way does each answer move?

The derivative of one pair's loss is as simple as it could be:

$$\frac{\partial}{\partial r_w}\bigl(-\log\sigma(r_w - r_l)\bigr)
= -\bigl(1 - \sigma(r_w - r_l)\bigr),
\qquad \frac{\partial}{\partial r_l} = +\bigl(1 - \sigma(r_w - r_l)\bigr).$$

The winner is pushed up and the loser down, by the same amount: the probability
that the model still gives to the wrong outcome.
"""

# %% [markdown]
r"""
**Predict 3.** $C$ beats two answers and loses to one. Does the next step of
gradient descent push its score up or down?

<details><summary>The answer, after the run</summary>

Down. What is left to learn is $1 - \sigma$: 0.2315 for $D > C$, but only 0.0573
for each of $C > A$ and $C > B$. So the gradient at $C$ is
$(0.2315 - 2 \cdot 0.0573)/5 = +0.0234$, and descent goes against it. It is the
undecided pairs that do the pushing, not the number of wins.

</details>
"""

# %%
leaf = scores[None].clone().requires_grad_()
loss = preferences.ranking_loss(leaf, ranks)
(gradient,) = torch.autograd.grad(loss, leaf)
push = -gradient[0]
print("gradient at A, B, C, D:", gradient[0])
print(f"their sum: {gradient.sum():.4f}")

# %%
figures.bars(
    ["A", "B", "C", "D"],
    {"push": push.tolist()},
    "Where one step of gradient descent pushes the scores",
    "minus the gradient (nats per RM unit)",
)

# %% [markdown]
r"""
The four pushes add up to zero. Each pair lifts one answer exactly as far as it
lowers the other, so learning from comparisons can never move the average.
That has a consequence.
"""

# %% [markdown]
r"""
## 5. What a score of 9.4 means

**Predict 4.** Add 100 to every score. What happens to the loss?

<details><summary>The answer, after the run</summary>

Nothing at all. Only differences enter. 9.4 is not a mark out of ten, scores of
two reward models cannot be compared, and neither can those of two prompts,
unless something else fixes the zero.

</details>
"""

# %%
for shift in (0.0, 100.0, -5.4):
    loss = preferences.ranking_loss(scores[None] + shift, ranks)
    print(f"shift {shift:+6.1f}: loss {loss:.4f}")

# %% [markdown]
r"""
Since the loss leaves the zero open, the paper fixes it afterwards: a bias is
set such that the labelers' own demonstrations score 0 on average. From then on
a positive score reads "better than what a person wrote for us, on average", as
this reward model sees it.
"""

# %% [markdown]
r"""
## 6. Why all pairs of a prompt go together

With $K = 9$ answers there are 36 pairs. Shuffled into one big pile, each answer
would come up in 8 different comparisons within a single epoch; the paper found
that a reward model trained so over-fits in one pass. Its remedy: all pairs of a
prompt form *one* element of the batch. That saves work, too, for each answer is
read once and its score used in all its pairs.
"""

# %%
print(" K  pairs  answers read: pair by pair, all together")
for k in range(4, 10):
    pairs = len(ranking_to_pairs(range(1, k + 1)))
    print(f"{k:2d} {pairs:6d} {2 * pairs:28d} {k:13d}")

# %% [markdown]
r"""
Within a batch, the loss is a mean over a prompt's pairs first, and over prompts
second:

$$L = \frac1B\sum_{x}\frac{1}{|\mathcal{P}_x|}\sum_{(w,l)\in\mathcal{P}_x}
-\log\sigma(r_w - r_l).$$

By hand, for two prompts: one with four answers in the right order (mean over
its 6 pairs 0.2384), one with two answers in the wrong order (its one pair costs
0.8544). The mean of the two means is 0.5464. A pile of all 7 pairs would give
$(6 \cdot 0.2384 + 0.8544)/7 = 0.3264$ and hardly notice the second prompt.
"""

# %%
two_scores = torch.tensor([[2.0, 1.0, 0.3, -0.7], [0.1, 0.4, 0.0, 0.0]])
two_ranks = torch.tensor([[1, 2, 3, 4], [1, 2, 0, 0]])  # 0: no answer there
mean_of_means = preferences.ranking_loss(two_scores, two_ranks)
print(f"mean over prompts of the mean over pairs: {mean_of_means:.4f}")

# %% [markdown]
r"""
## 7. A silent bug

The dangerous mistakes in this trade do not raise errors. The loss below runs.
It falls when you train with it. Its code even has a clear idea: sort the
answers, best first, then every answer should beat all those behind it.

We train with it the simplest reward model there is, a table with one score per
answer, and let gradient descent do the rest.
"""


# %% nbgrader={"grade_id": "ranking_loss", "solution": true}
def student_ranking_loss(scores, ranks):
    """scores, ranks: (B, K), rank 0 = empty. Returns a scalar, nats."""
    per_prompt = []
    for score, rank in zip(scores, ranks):
        filled = rank > 0
        score, rank = score[filled], rank[filled]
        best_first = rank.argsort(stable=True)
        losses = []
        for place, i in enumerate(best_first):
            for j in best_first[place + 1 :]:
                ### BEGIN SOLUTION
                if rank[i] < rank[j]:
                    losses.append(
                        bradley_terry_loss(score[i : i + 1], score[j : j + 1])
                    )
                ### STUDENTS SEE
                # losses.append(
                #     bradley_terry_loss(score[i : i + 1], score[j : j + 1])
                # )
                ### END SOLUTION
        if losses:
            per_prompt.append(torch.cat(losses).mean())
    return torch.stack(per_prompt).mean()


# %%
def train_table(loss_function, rankings, steps=300, learning_rate=1.0):
    """One score per answer, by gradient descent. Returns (steps, K)."""
    table, path = torch.zeros(1, 4, requires_grad=True), []
    for _ in range(steps):
        loss = sum(loss_function(table, r) for r in rankings) / len(rankings)
        (gradient,) = torch.autograd.grad(loss, table)
        path.append(table.detach()[0])
        table = (table - learning_rate * gradient).detach().requires_grad_()
    return torch.stack(path)


# %%
path = train_table(student_ranking_loss, [ranks], steps=100)
first_loss, last_loss = (
    student_ranking_loss(path[step][None], ranks) for step in (0, -1)
)
print(f"loss: {first_loss:.4f} -> {last_loss:.4f}")
print("scores of A, B, C, D:", path[-1])

# %% [markdown]
r"""
**Exercise 3 · find the bug** (medium, 10 minutes). Look at the four scores
before you look at the code. What did the labeler never say? Then repair
`student_ranking_loss` above, run the three cells again, and check it here.

<details><summary>Hint: "The loss falls and the order looks right"</summary>

$D$, then $C$, then the others: yes. But the labeler said $A = B$. Do $A$ and $B$
have the same score?

</details>

<details><summary>Hint: "Why would A be better than B?"</summary>

Sorting has to put one of two equals first, and a stable sort takes the one with
the smaller index. From there on the code treats its place in the list as if it
were a rank.

</details>
"""

# %% nbgrader={"grade_id": "ranking_loss-check", "grade": true, "points": 2}
ranking_loss = exercise("ranking_loss", student_ranking_loss)

# %% [markdown]
r"""
*And then?* Suppose a data set always stores the older model's answer first. What
would this bug teach a reward model there? Would its pair accuracy on held-out
comparisons show it? (Ties are skipped there.)
"""

# %% [markdown]
r"""
## 8. Train it

**Predict 5.** The same table of four scores, trained with the right loss on this
one ranking, for as long as we like. Where do the scores end? At 9.4, 8.2, 5.4,
5.4? At some other values? Nowhere?

<details><summary>The answer, after the run</summary>

Nowhere. A single ranking never contradicts itself, so a wider margin is always
a little better, and the scores drift apart for ever, more and more slowly. Only
comparisons that disagree, or stopping early, keep a reward model modest. The
paper trains for a single epoch, and found the number of epochs to matter a great
deal, but a learning rate 50 % higher or lower hardly at all.

</details>
"""

# %%
path = train_table(ranking_loss, [ranks])
for step in (0, 10, 100, 299):
    loss = ranking_loss(path[step][None], ranks)
    print(f"step {step:3d}  loss {loss:.4f}  scores {path[step].tolist()}")

# %%
figures.lines(
    range(len(path)),
    {name: path[:, i] for i, name in enumerate("ABCD")},
    "Four scores learned from one ranking: D > C > A = B",
    "step of gradient descent",
    "score (RM units)",
    reference=(0.0, "mean of the four"),
)

# %% [markdown]
r"""
$A$ and $B$ lie on one line, as they should: nobody compared them, and by
symmetry they get the same pushes. The mean stays at 0, because the pushes
cancel (section 4) and the table started there.
"""

# %% [markdown]
r"""
## 9. A reward model that reads

A table can only score the four answers it has seen. A reward model must score
answers that nobody has ranked, so the score has to come from the *text*. The
smallest model of this kind counts words and gives every word a weight:

$$r(x, y) = \sum_{\text{words } v \text{ in } y} w_v .$$

The paper puts a 6-billion-parameter transformer in the place of that sum. The
loss is the same, down to the last symbol.
"""

# %% [markdown]
r"""
It needs comparisons. Ours come from minirlhf's almanac of astronomy and everyday
science: for each question four answers, given in different manners (to the
point, terse, curt, hedging, sloppy, wrong, ...), and ranked by simulated
labelers. Each of those weighs help, truth and manners in a way of their own and
makes mistakes; two of them agree on about 70 % of the pairs that both put in an
order. The paper reports 73 % of its people.
"""


# %%
def compare(facts, count, seed):
    """Rankings of four answers each, by simulated labelers."""
    rng, rankings = random.Random(seed), []
    while len(rankings) < count:
        fact, labeler = rng.choice(facts), rng.choice(labelers)
        others = [f for f in facts if f.subject_id == fact.subject_id]
        manners = rng.sample(list(MANNERS), 4)
        answers = [respond(fact, manner, others, rng) for manner in manners]
        found = [judge(fact, answer).findings for answer in answers]
        forms = label(labeler, fact.id, answers, found)
        ranking = ranking_of(forms, Prompt(question(fact, 0), fact.id))
        if ranking is not None:  # four ties would hold nothing to learn
            rankings.append(ranking)
    return rankings


# %%
almanac = load_almanac()
judge, labelers = Judge(almanac), training_labelers()
train_facts, test_facts = split_facts(almanac)
train = compare(train_facts, 400, seed=0)
held_out = compare(test_facts, 200, seed=1)
example = held_out[1]
print(example.prompt)
for place, answer in sorted(zip(example.ranks, example.responses)):
    print(f"  {place}. {answer}")

# %% [markdown]
r"""
The held-out rankings ask for facts that no training ranking mentions. Now each
answer becomes a row of word counts; a word that no training answer uses has no
weight, and counts for nothing.
"""


# %%
def words(text):
    return re.findall(r"[a-z']+", text.lower())


vocabulary = sorted({w for r in train for a in r.responses for w in words(a)})
column = {word: i for i, word in enumerate(vocabulary)}


def word_counts(responses):
    counts = torch.zeros(len(responses), len(vocabulary))
    for row, response in zip(counts, responses):
        for word in words(response):
            if word in column:
                row[column[word]] += 1
    return counts


# %%
def batch(rankings):
    features = torch.stack([word_counts(r.responses) for r in rankings])
    return features, torch.tensor([r.ranks for r in rankings])


features, train_ranks = batch(train)  # (B, K, words), (B, K)
new_features, new_ranks = batch(held_out)
print("B, K, words:", tuple(features.shape))

# %% [markdown]
r"""
**Predict 6.** We train the weights for 60 steps and watch the loss on both sets.
The training loss falls. What does the loss on the held-out rankings do, and how
does it end, compared with the coin's $\ln 2$?

<details><summary>The answer, after the run</summary>

It falls for a few steps, turns, and climbs above $\ln 2$. At first the model
learns what goes for every answer (politeness, whole sentences). Then it finds a
weight for the peculiarities of the training answers, and becomes *sure* of them.
The order of the scores changes little meanwhile; it is the confidence that
grows. That is how a reward model over-fits, and why the paper stops after one
epoch.

</details>
"""

# %%
weights = torch.zeros(len(vocabulary), requires_grad=True)
optimizer = torch.optim.Adam([weights], lr=0.05)
curve, new_curve, best = [], [], None
for step in range(60):
    loss = preferences.ranking_loss(features @ weights, train_ranks)
    with torch.no_grad():
        new = preferences.ranking_loss(new_features @ weights, new_ranks)
    curve.append(loss.item())
    new_curve.append(new.item())
    if new_curve[-1] == min(new_curve):
        best = weights.detach().clone()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %%
figures.lines(
    range(60),
    {"trained on": curve, "held out": new_curve},
    "A reward model that counts words",
    "step of Adam",
    "ranking loss (nats per pair)",
    reference=(0.6931, "ln 2: a coin"),
)

# %% [markdown]
r"""
We keep the weights of the best held-out step, and look at what was learned. The
weights are the whole model, so that is easy.
"""

# %%
accuracy = preferences.pair_accuracy(features @ best, train_ranks)
new_accuracy = preferences.pair_accuracy(new_features @ best, new_ranks)
print(f"pairs in the labelers' order: {accuracy:.2f} trained on")
print(f"                              {new_accuracy:.2f} held out")
common = [w for w in vocabulary if (features[:, :, column[w]] > 0).sum() > 30]
liked = sorted(common, key=lambda w: best[column[w]])
print("likes least:", *liked[:7])
print("likes most: ", *liked[-7:])

# %% [markdown]
r"""
Better than a coin, and on facts it never met. Most of it is manners: it has
learned what people who hedge, or who are annoyed, tend to write.

**Predict 7.** Now give it pairs that differ in nothing but the truth: two plain
sentences about a held-out fact, one right, one wrong. What share does it get
right? And how will it rank our four answers about the moon?

<details><summary>The answer, after the run</summary>

About half: a coin. No weight of any word can know which planet Europa belongs
to. And on the moon it prefers whatever its favourite words happen to stand in.
The loss asks for whatever separates winners from losers. Truth is part of that
only where the model can tell it apart.

</details>
"""

# %%
rng, right = random.Random(2), 0.0
for fact in test_facts:
    pair = [respond(fact, manner, [], rng) for manner in ("exemplary", "wrong")]
    scores_of_pair = word_counts(pair) @ best
    right += preferences.pair_accuracy(
        scores_of_pair[None], torch.tensor([[1, 2]])
    )
print(f"true before false: {right / len(test_facts):.2f}")

# %%
moon_scores = word_counts(moon.responses) @ best
for name, score, answer in zip("ABCD", moon_scores, moon.responses):
    print(f"{name} {score:+.2f}  {answer}")
agreement = preferences.pair_accuracy(moon_scores[None], ranks)
print(f"share of the labeler's five pairs: {agreement:.1f}")

# %% [markdown]
r"""
## 10. The same loss, a transformer

In the place of the sum over words we now put a language model: `moonlet-1m`, a
million parameters, which has read a small web about moons and planets before. A
LoRA adapter and one linear layer on its last hidden state make it a reward
model. `RewardTraining` is minirlhf's second stage; what it minimises you have
written in section 7.

It reads each answer once and uses its score in all of its pairs, as in section
6, and goes over the 400 rankings a single time. That takes about half a minute.
"""

# %%
backbone = load_backbone("moonlet-1m")
config = RewardConfig(epochs=1)
steps = list(
    RewardTraining(config, backbone, train, held_out, init="base")
)
print(f"held out: loss {steps[-1]['valid_ranking_loss']:.2f} (a coin 0.69),")
print(f"pair accuracy {steps[-1]['valid_pair_accuracy']:.2f} (a coin 0.50)")

# %% [markdown]
r"""
**Predict 8.** It has read the facts. Does it put the true sentence before the
false one now? Will it see that $C$ is false?

<details><summary>The answer, after the run</summary>

Hardly more often than a coin: 50 to 57 % in our trials, and $C$, the longest and
best-sounding of the four answers, came out on top every time. Its pair accuracy
was no better than the word counter's. Knowing a fact and *rewarding* it are two
things, and 400 noisy rankings in which most answers are true teach manners
long before they teach truth. The paper had some 33,000 prompts, with 4 to 9
answers each, and a model thousands of times as large.

</details>
"""

# %%
prompts, sentences, rng = [], [], random.Random(2)
for fact in test_facts:
    for manner in ("exemplary", "wrong"):
        prompts.append(Prompt(question(fact, 0)))
        sentences.append(respond(fact, manner, [], rng))
pairs = torch.tensor(score_texts(backbone, prompts, sentences)).view(-1, 2)
order_wanted = torch.tensor([[1, 2]]).expand(len(pairs), 2)
right = preferences.pair_accuracy(pairs, order_wanted)
print(f"true before false: {right:.2f}")

# %%
moon_scores = score_texts(
    backbone, [Prompt(moon.prompt)] * 4, moon.responses
)
for name, score, answer in zip("ABCD", moon_scores, moon.responses):
    print(f"{name} {score:+.2f}  {answer}")

# %% [markdown]
r"""
It is worth remembering when a large reward model gives a fluent answer a high
score: it, too, has learned what *looked* better in the comparisons it was
shown. In notebook 3 we let an optimiser loose on such a score.
"""

# %% [markdown]
r"""
## 11. The second opinion

Did the labeler's order bother you? Answer $C$ calls the Moon a body of ice and
rock. It is a body of silicate rock, so $C$ is false, while the other three are true.
Under the paper's guidelines it should not stand above true answers. A second
labeler, who looked it up, ranks differently.
"""

# %%
print("first: ", order(moon.ranks), "·", moon.reason)
print("second:", order(second_opinion.ranks), "·", second_opinion.reason)
pairs_1 = set(ranking_to_pairs(moon.ranks))
pairs_2 = set(ranking_to_pairs(second_opinion.ranks))
both = {frozenset(p) for p in pairs_1} & {frozenset(p) for p in pairs_2}
print(f"{len(pairs_1 & pairs_2)} of {len(both)} pairs judged alike")

# %% [markdown]
r"""
Two people who disagree are the normal case. InstructGPT's training labelers
agreed with each other on 72.6 ± 1.5 % of the comparisons.

**Predict 9.** Our example model, with 9.4, 8.2, 5.4, 5.4, had a loss of 0.0835
under the first labeler. Under the second: a bit more, about $\ln 2$, or more
than that?

<details><summary>The answer, after the run</summary>

1.12, far more than $\ln 2$: a model that is *sure* and wrong is worse than one
that knows nothing. Two pairs have turned round, and each now costs 2.859 instead
of 0.059; and a sixth pair, $A > B$, costs $\ln 2$. The ranking loss does not ask
who is right. It learns whom you ask.

</details>
"""

# %%
ranks_2 = torch.tensor([second_opinion.ranks])
for name, labeler in (("first", ranks), ("second", ranks_2)):
    loss = preferences.ranking_loss(scores[None], labeler)
    print(f"{name:6s} labeler: {loss:.4f}")

# %%
opinions = {
    "first only": [ranks],
    "both": [ranks, ranks_2],
    "second only": [ranks_2],
}
learned = {
    name: train_table(ranking_loss, rankings, steps=100)[-1]
    for name, rankings in opinions.items()
}
figures.bars(
    ["A", "B", "C (false)", "D"],
    {name: table.tolist() for name, table in learned.items()},
    "What the table learns depends on who is asked (100 steps)",
    "score (RM units)",
)

# %% [markdown]
r"""
Trained on both, $C$ falls back among $A$ and $B$: where labelers contradict each
other, the best the model can do is to call it nearly even. That is an average of
opinions, and an average of opinions is not the truth. Guidelines that ask for
it, and labelers who look things up, come closer.

*To think about.* Whom would you ask? Would you drop the first ranking, keep
both, or ask a third person? Where would you write down which you did?
"""

# %% [markdown]
r"""
## What is what

| symbol | in the code | in the logs | unit |
|---|---|---|---|
| $K$ | `ranks.shape[1]` | | answers per prompt |
| $\mathcal{P}$ | `preferences.ranking_to_pairs(ranks)` | | |
| $r(x, y)$ | `scores` (B, K) | `scores` | RM units, zero arbitrary |
| $r_w - r_l$ | `chosen_scores - rejected_scores` | | RM units |
| $-\log\sigma(r_w - r_l)$ | `preferences.bradley_terry_loss` | | nats |
| $L$ | `preferences.ranking_loss` | `ranking_loss` | nats per pair |
| share of pairs in order | `preferences.pair_accuracy` | `pair_accuracy` | 0 to 1 |

**Next.** [The objective, derived](02_objective.ipynb): what PPO does with this
score, and what keeps it from fooling it.

**Sources.** Ouyang et al. 2022 (arXiv:2203.02155), sections 3.4 to 3.5,
appendices B and C.2; Bradley and Terry 1952.
"""
