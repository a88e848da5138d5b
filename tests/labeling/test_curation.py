"""Curation: each step against numbers worked by hand or a slow comparison of all pairs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirlhf.engine.records import DataError
from minirlhf.labeling.curation import (
    cap_per_user,
    check_leakage,
    compared,
    curate,
    drop_shared_prefixes,
    identify_language,
    keep_language,
    plain,
    scrub,
    split_by_user,
    split_of,
)
from minirlhf.labeling.submissions import Submission


def sent(*prompts, user="u", **fields):
    return [Submission(p, f"{user}-{i}", user, **fields) for i, p in enumerate(prompts)]


def ids(submissions):
    return [s.id for s in submissions]


def shared(a, b):
    """Characters that two texts begin with alike, counted one by one."""
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    return count


class TestDuplicates:
    def test_by_hand(self):
        # limit 6: "abcdef" begins 0 and 3; 1 is shorter than 6 and equal to 2 but for case
        made = sent("abcdefgh", "abc", "ABC.", "abcdefxy", "abcde")
        kept, report = drop_shared_prefixes(made, limit=6)
        assert ids(kept) == ["u-0", "u-1", "u-4"]
        assert report.before == 5 and report.after == 3
        assert report.removed == {"exact copy": 1, "shares 6 characters": 1}
        assert report.examples == {"exact copy": ("u-2",), "shares 6 characters": ("u-3",)}
        assert str(report) == ("drop_shared_prefixes: 5 -> 3 (1 exact copy, 1 shares 6 characters)")

    def test_the_prefix_must_have_the_whole_limit(self):
        assert len(drop_shared_prefixes(sent("abcdeX", "abcdeY"), limit=6)[0]) == 2
        assert len(drop_shared_prefixes(sent("abcdeX", "abcdeY"), limit=5)[0]) == 1

    def test_a_history_makes_another_prompt(self):
        made = sent("How old is it?", history=("What is Io?", "A moon."))
        made += sent("How old is it?", user="v", history=("What is Mars?", "A planet."))
        assert len(drop_shared_prefixes(made)[0]) == 2
        assert compared(made[0]) == "what is io\na moon\nhow old is it"

    # a small alphabet, so that long prefixes are shared often
    @given(st.lists(st.text("ab A", min_size=1).filter(str.strip)), st.integers(1, 6))
    def test_against_all_pairs(self, prompts, limit):
        made = sent(*prompts)
        kept, report = drop_shared_prefixes(made, limit)
        slow = []
        for submission in made:  # keep whoever shares too little with all that were kept
            text = plain(submission.prompt)
            others = [plain(other.prompt) for other in slow]
            if all(text != other and shared(text, other) < limit for other in others):
                slow.append(submission)
        assert kept == slow
        assert report.after == len(kept) == len(made) - sum(report.removed.values())
        assert drop_shared_prefixes(kept, limit)[0] == kept

    def test_limit_must_be_positive(self):
        with pytest.raises(ValueError, match="at least 1 character, is 0"):
            drop_shared_prefixes([], 0)


class TestCap:
    def test_by_hand(self):
        made = [Submission(f"p{i}", str(i), user) for i, user in enumerate("abaaba")]
        kept, report = cap_per_user(made, 2)
        assert ids(kept) == ["0", "1", "2", "4"]
        assert report.removed == {"over 2 of its user": 2}
        assert report.examples == {"over 2 of its user": ("3", "5")}

    def test_cap_must_be_positive(self):
        with pytest.raises(ValueError, match="cap must be at least 1, is 0"):
            cap_per_user([], 0)


class TestLanguage:
    def test_keeps_what_the_identifier_says(self):
        made = sent("one", "two", "three")
        kept, report = keep_language(made, "xx", {"one": "xx", "two": "yy", "three": "xx"}.get)
        assert ids(kept) == ["u-0", "u-2"] and report.removed == {"in yy": 1}

    @pytest.mark.parametrize(
        ("text", "language"),
        [
            ("Why does the Moon have phases, and how long do they take?", "en"),
            ("Warum hat der Mond Phasen, und wie lange dauern sie?", "de"),
            ("Pourquoi la Lune a-t-elle des phases ?", "fr"),
            ("¿Por qué tiene fases la Luna y cuánto duran?", "es"),
        ],
    )
    def test_identifier(self, text, language):
        assert identify_language(text) == language


class TestSplit:
    def test_shares_are_met_over_many_users(self):
        shares = {"train": 0.55, "valid": 0.3, "test": 0.15}
        names = [split_of(f"user-{i}", 0, shares) for i in range(20_000)]
        # standard error at most sqrt(.25 / 20000) = 0.0035
        for name, share in shares.items():
            assert abs(names.count(name) / len(names) - share) < 0.014

    def test_known_places(self):
        # printf 0/a | sha256sum begins with d321, and 0xd321 / 0x10000 = 0.8247
        assert split_of("a", 0, {"x": 0.82, "y": 0.18}) == "y"
        assert split_of("a", 0, {"x": 0.83, "y": 0.17}) == "x"

    @given(
        st.sets(st.text(min_size=1).filter(str.strip)),
        st.sets(st.text(min_size=1).filter(str.strip)),
        st.integers(),
    )
    def test_new_users_move_nobody(self, users, more, seed):
        def places(users):
            made = [Submission(f"p{i}", f"{i}/{u}", u) for u in sorted(users) for i in range(2)]
            splits, _ = split_by_user(made, seed)
            found = {}
            for name, part in splits.items():
                for submission in part:
                    assert found.setdefault(submission.user, name) == name
            assert sum(map(len, splits.values())) == len(made)
            return found

        before, after = places(users), places(users | more)
        assert set(after) == users | more
        assert all(after[user] == name for user, name in before.items())

    def test_labelers_are_never_in_the_test_split(self):
        made = [Submission("p", str(i), f"labeler-{i}", source="labeler") for i in range(200)]
        splits, _ = split_by_user(made)
        assert not splits["test"] and 5 < len(splits["valid"]) < 60

    def test_shares_must_add_up(self):
        with pytest.raises(ValueError, match="add up to 1"):
            split_of("a", 0, {"train": 0.5, "test": 0.4})


LONG = "x" * 100


class TestLeakage:
    @pytest.mark.parametrize(
        ("train", "test", "what"),
        [
            (("p1", "a"), ("p2", "a"), "user 'a'"),
            (("The  same.", "a"), ("the SAME", "b"), "prompt 'the same'"),
            ((LONG + "1", "a"), (LONG + "2", "b"), "prefix of 100 characters"),
        ],
    )
    def test_names_both_ids(self, train, test, what):
        splits = {
            "train": [Submission("other", "first", "c"), Submission(train[0], "one", train[1])],
            "test": [Submission(test[0], "two", test[1])],
        }
        with pytest.raises(DataError) as error:
            check_leakage(splits)
        assert str(error.value).startswith(what)
        assert "'train' with 'one' and 'test' with 'two'" in str(error.value)

    def test_a_template_below_the_limit_is_no_leak(self):
        check_leakage({"train": sent(LONG[1:] + "1"), "test": sent(LONG[1:] + "2", user="v")})

    def test_the_same_split_may_share(self):
        check_leakage({"train": sent("p", "p"), "test": []})

    def test_keys_of_the_caller(self):
        splits = {
            "train": sent("p", user="a"),
            "valid": sent("q", user="b"),
            "test": sent("r", user="c"),
        }
        facts = {"p": ["moon/age"], "q": ["moon/age", "sun/age"], "r": ["sun/age"]}

        def keys(submission):
            return facts[submission.prompt]

        with pytest.raises(DataError, match=r"key 'moon/age' .*'a-0' and 'valid' with 'b-0'"):
            check_leakage(splits, keys=keys)
        with pytest.raises(DataError, match=r"key 'sun/age' .*'b-0' and 'test' with 'c-0'"):
            check_leakage(splits, keys=keys, apart=[("train", "test"), ("valid", "test")])
        check_leakage(splits, keys=keys, apart=[("train", "test")])

    def test_a_key_of_all_three_splits_is_seen(self):
        splits = {name: sent(name, user=name) for name in ("train", "valid", "test")}
        with pytest.raises(DataError, match="'train-0' and 'test' with 'test-0'"):
            check_leakage(splits, keys=lambda s: ["k"], apart=[("train", "test")])


class TestScrub:
    def test_replaces_and_counts(self):
        made = sent("Write to ann@example.org about Io.", "What is Io?")
        kept, report = scrub(made)
        assert [s.prompt for s in kept] == ["Write to [EMAIL] about Io.", "What is Io?"]
        assert report.changed == {"EMAIL": 1} and report.examples == {"EMAIL": ("u-0",)}
        assert report.before == report.after == 2 and kept[1] is made[1]

    def test_history_too(self):
        made = sent("Why?", history=("I am at ann@example.org.", "Fine."))
        assert scrub(made)[0][0].history == ("I am at [EMAIL].", "Fine.")

    def test_known_places_are_dropped_where_the_text_changed(self):
        made = sent("ann@example.org asks", personal=((0, 15, "EMAIL"),))
        assert scrub(made)[0][0].personal == ()


def test_curate_runs_every_step_once_and_looks_for_duplicates_after_scrubbing():
    made = [
        Submission("Write to ann@example.org about the Moon.", "0", "a"),
        Submission("Write to bob@example.org about the Moon.", "1", "b"),
        Submission("Write to bob@example.org about the Moon!", "2", "b"),
        Submission("Schreib bitte einen kurzen Text über den Mond.", "3", "b"),
        *(Submission(f"What is number {i} of them?", f"c{i}", "c") for i in range(4)),
    ]
    splits, reports = curate(made, cap=3)
    assert [r.step for r in reports] == [
        "drop_shared_prefixes",
        "cap_per_user",
        "keep_language",
        "scrub",
        "drop_shared_prefixes",
        "split_by_user",
    ]
    assert [(r.before, r.after) for r in reports] == [
        (8, 7),
        (7, 6),
        (6, 5),
        (5, 5),
        (5, 4),
        (4, 4),
    ]
    assert sorted(s.id for part in splits.values() for s in part) == ["0", "c0", "c1", "c2"]
