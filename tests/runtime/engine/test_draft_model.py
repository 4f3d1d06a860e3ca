"""Drafts by a smaller model: the larger one's answers, whatever it drafts, and states that go back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.demo.questions import cases
from luvc_export.errors import BundleError, UsageError
from luvc_export.runtime.engine.drafting import DraftModel
from luvc_export.runtime.generation.timing import DraftCounts
from luvc_export.runtime.session import Session
from luvc_export.runtime.speculation.draft_costs import DraftCosts
from luvc_export.runtime.speculation.request import check_fits

CASES = [*cases("heldout", 3)]
LONG: dict[str, Any] = {"max_new_tokens": 16, "greedy": True}


@pytest.fixture(scope="module")
def plain(demo_bundle: Bundle) -> Session:
    return endless(Session(demo_bundle, "cpu", "none", threads=1))


def endless(session: Session) -> Session:
    """The bundled model's answers are short: here nothing ends them. Drafts cost nothing, so they are always made."""
    session.default.draft_costs = DraftCosts(0.0, clock=None)
    for loaded in (session.default, session.default.draft_model):
        if loaded is not None:
            loaded.ends = frozenset()
    return session


def drafted(demo_bundle: Bundle, plain: Session, plan: str, **options: Any) -> DraftCounts:
    """Counts of three answers drafted for by a plan of the same bundle, each checked to be the plain one."""
    named = f"draft:{demo_bundle.folder}#{plan}:4"
    session = endless(Session(demo_bundle, plain.backend, "none", threads=1, speculate=named))
    options = {**LONG, **options} if "temperature" not in options else {"max_new_tokens": 16, **options}
    counts = DraftCounts()
    for case in CASES:
        wanted = plain.generate(list(case.images), case.prompt, **options)
        answer = session.generate(list(case.images), case.prompt, **options)
        assert answer.token_ids == wanted.token_ids
        counts += answer.timings.drafts or DraftCounts()
    return counts


def accepted(counts: DraftCounts | None) -> float:
    assert counts is not None
    return counts.accepted / counts.drafted


def test_a_model_that_is_the_other_is_always_right(demo_bundle: Bundle, plain: Session) -> None:
    """Products of one row and of five differ in the last bits, of which no token here hangs."""
    counts = drafted(demo_bundle, plain, "none")
    assert accepted(counts) == 1 and counts.acceptance_length == counts.tokens_per_step
    assert counts.steps == len(CASES) * 3, "15 tokens after the first, five a step"


def test_another_is_sometimes_right(demo_bundle: Bundle, plain: Session) -> None:
    """With pictures compressed to half; and where tokens are drawn."""
    assert 0.1 < accepted(drafted(demo_bundle, plain, "even")) < 1
    assert 0 < accepted(drafted(demo_bundle, plain, "none", temperature=1.0, seed=5)) < 1


@pytest.mark.slow(beside="runtime/engine/test_draft_model.py::test_another_is_sometimes_right")
def test_a_state_that_does_not_go_back_drafts_badly(
    demo_bundle: Bundle, plain: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: answers stay right, drafts do not."""
    honest = drafted(demo_bundle, plain, "none", temperature=1.0, seed=5)

    def stay(self: DraftModel, text: Any) -> Any:
        return min(self._snapshots[-1][0], len(text) - 1), self._snapshots[-1][1]

    monkeypatch.setattr(DraftModel, "_back_to", stay)
    assert accepted(drafted(demo_bundle, plain, "none", temperature=1.0, seed=5)) < accepted(honest)


@pytest.mark.slow(beside="runtime/engine/test_draft_model.py::test_another_is_sometimes_right")
def test_rows_of_a_batch_have_drafts_of_their_own(demo_bundle: Bundle, plain: Session) -> None:
    session = endless(Session(demo_bundle, plain.backend, "none", speculate=f"draft:{demo_bundle.folder}#even:3"))
    asks: list[Any] = [{"image": list(case.images), "prompt": case.prompt} for case in CASES]
    together = session.generate_batch(asks, **LONG)
    assert [one.token_ids for one in together] == [plain.generate(**ask, **LONG).token_ids for ask in asks]


def test_a_model_that_reads_something_else_is_refused(demo_bundle: Bundle, bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="do not read the same requests") as caught:
        Session(demo_bundle, "cpu", "none", speculate=f"draft:{bundle.folder}")
    assert "another tokenizer, another vocabulary" in str(caught.value) and "--speculate lookup" in str(caught.value)


def test_a_plan_with_others_beside_it_is_refused(demo_bundle: Bundle) -> None:
    plans = demo_bundle.manifest.plans
    beside = {**plans, "even@small": replace(plans["even"], variant_of="even")}
    sized = replace(demo_bundle, manifest=replace(demo_bundle.manifest, plans=beside))
    check_fits(demo_bundle, "even", demo_bundle, "even")
    with pytest.raises(UsageError, match="has others beside it") as caught:
        check_fits(demo_bundle, "even", sized, "even")
    assert "even@small" in str(caught.value)


def test_a_bundle_without_a_tokenizer_is_refused(demo_bundle: Bundle) -> None:
    files = {name: file for name, file in demo_bundle.manifest.files.items() if name != "tokenizer.json"}
    bare = replace(demo_bundle, manifest=replace(demo_bundle.manifest, files=files))
    for draft, other in ((bare, demo_bundle), (demo_bundle, bare)):
        with pytest.raises(BundleError, match=r"does not list this file(.|\n)*tokenizer\.json"):
            check_fits(draft, "even", other, "even")


def watched(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pictures of each call of the smaller model's encoder."""
    draft, calls = session.default.draft_model, list[int]()
    assert draft is not None
    encode = draft.encode_images

    def counted(images: Any, *rest: Any) -> Any:
        calls.append(len(images))
        return encode(images, *rest)

    monkeypatch.setattr(draft, "encode_images", counted)
    return calls


def pictured(session: Session, **more: Any) -> Any:
    case = CASES[0]
    return session.generate(list(case.images), case.prompt, **LONG, **more)


@pytest.fixture
def shared(demo_bundle: Bundle, plain: Session) -> Session:
    """The plan drafts for itself: its encoder is its own."""
    return endless(Session(demo_bundle, plain.backend, "none", threads=1, speculate=f"draft:{demo_bundle.folder}#none"))


def test_an_equal_encoder_does_not_see_the_pictures_again(
    shared: Session, plain: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one answer, a chat's next turn, a batch; and the smaller model's vision graph is never loaded."""
    calls, case = watched(shared, monkeypatch), CASES[0]
    first, wanted = pictured(shared), pictured(plain)
    assert first.token_ids == wanted.token_ids and accepted(first.timings.drafts) == 1
    parts = [{"type": "image"}] * len(case.images) + [{"type": "text", "text": "where is red?"}]
    turns: list[Any] = [{"role": "user", "content": parts}]
    chat = shared.generate(list(case.images), messages=turns, **LONG)
    turns += [{"role": "assistant", "content": chat.text}, {"role": "user", "content": "and blue?"}]
    second = shared.generate(list(case.images), messages=turns, after=chat, **LONG)
    assert second.timings.drafts is not None and second.timings.drafts.accepted > 0
    asks: list[Any] = [{"image": list(case.images), "prompt": case.prompt} for case in CASES[:2]]
    both = shared.generate_batch(asks, **LONG)
    assert all(accepted(one.timings.drafts) == 1 for one in both if one.timings.drafts)
    draft = shared.default.draft_model
    assert calls == [] and draft is not None and "_vision" not in vars(draft.backend)


def test_a_question_without_pictures_has_drafts_too(demo_bundle: Bundle) -> None:
    """Of a pair with one encoder that merges, and so says which tokens are padding: of no picture there is none."""
    plain = endless(Session(demo_bundle, "cpu", "even", threads=1))
    named = f"draft:{demo_bundle.folder}#even"
    session = endless(Session(demo_bundle, plain.backend, "even", threads=1, speculate=named))
    answer = session.generate(None, "colour of 3?", **LONG)
    assert session.default.shares_features and accepted(answer.timings.drafts) == 1
    assert answer.token_ids == plain.generate(None, "colour of 3?", **LONG).token_ids


def test_another_encoder_sees_them_itself(demo_bundle: Bundle, plain: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session = endless(Session(demo_bundle, plain.backend, "none", speculate=f"draft:{demo_bundle.folder}#even"))
    calls = watched(session, monkeypatch)
    assert pictured(session).token_ids == pictured(plain).token_ids and calls == [len(CASES[0].images)]


def test_features_of_another_picture_draft_badly(shared: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: what is lent is what is drafted from."""
    honest = pictured(shared)
    monkeypatch.setattr(
        shared.default, "draft_features", lambda features, before=None: replace(features, embeds=0 * features.embeds)
    )
    other = pictured(shared)
    assert other.token_ids == honest.token_ids
    assert accepted(other.timings.drafts) < accepted(honest.timings.drafts)
