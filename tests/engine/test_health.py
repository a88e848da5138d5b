"""minirlhf.engine.health: what each guard takes for a fault, and what it lets pass."""

import itertools
import math

import pytest
import torch

from minirlhf.engine.health import GUARDS, Finding, Watch, findings, vital_signs
from minirlhf.engine.metrics import METRICS
from minirlhf.engine.rollout import Rollout
from minirlhf.maths.masked import response_mask


def rows(**metrics):
    """Rows from columns; the last value of a shorter one goes on."""
    length = max(len(values) for values in metrics.values())
    columns = {k: [*v, *[v[-1]] * (length - len(v))] for k, v in metrics.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def names(rows):
    return [(finding.name, finding.step) for finding in findings(rows)]


# Each fault, row by row ---------------------------------------------------------------------------


def test_entropy_has_to_stay_away():
    assert names(rows(entropy=[0.66, 0.5, 0.4, 0.3, 0.28, 0.23])) == []
    # means of three: (0.5 + 0.09 + 0.09) / 3 = 0.23, then 0.13, then 0.09, below 15 % of 0.66
    assert names(rows(entropy=[0.66, 0.5, 0.2, 0.09, 0.09, 0.09])) == [("entropy collapse", 6)]
    assert names(rows(entropy=[0.66, 0.5, 0.01, 0.5, 0.5])) == []  # one odd update
    # an SFT model that hardly varies is judged by what is left, not by a share of little
    assert names(rows(entropy=[0.05, 0.05, 0.03])) == []
    assert names(rows(entropy=[0.015, 0.015, 0.015])) == [("entropy collapse", 3)]


def test_one_answer_is_measured_from_where_sft_left_it():
    fault = "one answer for all prompts"
    assert names(rows(same_response=[0.0, 0.4, 0.6, 0.6])) == [(fault, 4)]
    assert names(rows(same_response=[0.0, 0.3, 0.49])) == []
    assert names(rows(same_response=[0.5, 0.5, 0.6, 0.7])) == []  # half yes, half no
    assert names(rows(same_response=[0.5, 0.8, 0.9])) == []
    assert names(rows(same_response=[0.5, 0.8, 0.9, 1.0])) == [(fault, 4)]


def test_kl_counts_by_the_token():
    def seen(kl, length):
        return names(rows(ref_kl=[0.0, kl, kl, kl], response_length=[length]))

    assert seen(3.0, 4) == []  # 0.75 a token, but what are three nats
    assert seen(11.0, 15) == [("exploding KL", 4)]
    assert seen(30.0, 500) == []
    assert seen(300.0, 500) == [("exploding KL", 4)]


def test_length_is_hacked_where_all_three_signs_agree():
    climb, fall = [10.0, 10, 10, 12, 16, 20, 24, 28, 28], [10.0, 10, 9, 8]
    up, down, mixed = [0.0, 0, 0, 0.1, 0.2, 0.4], [0.0, -0.1], [0.6, 0.5, 0.4, 0.3, 0.3, 0.1]

    def seen(length, score, tie):
        return names(rows(response_length=length, scores=score, length_score_correlation=tie))

    # the mean of the last five, 16 to 28, is above twice 10 at the eighth row
    assert seen(climb, up, [0.5]) == [("reward hacking by length", 8)]
    assert seen(climb, up, mixed) == []  # longer, better, but not better since longer
    assert seen(climb, down, [0.5]) == []  # longer and not better
    assert seen([10.0, 10, 10, 18, 19, 19, 19, 19, 19], up, [0.5]) == []  # fuller answers
    assert seen(fall, up, [0.5]) == []


def test_answers_that_do_not_end_are_counted_from_the_start():
    fault = "answers that do not end"
    assert names(rows(missing_eos=[0.0] * 4 + [0.4] * 5)) == [(fault, 8)]
    assert names(rows(missing_eos=[0.0] * 4 + [0.25] * 9)) == []
    assert names(rows(missing_eos=[0.5] * 4 + [0.6] * 9)) == []  # was so before


def test_a_value_model_is_dead_if_it_neither_explains_nor_learns():
    fault = "dead value function"
    falling = [2.0 * 0.9**n for n in range(20)]

    def seen(variance, loss):
        return names(rows(explained_variance=variance, value_loss=loss))

    assert seen([-4.0] * 10, [1.8] * 10) == [(fault, 10)]
    assert seen([-4.0] * 9, [1.8] * 9) == []
    assert seen([-4.0] * 20, falling) == []  # it learns, if slowly
    assert seen([-4.0] * 5 + [0.1] * 20, [1.8] * 25) == []  # it explains, if little
    assert seen([-4.0] * 3 + [0.3] * 5 + [-0.5] * 12, [1.0] * 20) == [(fault, 18)]


def test_overfitting_is_a_tenth_over_the_best_epoch():
    between = {"train_loss": 0.5}  # steps without a validation

    def seen(name, *values):
        steps = [[{**between, name: value}, between] for value in values]
        return names(itertools.chain(*steps))

    assert seen("valid_loss", 0.50, 0.45, 0.47) == []
    assert seen("valid_loss", 0.50, 0.45, 0.47, 0.50) == [("over-fitting", 7)]
    assert seen("valid_ranking_loss", 0.62, 0.63, 0.65) == []
    assert seen("valid_ranking_loss", 0.62, 0.69) == [("over-fitting", 3)]


def test_a_reward_model_is_held_against_a_coin():
    def seen(loss, right):
        return names([{"valid_ranking_loss": loss, "valid_pair_accuracy": right}])

    assert seen(0.70, 0.52) == [("no better than a coin", 1)]
    assert seen(0.68, 0.54) == []
    assert seen(0.80, 0.66) == []  # sure of itself and often wrong, yet no coin
    assert seen(3.18, 0.66) == []  # Plackett-Luce over four: log 4! is a coin there


# What is said, and how often ----------------------------------------------------------------------


def test_a_finding_comes_once_with_its_numbers():
    [finding] = findings(rows(entropy=[0.66] + [0.03] * 20))
    assert finding.step == 4
    assert "from 0.66 to 0.03 nats per token" in finding.saw
    assert str(finding).startswith("step 4: entropy collapse. The entropy has fallen")
    assert str(finding).endswith("or raise ppo.kl_coef.")


def test_a_watch_goes_on_where_rows_were_seen_before():
    every = rows(entropy=[0.66, 0.5, 0.2, 0.09, 0.09, 0.09, 0.09])
    assert [f.step for f in Watch(every[:3]).see(every[3])] == []
    watch = Watch(every[:5])
    assert [f.step for f in watch.see(every[5])] == [6]
    assert watch.see(every[6]) == []
    assert Watch(every[:6]).see(every[6]) == []  # said before


def test_rows_of_another_kind_or_without_numbers_are_passed_over():
    assert names([{"train_loss": 1.0}, {"entropy": math.nan}, {"entropy": None}] * 20) == []
    odd = rows(entropy=[0.66, math.nan, 0.01, 0.01, 0.01])
    assert names(odd) == [("entropy collapse", 5)]


def test_one_sentence_each_and_settings_that_exist():
    from minirlhf.pipeline import Settings

    stages = Settings().stages()
    for guard in GUARDS:
        assert set(guard.needs) <= METRICS.keys()
        assert guard.advice.endswith(".")
        assert guard.advice.count(". ") == 0
        for word in guard.advice.replace("=", " ").replace(",", " ").split():
            stage, dot, name = word.strip(".:").partition(".")
            if stage in stages and dot:
                assert hasattr(stages[stage], name), word


def test_every_sentence_ends(monkeypatch):
    broken = {
        "entropy": [1.0, 0.0],
        "same_response": [0.0, 1.0],
        "ref_kl": [0.0, 99.0],
        "response_length": [10.0] * 3 + [30.0],
        "scores": [0.0] * 3 + [1.0],
        "length_score_correlation": [0.9],
        "missing_eos": [0.0] * 3 + [1.0],
        "explained_variance": [-1.0],
        "value_loss": [1.0],
        "valid_loss": [0.5, 0.9],
        "valid_ranking_loss": [0.7, 0.9],
        "valid_pair_accuracy": [0.5] * 12,
    }
    found = findings(rows(**broken))
    assert sorted(f.name for f in found) == sorted(guard.name for guard in GUARDS)
    for finding in found:
        assert finding.saw.endswith(".")
        assert finding.saw.count(". ") == 0
        assert any(letter.isdigit() for letter in finding.saw)
        assert isinstance(finding, Finding)


# Vital signs --------------------------------------------------------------------------------------


def rollout(prompts, responses, eos=9):
    """A rollout of these token ids; prompts of one length, responses padded with 0."""
    width = max(map(len, responses))
    response = torch.tensor([r + [0] * (width - len(r)) for r in responses])
    prompt = torch.tensor(prompts)
    mask, length = torch.ones_like(prompt, dtype=torch.bool), torch.zeros(len(prompts), width)
    return Rollout(prompt, mask, response, response_mask(response, eos), length)


def signs_of(rollout, scores):
    return vital_signs(rollout, scores, rollout.ended(9))


def by_hand(prompts, responses):
    pairs = [
        (a, b)
        for a, b in itertools.combinations(range(len(prompts)), 2)
        if prompts[a] != prompts[b]
    ]
    same = sum(responses[a] == responses[b] for a, b in pairs)
    return same / len(pairs) if pairs else 0.0


@pytest.mark.parametrize(
    ("prompts", "responses", "share"),
    [
        ([[1], [2], [3]], [[4, 9], [5, 9], [6, 9]], 0.0),
        ([[1], [2], [3]], [[4, 9], [4, 9], [4, 9]], 1.0),
        ([[1], [2], [3]], [[4, 9], [4, 9], [4, 4, 9]], 1 / 3),
        ([[1], [1], [2]], [[4, 9], [4, 9], [5, 9]], 0.0),  # a prompt may be asked twice
        ([[1], [1], [1]], [[4, 9], [4, 9], [4, 9]], 0.0),  # and there may be only one
        ([[1], [1], [2], [2]], [[4, 9], [4, 9], [4, 9], [5, 9]], 0.5),
    ],
)
def test_same_response_counts_pairs_of_different_prompts(prompts, responses, share):
    signs = signs_of(rollout(prompts, responses), torch.zeros(len(prompts)))
    assert signs["same_response"] == pytest.approx(share)
    assert by_hand(prompts, responses) == pytest.approx(share)


def test_the_correlation_is_pearsons():
    prompts, responses = [[1], [2], [3], [4]], [[9], [4, 9], [4, 4, 9], [4, 4, 4, 4, 9]]
    scores = torch.tensor([0.0, 2.0, 1.0, 3.0])
    # lengths 1, 2, 3, 5 less 2.75, scores less 1.5; their products 2.625 - 0.375 - 0.125 + 3.375
    expected = 5.5 / math.sqrt(8.75 * 5)
    signs = signs_of(rollout(prompts, responses), scores)
    assert signs["length_score_correlation"] == pytest.approx(expected)
    signs = signs_of(rollout(prompts, responses), -scores)
    assert signs["length_score_correlation"] == pytest.approx(-expected)


def test_answers_that_were_cut_off_do_not_count_for_it():
    # those that ended say that length is paid, the others were given -1 for all their length
    responses = [[4, 9], [4, 4, 9], [4, 4, 4, 9], [4, 4, 4, 4], [4, 4, 4, 4]]
    scores = torch.tensor([1.0, 2.0, 3.0, -1.0, -1.0])
    prompts = [[n] for n in range(5)]
    assert signs_of(rollout(prompts, responses), scores)[
        "length_score_correlation"
    ] == pytest.approx(1)
    assert signs_of(rollout(prompts[3:], responses[3:]), scores[3:]) == {
        "same_response": 1.0,
        "length_score_correlation": 0.0,
    }


def test_what_does_not_vary_has_no_correlation():
    equal = rollout([[1], [2]], [[4, 9], [5, 9]])
    assert signs_of(equal, torch.tensor([1.0, 2.0]))["length_score_correlation"] == 0
    single = rollout([[1]], [[4, 9]])
    assert signs_of(single, torch.tensor([1.0])) == {
        "same_response": 0.0,
        "length_score_correlation": 0.0,
    }
