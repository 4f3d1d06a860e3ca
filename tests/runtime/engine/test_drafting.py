"""Rows that take several tokens a step give the answers of plain decoding, whatever was drafted for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle
from luvc_export.runtime.engine import answers as loop
from luvc_export.runtime.engine import host_slots
from luvc_export.runtime.engine.answers import Answers, take_agreeing
from luvc_export.runtime.engine.drafting import Drafting
from luvc_export.runtime.engine.job import Answer, Job
from luvc_export.runtime.engine.prefill import prompt_of
from luvc_export.runtime.generation.result import Generation
from luvc_export.runtime.generation.sampler import Sampler, probabilities
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.generation.sequence import GreedyTokens, TokenSequence
from luvc_export.runtime.model import StepResult
from luvc_export.runtime.session import Session
from luvc_export.runtime.speculation.lookup import Lookup
from luvc_export.runtime.speculation.request import Speculation

LENGTH = 20
PROMPTS = ("where is red? where is red?", "colour of 3?", "row one column two row one column three", "zzz")
#: The bundled model's answers are short: these go on.
LONG: dict[str, Any] = {"min_new_tokens": LENGTH, "max_new_tokens": LENGTH}
#: Ways to choose; the drawn ones draw alike with and without drafts.
WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 0.7, "top_p": 0.9, "seed": 4, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
    {"logprobs": 2, "no_repeat_ngram_size": 4, "suppress_tokens": [100, 101]},
)


#: What engines do for drafts is to verify, pack and roll back; the rest is the same code on either.
ENGINES = pytest.mark.parametrize("plain", ["cpu", "openvino"], indirect=True)


@pytest.fixture(scope="module")
def plain(request: pytest.FixtureRequest, short_bundle: Bundle) -> Session:
    return Session(short_bundle, getattr(request, "param", "cpu"), "none", threads=1, arithmetic="fp32")


@pytest.fixture(scope="module")
def drafting(plain: Session) -> Session:
    return Session(plain.bundle, plain.backend, "none", speculate="lookup:6")


def half_right(answers: Sequence[Generation], seed: int = 0) -> Callable[..., list[int]]:
    """Drafts of random length that follow one of the answers and then, mostly, go wrong."""
    random = np.random.default_rng(seed)

    def propose(self: Lookup, tokens: Sequence[int], room: int, certain: Sequence[int] = ()) -> list[int]:
        for answer in answers:
            if list(answer.token_ids[: len(tokens)]) == list(tokens):
                draft = list(answer.token_ids[len(tokens) :])[: int(random.integers(7))]
                if draft and random.random() < 0.7:
                    wrong = int(random.integers(len(draft)))
                    draft[wrong] = (draft[wrong] + 1) % 250
                return draft[:room]
        return []

    return propose


def both(
    plain: Session, drafting: Session, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[list[Generation], list[Generation]]:
    """Plain answers, and those with drafts of which some tokens are right."""
    asked = {**LONG, **options}
    wanted = [plain.generate(None, prompt, **asked) for prompt in PROMPTS]
    monkeypatch.setattr(Lookup, "propose", half_right(wanted))
    return wanted, [drafting.generate(None, prompt, **asked) for prompt in PROMPTS]


def differ(wanted: Sequence[Generation], answers: Sequence[Generation]) -> int:
    """How many answers have other tokens, text or reasons to end."""
    parts = [[(one.token_ids, one.text, one.finish_reason) for one in some] for some in (wanted, answers)]
    return sum(one != other for one, other in zip(*parts, strict=True))


@pytest.mark.parametrize(("plain", "way"), [*(("cpu", way) for way in WAYS), ("openvino", WAYS[3])], indirect=["plain"])
def test_answers_are_those_of_plain_decoding(
    plain: Session, drafting: Session, monkeypatch: pytest.MonkeyPatch, way: dict[str, Any]
) -> None:
    wanted, answers = both(plain, drafting, monkeypatch, **way)
    assert differ(wanted, answers) == 0
    counts = [answer.timings.drafts for answer in answers]
    assert sum(one.accepted for one in counts if one) > 10, "some drafts were right"
    assert any(one.drafted > one.accepted for one in counts if one), "and some were wrong"
    for one, other in zip(wanted, answers, strict=True):
        data = other.timings.drafts
        assert one.timings.drafts is None and data is not None
        assert data.steps + data.accepted == len(other.token_ids) - 1 == other.timings.decode_tokens
        if one.logprobs is not None and other.logprobs is not None:
            near = [abs(a.logprob - b.logprob) for a, b in zip(one.logprobs, other.logprobs, strict=True)]
            assert max(near) < 1e-4, "fp32 sums in another order"


def test_its_own_drafts_too_and_fewer_steps(plain: Session, drafting: Session) -> None:
    saved = 0
    for prompt in PROMPTS:
        answer = drafting.generate(None, prompt, **LONG)
        assert answer.token_ids == plain.generate(None, prompt, **LONG).token_ids
        assert answer.timings.drafts is not None
        saved += answer.timings.drafts.accepted
    assert saved > 4, "beyond its answers the model begins to repeat itself"


def keep_all(state: Any, cache: Any, width: int, kept: NDArray[np.int64]) -> Any:
    """A wrong roll-back: the masked tokens stay."""
    rolled = honest(state, cache, width, kept)
    mask = np.concatenate([state.text_mask, np.ones((len(kept), width), np.bool_)], 1)
    return replace(rolled, text_mask=mask)


def count_all(state: Any, cache: Any, width: int, kept: NDArray[np.int64]) -> Any:
    """Another: every token fed counts, wherever the next one is placed."""
    return honest(state, cache, width, np.full_like(kept, width))


def one_less(state: Any, cache: Any, width: int, kept: NDArray[np.int64]) -> Any:
    """Another: the last token that agreed is forgotten."""
    return honest(state, cache, width, np.maximum(kept - 1, 1))


honest = host_slots.rolled_back


@pytest.mark.parametrize("broken", [keep_all, count_all, one_less])
def test_a_wrong_roll_back_moves_answers(
    plain: Session, drafting: Session, monkeypatch: pytest.MonkeyPatch, broken: Callable[..., Any]
) -> None:
    """Sabotage."""
    monkeypatch.setattr(host_slots, "rolled_back", broken)
    wanted, answers = both(plain, drafting, monkeypatch, temperature=1.0, seed=3)
    assert differ(wanted, answers) > 0


def unverified(answer: Answer, draft: Sequence[int], result: StepResult) -> int:
    """Takes what was drafted without asking the model."""
    logits = result.logits
    assert logits is not None
    for token in draft:
        if not answer.ended:
            answer.take(StepResult(None, None, np.eye(1, logits.shape[1], token, dtype=np.float32)[0] * 1000))
    if not answer.ended:
        answer.take(StepResult(None, None, logits[len(draft)]))
    return len(draft) + 1


def test_a_draft_accepted_unverified_moves_answers(
    plain: Session, drafting: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage."""
    monkeypatch.setattr(loop, "take_agreeing", unverified)
    wanted, answers = both(plain, drafting, monkeypatch)
    assert differ(wanted, answers) > 0


@ENGINES
def test_rows_of_a_batch_accept_their_own_counts(
    plain: Session, drafting: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [plain.generate(None, prompt, **LONG, temperature=1.0, seed=7) for prompt in PROMPTS]
    monkeypatch.setattr(Lookup, "propose", half_right(wanted))
    monkeypatch.setattr(host_slots, "MOST_MASKED", 5)
    asks: list[Any] = [{"prompt": prompt} for prompt in PROMPTS]
    answers = drafting.generate_batch(asks, **LONG, temperature=1.0, seed=7)
    assert differ(wanted, answers) == 0
    assert len({one.timings.drafts.accepted for one in answers if one.timings.drafts}) > 1


@ENGINES
def test_rows_come_and_go_between_steps(plain: Session, drafting: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server's do, with masked tokens in the caches of those that stay."""
    wanted = [plain.generate(None, prompt, **LONG) for prompt in PROMPTS]
    monkeypatch.setattr(Lookup, "propose", half_right(wanted))
    growing = answers_of(drafting)
    rows = [joined(growing, drafting, place, TokenSequence) for place in range(2)]
    for turn in range(2 * LENGTH):
        if turn in (1, 2):
            rows.append(joined(growing, drafting, turn + 1, TokenSequence))
        growing.leave(growing.ended)
        if not growing.growing:
            break
        stepped, counts = growing.step()
        assert counts is not None and counts.steps == len(stepped) > 0
    assert [tuple(row.chooser.ids) for row in rows] == [one.token_ids for one in wanted]


def answers_of(drafting: Session) -> Answers:
    return Answers(drafting.default.graphs, several=True, drafting=Drafting(drafting.default))


def joined(growing: Answers, session: Session, place: int, kind: Any = GreedyTokens) -> Answer:
    """An answer to a prompt, which has its first token."""
    request, loaded = session.prepare(None, PROMPTS[place]), session.default
    if kind is GreedyTokens:
        chooser: Any = GreedyTokens(9)
    else:
        chooser = TokenSequence(session.encoder, Sampling(**LONG), loaded.ends, LENGTH, request.token_ids)
    answer = Answer(chooser, Job(loaded, request, lambda room: [chooser]))
    (one,) = growing.slots.join([prompt_of(request)])
    growing.begin(one.slot, answer, one.logits)
    return answer


def test_stop_strings_and_budgets_end_inside_a_draft(
    plain: Session, drafting: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [plain.generate(None, prompt, **LONG, temperature=1.0, seed=3) for prompt in PROMPTS]
    stop = tuple(text for text in (one.text[5:7] for one in whole) if text.strip("\ufffd"))
    wanted, answers = both(plain, drafting, monkeypatch, temperature=1.0, seed=3, stop=stop)
    assert differ(wanted, answers) == 0 and "stop" in {one.finish_reason for one in answers}
    for length in (1, 2, 5):
        wanted, answers = both(plain, drafting, monkeypatch, max_new_tokens=length, min_new_tokens=length)
        assert differ(wanted, answers) == 0 and {len(one.token_ids) for one in answers} == {length}


def test_a_chat_goes_on_from_caches_that_were_rolled_back(
    plain: Session, drafting: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[list[Any]] = [[{"role": "user", "content": PROMPTS[0]}]]
    asked = {"max_new_tokens": 8, "min_new_tokens": 8}
    wanted = [plain.generate(messages=turns[0], **asked)]
    text = plain.encoder.tokenizer.decode(list(wanted[0].token_ids), skip_special_tokens=False)
    monkeypatch.setattr(Lookup, "propose", half_right(wanted))
    first = drafting.generate(messages=turns[0], **asked)
    turns.append([*turns[0], {"role": "assistant", "content": text}, {"role": "user", "content": "and?"}])
    second = drafting.generate(messages=turns[1], after=first, **asked)
    again = plain.generate(messages=turns[1], after=wanted[0], **asked)
    assert first.token_ids == wanted[0].token_ids and second.token_ids == again.token_ids
    assert second.reused == again.reused


class Drawn:
    """Tokens of a ``Sampler`` alone."""

    def __init__(self, sampler: Sampler) -> None:
        self.ids: list[int] = [0]
        self.budget, self.done, self.prompt, self._sampler = 10**6, False, (), sampler

    wants_logits = True

    @property
    def newest(self) -> int:
        return self.ids[-1]

    def certain(self) -> Sequence[int]:
        return ()

    def take(self, step: Any) -> None:
        self.ids.append(self._sampler(step.logits, len(self.ids), self.ids))


def chi_square(take: Callable[..., int], draft: int) -> float:
    """Of 1,500 first tokens after a draft of one, against the chances that the sampling options give it; 6 tokens."""
    sampling = Sampling(temperature=0.8, top_k=6, logit_bias={2: 1.0}, seed=11)
    logits = np.stack([np.array([0.0, 0.5, -0.5, 1.0, 0.2, -1.0, -3.0], np.float32)] * 2)
    row, counts = Answer(Drawn(Sampler(sampling))), np.zeros(7)
    for _ in range(1500):
        before = len(row.chooser.ids)
        take(row, [draft], StepResult(None, None, logits))
        counts[row.chooser.ids[before]] += 1
    biased = logits[0] + np.eye(1, 7, 2)[0]
    expected = 1500 * probabilities(biased.astype(np.float32), sampling)
    assert expected[6] == counts[6] == 0
    return float((((counts - expected) ** 2)[:6] / expected[:6]).sum())


@pytest.mark.parametrize("draft", [3, 5])
def test_drawn_tokens_have_the_distribution_they_had(draft: int) -> None:
    """5 degrees of freedom: above 20.5 once in a thousand seeds. A likely token is drafted, and an unlikely one."""
    assert chi_square(take_agreeing, draft) < 20.5
    assert draft != 5 or chi_square(unverified, draft) > 300


def test_a_row_that_fails_in_the_middle_of_a_draft_fails_alone() -> None:
    row = Answer(GreedyTokens(9))
    row.chooser.ids.append(1)
    row.chooser.take = lambda step: 1 / 0  # type: ignore[method-assign]
    assert take_agreeing(row, [1, 1], StepResult(None, None, np.zeros((3, 4), np.float32))) == 1
    assert isinstance(row.failed, ZeroDivisionError) and row.ended


def test_a_grammar_that_fails_ends_its_row_alone(drafting: Session) -> None:
    growing = answers_of(drafting)
    rows = [joined(growing, drafting, 1) for _ in range(2)]
    rows[0].chooser.certain = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    assert growing.step()[0] == rows and isinstance(rows[0].failed, ZeroDivisionError)
    assert [len(row.chooser.ids) for row in rows] == [1, 2] and rows[1].failed is None


def test_a_drafter_that_fails_ends_its_row_alone(drafting: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller model reads the request too, and may refuse it or run out of memory."""
    growing = answers_of(drafting)
    rows = [joined(growing, drafting, 1) for _ in range(2)]
    assert growing._drafting is not None
    monkeypatch.setattr(growing._drafting._drafter(rows[0]), "propose", lambda *asked: 1 / 0)
    assert growing.step()[0] == rows and isinstance(rows[0].failed, ZeroDivisionError)
    assert len(rows[0].chooser.ids) == 1 and len(rows[1].chooser.ids) > 1 and rows[1].failed is None


def test_a_grammar_drafts_what_it_leaves_no_choice_about(plain: Session, drafting: Session) -> None:
    pytest.importorskip("llguidance")
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "column": {"type": "boolean"}},
        "required": ["colour", "column"],
        "additionalProperties": False,
    }
    wanted = plain.generate(None, "x", json_schema=schema)
    answer = drafting.generate(None, "x", json_schema=schema)
    assert answer.token_ids == wanted.token_ids and answer.text == wanted.text
    counts = answer.timings.drafts
    assert counts is not None and counts.tokens_per_step is not None and counts.tokens_per_step > 2


def test_no_draft_is_longer_than_was_asked(drafting: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []
    real = drafting.backend.decode

    def watched(feeds: Any, cache: Any) -> Any:
        fed.append(feeds["input_ids"].shape[1])
        return real(feeds, cache)

    monkeypatch.setattr(drafting.backend, "decode", watched)
    assert drafting.default.speculation == Speculation(6)
    drafting.generate(None, PROMPTS[3], **LONG)
    assert max(fed[1:]) == 7
