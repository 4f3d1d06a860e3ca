"""Rows that join and leave engines of a batch: on the stand-in GPU each answers as the CPU session answers it alone."""

from __future__ import annotations

import random
import types
from typing import Any

import numpy as np
import ort_engine
import pytest
import stand_in
from luvc_export.runtime.generation.rows import Row
from luvc_export.runtime.generation.slot_rows import Slot, SlotRows
from luvc_export.runtime.tensorrt.rows import TrtRows
from ort_engine import Engines

from luvc_export.bundle.folder import Bundle
from luvc_export.core import graph_io
from luvc_export.core.token_layout import arrange
from luvc_export.demo.questions import cases
from luvc_export.errors import UsageError
from luvc_export.runtime import batching
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.generation.answer_batch import Ask, answer_batch
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.generation.sequence import TokenSequence
from luvc_export.runtime.model import RowToken, StepResult, TokensPrompt
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.session import Session
from luvc_export.runtime.state import join_features
from luvc_export.runtime.tensorrt import row_caches

FORMS = ("concat", "inplace")
SLOTS, QUESTIONS = 5, 16


@pytest.fixture(scope="module")
def engines(short_bundle: Bundle) -> dict[str, Engines]:
    capacity = {kv: ort_engine.Capacity(text=96, groups=2, batch=SLOTS) for kv in FORMS}
    return {kv: ort_engine.describe(short_bundle, "thirds", kv, capacity[kv]) for kv in FORMS}


@pytest.fixture(scope="module")
def asked() -> list[tuple[Ask, int]]:
    """Questions about one picture, of different lengths, and how many tokens each answer has."""
    kinds = ("digit_of_colour", "where_is")
    questions = [next(cases("heldout", 1, seed, (kinds[seed % 2],))) for seed in range(QUESTIONS)]
    words = [" please" * (seed % 4) for seed in range(QUESTIONS)]
    lengths = [1 + seed * 5 % 9 for seed in range(QUESTIONS)]
    return [
        ({"image": case.images[0], "prompt": case.prompt + word}, length)
        for case, word, length in zip(questions, words, lengths, strict=True)
    ]


@pytest.fixture(scope="module")
def alone(short_bundle: Bundle, asked: list[tuple[Ask, int]]) -> list[tuple[int, ...]]:
    """What the CPU session says to each by itself; no answer ends before its length."""
    session = Session(short_bundle, plan="thirds", threads=1)
    session.default.ends = frozenset()
    return [session.generate(**ask, max_new_tokens=length).token_ids for ask, length in asked]


@pytest.fixture(params=["", "1"], ids=["at once", "put off"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    if request.param:
        monkeypatch.setenv("STAND_IN_LAZY", request.param)
    monkeypatch.setenv("STAND_IN_BYTES", str(512 << 20))
    return Gpu(library=stand_in.library())


def session(engines: Engines, gpu: Gpu, **options: Any) -> tuple[Session, Any]:
    backend, opened = engines.backend(gpu, **options)
    session = Session(engines.bundle, backend, "thirds")
    session.default.ends = frozenset()
    return session, opened


class Batch(SlotRows):
    """Rows that leave as they end."""

    def __init__(self, ours: Session) -> None:
        super().__init__(ours.default.graphs)
        self.ours = ours

    def join(self, requests: list[Request], lengths: list[int]) -> list[Row]:
        ours = self.ours
        rows = [
            Row(TokenSequence(ours.encoder, Sampling(), ours.default.ends, length, request.token_ids))
            for request, length in zip(requests, lengths, strict=True)
        ]
        passages = [TokensPrompt(request.token_ids, blocks=request.blocks) for request in requests]
        step = self.prefill(
            rows, passages, join_features([ours.default.encode_images(*one.shown()) for one in requests])
        )
        for row, logits in zip(rows, step.logits, strict=True):
            row.take(StepResult(None, None, logits))
        self.change([row for row in rows if row.ended], [])
        return rows

    def step(self) -> list[Row]:
        stepped = super().step()
        self.change([row for row in stepped if row.ended], [])
        return stepped


def serve(ours: Session, asked: list[tuple[Ask, int]], seed: int = 0) -> list[tuple[int, ...]]:
    """Rows join at moments drawn by chance and leave when they end: every slot is used several times."""
    chance, batch = random.Random(seed), Batch(ours)
    rows: dict[int, Row] = {}
    for number, (ask, length) in enumerate(asked):
        request = ours.prepare(ask["image"], ask["prompt"])
        while not batch.room(request):
            batch.step()
        (rows[number],) = batch.join([request], [length])
        for _ in range(chance.randrange(3)):
            batch.step()
    while batch.rows:
        batch.step()
    for row in rows.values():
        row.check()
    return [tuple(rows[number].chooser.ids) for number in range(len(asked))]


@pytest.mark.parametrize("kv", FORMS)
def test_sixteen_rows_of_five_slots_say_what_each_says_alone(
    engines: dict[str, Engines], gpu: Gpu, asked: list[tuple[Ask, int]], alone: list[tuple[int, ...]], kv: str
) -> None:
    lengths = {len(ask["prompt"] or "") for ask, _ in asked}
    assert len(lengths) > SLOTS and len({len(ids) for ids in alone}) > SLOTS
    ours, opened = session(engines[kv], gpu)
    assert serve(ours, asked) == alone
    steps = sum(len(ids) - 1 for ids in alone)
    assert opened["decoder"].runs - QUESTIONS < steps, "rows share steps"


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    monkeypatch.setenv("STAND_IN_BYTES", str(512 << 20))
    return Gpu(library=stand_in.library())


@pytest.mark.parametrize("kv", FORMS)
def test_generate_batch_takes_any_number_of_any_number_of_pictures(
    engines: dict[str, Engines], eager: Gpu, short_bundle: Bundle, kv: str
) -> None:
    """Greedy and drawn; those without a picture stand beside the others where each row has masks of its own."""
    first, second, two = (
        next(cases("heldout", 1, seed, (kind,)))
        for seed, kind in enumerate(("digit_of_colour", "where_is", "two_pictures"))
    )
    asks: list[Ask] = [
        {"image": first.images[0], "prompt": first.prompt},
        {"prompt": "Hello"},
        {"image": list(two.images), "prompt": two.prompt},
        *({"image": second.images[0], "prompt": second.prompt + "!" * index} for index in range(SLOTS)),
    ]
    ours = Session(engines[kv].bundle, engines[kv].backend(eager)[0], "thirds")
    cpu = Session(short_bundle, plan="thirds", threads=1)
    for options in ({}, {"temperature": 0.5, "seed": 5}):
        together = ours.generate_batch(asks, max_new_tokens=8, **options)
        for row, ask in zip(together, asks, strict=True):
            own = cpu.generate(**ask, max_new_tokens=8, **options)
            assert (row.text, row.token_ids, row.finish_reason) == (own.text, own.token_ids, own.finish_reason)
            assert row.visual_tokens == own.visual_tokens
            assert {layer: kept.tolist() for layer, kept in row.selection.kept.items()} == {
                layer: kept.tolist() for layer, kept in own.selection.kept.items()
            }


def test_a_step_brings_tokens_and_no_logits(
    engines: dict[str, Engines], eager: Gpu, asked: list[tuple[Ask, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _ = session(engines["inplace"], eager)
    batch, brought = Batch(ours), []
    requests = [ours.prepare(ask["image"], ask["prompt"]) for ask, _ in asked[:SLOTS]]
    batch.join(requests, [9] * SLOTS)
    honest = eager.download
    monkeypatch.setattr(eager, "download", lambda *arguments: brought.append(arguments[2]) or honest(*arguments))
    for _ in range(8):
        batch.step()
    assert not batch.rows
    assert set(brought) == {256 + 4 * SLOTS}, "tokens at 0, their logits at 256"


@pytest.mark.parametrize("kv", FORMS)
@pytest.mark.parametrize("broken", ["a row's mask", "a slot's offset", "a place of a token"])
def test_sabotage(
    engines: dict[str, Engines],
    eager: Gpu,
    asked: list[tuple[Ask, int]],
    alone: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
    kv: str,
    broken: str,
) -> None:
    form: Any = row_caches.InplaceRows if kv == "inplace" else row_caches.ConcatRows
    if broken == "a row's mask":
        honest_step = form.step

        def step(self: Any, held: Any, batch: int) -> Any:
            caches, step_inputs = honest_step(self, held, batch)
            step_inputs[graph_io.TEXT_MASK][0] = False
            return caches, step_inputs

        monkeypatch.setattr(form, "step", step)
    elif broken == "a slot's offset":
        honest_piece = row_caches._Blocks.piece

        def piece(self: Any, memory: Any, room: int, name: str, slot: int, length: int) -> Any:
            return honest_piece(self, memory, room, name, (slot + 1) % room if room > 1 else slot, length)

        monkeypatch.setattr(row_caches._Blocks, "piece", piece)
    else:
        honest_token = Slot.token
        monkeypatch.setattr(
            Slot, "token", lambda self, index, token: honest_token(self, index, token)._replace(position=0)
        )
    ours, _ = session(engines[kv], eager)
    assert serve(ours, asked) != alone


def joined(ours: Session, asked: list[tuple[Ask, int]]) -> tuple[TrtRows, Any]:
    rows = ours.backend.open_rows()  # type: ignore[attr-defined]
    request = ours.prepare(asked[0][0]["image"], asked[0][0]["prompt"])
    seen = ours.default.encode_images(request.images)
    prompt = ours.bundle.manifest.prompt
    layout = arrange(
        list(request.token_ids), prompt.image_token_id, seen.positions, ours.plan.grid, prompt.position_kind
    )
    feeds = batching.feeds([layout], np.asarray(seen.embeds)[None], all_logits=False)
    slots, _ = rows.join(feeds)
    assert slots == [0]
    return rows, feeds


def test_what_does_not_fit_is_refused(engines: dict[str, Engines], eager: Gpu, asked: list[tuple[Ask, int]]) -> None:
    ours, _ = session(engines["concat"], eager)
    rows, feeds = joined(ours, asked)
    assert rows.capacity == SLOTS and rows.text_capacity == 96
    assert [rows.room(1, 20), rows.room(0, 20), rows.room(3, 20), rows.room(1, 97)] == [1, 0, 0, 0]
    two = {
        name: np.concatenate([array] * 2, 1 if name.endswith("position_ids") else 0) for name, array in feeds.items()
    }
    with pytest.raises(UsageError, match=r"so many rows cannot join now\n(.|\n)*got: 2 rows(.|\n)*expected: at most 1"):
        rows.join(two)
    with pytest.raises(UsageError, match=r"a step takes a token of every row\n(.|\n)*got: \[0, 1\]\n  expected: \[0\]"):
        rows.step({0: RowToken(5, 30, 30), 1: RowToken(5, 30, 30)})
    with pytest.raises(UsageError, match="tokens that the step before chose are gone"):
        rows.step({0: RowToken(None, 30, 30)})
    rows._held[0] = rows._held[0]._replace(text=96)
    with pytest.raises(UsageError, match=r"do not hold so many text tokens\n  where: row 0\n  got: 96 held, 1 more"):
        rows.step({0: RowToken(5, 30, 30)})
    rows.leave(0)
    assert rows.room(1, 20) == SLOTS
    rows, _ = joined(session(engines["inplace"], eager)[0], asked)
    assert [rows.room(1, 20), rows.room(0, 20), rows.room(2, 20)] == [1, 1, 1]


def test_an_answer_ends_where_the_engines_text_does(
    short_bundle: Bundle, eager: Gpu, asked: list[tuple[Ask, int]], alone: list[tuple[int, ...]]
) -> None:
    engine = ort_engine.describe(short_bundle, "thirds", "concat", ort_engine.Capacity(text=24, batch=2))
    ours, _ = session(engine, eager)
    requests = [ours.prepare(ask["image"], ask["prompt"]) for ask, _ in asked]
    short = min(requests, key=lambda request: len(request.token_ids))
    (answer,) = answer_batch(ours.default, [short], Sampling(), [60], 0.0)
    assert answer.finish_reason == "length"
    assert len(answer.token_ids) == 24 - (len(short.token_ids) - 1)


def test_a_row_that_goes_away_leaves_its_slot(
    engines: dict[str, Engines], eager: Gpu, asked: list[tuple[Ask, int]], alone: list[tuple[int, ...]]
) -> None:
    for kv in FORMS:
        ours, _ = session(engines[kv], eager)
        batch = Batch(ours)
        requests = [ours.prepare(ask["image"], ask["prompt"]) for ask, _ in asked]
        gone, stays = batch.join(requests[:2], [9, 9])
        slot = batch.slot(gone)
        batch.step()
        batch.change([gone], [])
        batch.change([gone], [])
        (new,) = batch.join(requests[3:4], [asked[3][1]])
        assert batch.slot(new) == slot and len(batch.rows) == 2
        while not new.ended:
            batch.step()
        assert tuple(new.chooser.ids) == alone[3]
        assert not gone.ended and (stays in batch.rows or stays.ended)


def test_a_back_end_without_rows_is_refused(short_bundle: Bundle) -> None:
    class Other:
        name = "other"

    with pytest.raises(UsageError, match=r"takes no rows that join and leave\n  where: backend other"):
        SlotRows(types.SimpleNamespace(backend=Other()))  # type: ignore[arg-type]


@pytest.mark.parametrize("kv", FORMS)
def test_an_answer_between_two_steps_changes_neither(
    engines: dict[str, Engines], eager: Gpu, asked: list[tuple[Ask, int]], alone: list[tuple[int, ...]], kv: str
) -> None:
    """It chooses tokens of its own, where those lay that the rows' step ahead had chosen."""
    ours, _ = session(engines[kv], eager)
    batch = Batch(ours)
    number = max(range(QUESTIONS), key=lambda index: asked[index][1])
    ask, length = asked[number]
    (row,) = batch.join([ours.prepare(ask["image"], ask["prompt"])], [length])
    while batch.rows:
        batch.step()
        other = ours.generate(asked[0][0]["image"], asked[0][0]["prompt"], max_new_tokens=asked[0][1])
        assert other.token_ids == alone[0]
    row.check()
    assert tuple(row.chooser.ids) == alone[number]
