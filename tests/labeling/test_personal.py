"""Personal data: finders against examples read by hand, precision and recall counted by hand."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirlhf.labeling.personal import TYPES, find, luhn, matches, replace, score


def found(text, **options):
    return [(text[start:end], kind) for start, end, kind in find(text, **options)]


class TestFind:
    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("My name is Ann Lee and I ask about Mars.", "Ann Lee"),
            ("Hi, I'm Zoë van der Berg.", "Zoë van der Berg"),
            ("Hello, this is Kwame from the night shift.", "Kwame"),
            ("Dear Mr. O'Neill, what is a star?", "O'Neill"),
            ("Dr Watanabe's question is hard.", "Watanabe"),
            ("What is the Sun?\nKind regards, Ann Lee", "Ann Lee"),
            ("Ann Lee (a@example.org) will read it.", "Ann Lee"),
            ("My sister Ann wants to know.", "Ann"),
            ("Ann Lee here again. What is Io?", "Ann Lee"),
        ],
    )
    def test_names(self, text, name):
        assert (name, "NAME") in found(text)

    @pytest.mark.parametrize(
        "text",
        [
            "Marie Curie found radium, and Isaac Newton did not.",
            "One evening, Noah met Iris at the lake.",
            "Thanks! Please tell me more. Who was Galileo Galilei?",
            "I am reading about Sherlock Holmes.",
            "Hello! What is the Moon?",
            "My dog Rover barks on Monday, 14 May 2021.",
            "In 1969 it flew 384,400 kilometres; 3.14159265358 is pi.",
            "My book has the ISBN 978-3-16-148410-0.",
            "This is for order 1234-56789-12.",
            "Please call about order 415555012.",
            "People read it on a phone. Input: I have 3.14159265358 on my shirt.",
            "My ticket number is 123451234512.",
            "We sent invoice number 49291234-56789123.",
            "In Spring 2018, Brown Foods and During 1976 were in the news.",
            "Version 10.11.12 is open 10:30 to 16:45.",
        ],
    )
    def test_decoys(self, text):
        assert found(text) == []

    @pytest.mark.parametrize(
        "phone",
        [
            "(303) 555-0142",
            "303-555-0142",
            "+1 303 555 0142",
            "020 7946 0231",
            "07700 900337",
            "+447700900331",
            "0171/3920033",
            "01 99 00 33 41",
            "(02) 5550 3344",
        ],
    )
    def test_phones(self, phone):
        assert found(f"Please call {phone} about Mars.") == [(phone, "PHONE")]

    @pytest.mark.parametrize(
        "card",
        ["4111 1111 1111 1111", "4111-1111-1111-1111", "5555555555554444", "3782 822463 10005"],
    )
    def test_cards(self, card):
        assert found(f"Bill my card {card} now.") == [(card, "CARD")]
        wrong = card[:-1] + str((int(card[-1]) + 1) % 10)
        assert (wrong, "CARD") not in found(f"Bill my card {wrong} now.")

    @pytest.mark.parametrize(
        "address",
        [
            "12 Maple Avenue, Springfield, IL 62704",
            "Flat 3, 9 Church Road, Leeds LS1 4XY",
            "Lindenstraße 17, 34117 Kassel",
            "14 bis, rue des Lilas, 37000 Tours",
            "Calle del Olmo 12, 3º B, 18001 Granada",
            "Via Garibaldi 14, 43121 Parma",
            "PO Box 47, Salem, OR 97301",
            "Kerkstraat 5, 1017 GA Amsterdam",
            "Storgatan 12, 114 55 Stockholm",
        ],
    )
    def test_addresses(self, address):
        assert found(f"I live at {address}. What is Io?") == [(address, "ADDRESS")]

    def test_mail(self):
        text = "Ask a.lee+moon@mail.example.co.uk, not @scienceclub."
        assert found(text) == [("a.lee+moon@mail.example.co.uk", "EMAIL")]

    def test_public_names_are_left_alone(self):
        assert found("My name is Sun Ra.", public={"Sun Ra"}) == []
        assert found("My name is Ra.", public={"Sun Ra"}) == []
        assert found("My name is Sunny Ra.", public={"Sun Ra"}) == [("Sunny Ra", "NAME")]

    @given(st.text("AnLe 12459-@.,:()\nMr", max_size=80))
    def test_spans_are_in_order_and_apart(self, text):
        spans = find(text)
        assert all(0 <= a < b <= len(text) and kind in TYPES for a, b, kind in spans)
        assert all(one[1] <= two[0] for one, two in pairwise(spans))
        assert find("") == []


def test_luhn_by_hand():
    # 79927398713, from the right: 3+7+9+7+9+7 = 42 odd places; doubled 1 8 3 2 9 -> 2 16 6 4 18,
    # digit sums 2+7+6+4+9 = 28; 42 + 28 = 70
    assert luhn("79927398713")
    assert not any(luhn(f"7992739871{digit}") for digit in "012456789")


def test_replace_from_the_back():
    text = "Ann met Bob."
    assert replace(text, [(0, 3, "NAME"), (8, 11, "NAME")]) == "[NAME] met [NAME]."
    assert replace(text, []) == text


class TestScore:
    def test_matches_needs_half_of_the_longer(self):
        # 0-10 and 5-10: 5 of 10 shared; 0-10 and 6-10: 4 of 10
        assert matches((0, 10, "NAME"), (5, 10, "NAME"))
        assert not matches((0, 10, "NAME"), (6, 10, "NAME"))
        assert not matches((0, 10, "NAME"), (0, 10, "EMAIL"))
        assert not matches((0, 5, "NAME"), (6, 9, "NAME"))

    def test_by_hand(self):
        planted = [[(0, 10, "NAME"), (20, 30, "EMAIL")], [(0, 4, "NAME")], []]
        guess = [[(0, 8, "NAME"), (20, 30, "NAME")], [], [(1, 3, "NAME")]]
        scores = score(guess, planted)
        name, mail = scores["NAME"], scores["EMAIL"]
        # names: of three found one is right; of two planted one is hit, 8 of 14 characters
        assert (name.found, name.right, name.planted, name.hits) == (3, 1, 2, 1)
        assert name.precision == pytest.approx(1 / 3) and name.recall == 0.5
        assert name.covered == pytest.approx(8 / 14)
        # the mail address was taken for a name: no hit, but all of it is gone
        assert (mail.precision, mail.recall, mail.covered) == (1.0, 0.0, 1.0)
        assert (scores["CARD"].precision, scores["CARD"].recall) == (1.0, 1.0)

    def test_needs_an_entry_per_text(self):
        with pytest.raises(ValueError, match="1 texts were searched, 2 planted"):
            score([[]], [[], []])
