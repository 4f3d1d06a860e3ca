"""Rows that join and leave engines of a batch: on the stand-in GPU each answers as the CPU session answers it alone."""

from __future__ import annotations

import random
from typing import Any

import ort_engine
import pytest
import stand_in
from growing import Growing
from ort_engine import Engines

from luvc_export.bundle.folder import Bundle
from luvc_export.core import graph_io
from luvc_export.demo.questions import cases
from luvc_export.errors import UsageError
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.engine.generate_batch import Ask, Prepared, answer_batch
from luvc_export.runtime.engine.host_slots import open_slots
from luvc_export.runtime.engine.job import Answer
from luvc_export.runtime.engine.prefill import prompt_of
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.model import DEVICE_CHOICE, TokensPrompt
from luvc_export.runtime.session import Session
from luvc_export.runtime.tensorrt import row_caches
from luvc_export.runtime.tensorrt.slots import TrtSlots

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


@pytest.fixture
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """What is asked for runs at once or, with "1", is put off."""
    if request.param:
        monkeypatch.setenv("STAND_IN_LAZY", request.param)
    monkeypatch.setenv("STAND_IN_BYTES", str(512 << 20))
    return Gpu(library=stand_in.library())


def session(engines: Engines, gpu: Gpu, **options: Any) -> tuple[Session, Any]:
    backend, opened = engines.backend(gpu, **options)
    session = Session(engines.bundle, backend, "thirds")
    session.default.ends = frozenset()
    return session, opened


def serve(ours: Session, asked: list[tuple[Ask, int]], seed: int = 0) -> list[tuple[int, ...]]:
    """Rows join at moments drawn by chance and leave when they end: every slot is used several times."""
    chance, batch = random.Random(seed), Growing(ours)
    rows: dict[int, Answer] = {}
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


@pytest.mark.parametrize(("gpu", "kv"), [("", "concat"), ("1", "inplace")], indirect=["gpu"])
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
    batch, brought = Growing(ours), []
    requests = [ours.prepare(ask["image"], ask["prompt"]) for ask, _ in asked[:SLOTS]]
    batch.join(requests, [9] * SLOTS)
    honest = eager.download
    monkeypatch.setattr(eager, "download", lambda *arguments: brought.append(arguments[2]) or honest(*arguments))
    for _ in range(8):
        batch.step()
    assert not batch.rows
    assert set(brought) == {256 + 4 * SLOTS}, "tokens at 0, their logits at 256"


@pytest.mark.parametrize(
    ("broken", "kv"),
    [("a row's mask", "concat"), ("a slot's offset", "concat"), ("a slot's offset", "inplace"),
     ("a place of a token", "inplace")],
)  # fmt: skip
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
        honest_feeds = TrtSlots._feeds

        def feeds(self: Any, tokens: Any, batch: int) -> Any:
            arrays = honest_feeds(self, tokens, batch)
            return {**arrays, graph_io.POSITION_IDS: 0 * arrays[graph_io.POSITION_IDS]}

        monkeypatch.setattr(TrtSlots, "_feeds", feeds)
    ours, _ = session(engines[kv], eager)
    assert serve(ours, asked) != alone


def joined(ours: Session, asked: list[tuple[Ask, int]]) -> tuple[TrtSlots, TokensPrompt]:
    slots: Any = open_slots(ours.default.graphs, several=True)
    request = ours.prepare(asked[0][0]["image"], asked[0][0]["prompt"])
    prompt = prompt_of(request, ours.default.encode_images(request.images))
    assert [one.slot for one in slots.join([prompt])] == [0]
    return slots, prompt


def sized(pictures: int, text: int) -> TokensPrompt:
    """A prompt of so many pictures and text tokens."""
    return TokensPrompt([0] * (pictures + text), pictures=pictures)


def test_what_does_not_fit_is_refused(engines: dict[str, Engines], eager: Gpu, asked: list[tuple[Ask, int]]) -> None:
    ours, _ = session(engines["concat"], eager)
    slots, prompt = joined(ours, asked)
    assert slots.answer_room(20) == 76
    assert [slots.room([sized(*one)]) for one in ((1, 20), (0, 20), (3, 20), (1, 97))] == [1, 0, 0, 0]
    with pytest.raises(UsageError, match=r"so many rows cannot join now\n(.|\n)*got: 2 rows(.|\n)*expected: at most 1"):
        slots.join([prompt, prompt])
    with pytest.raises(UsageError, match=r"a step takes a token of every row\n(.|\n)*got: \[0, 1\]\n  expected: \[0\]"):
        slots.step({0: [5], 1: [5]})
    with pytest.raises(UsageError, match="tokens that the step before chose are gone"):
        slots.step({0: DEVICE_CHOICE})
    slots._held[0] = slots._held[0]._replace(text=96)
    with pytest.raises(UsageError, match=r"do not hold so many text tokens\n  where: row 0\n  got: 96 held, 1 more"):
        slots.step({0: [5]})
    slots.leave(0)
    assert slots.room([sized(1, 20)] * 9) == SLOTS
    slots, _ = joined(session(engines["inplace"], eager)[0], asked)
    assert [slots.room([sized(*one)]) for one in ((1, 20), (0, 20), (2, 20))] == [1, 1, 1]


def test_an_answer_ends_where_the_engines_text_does(
    short_bundle: Bundle, eager: Gpu, asked: list[tuple[Ask, int]], alone: list[tuple[int, ...]]
) -> None:
    engine = ort_engine.describe(short_bundle, "thirds", "concat", ort_engine.Capacity(text=24, batch=2))
    ours, _ = session(engine, eager)
    requests = [ours.prepare(ask["image"], ask["prompt"]) for ask, _ in asked]
    short = min(requests, key=lambda request: len(request.token_ids))
    (answer,) = answer_batch([Prepared(ours.default, short, 60)], Sampling(), 0.0)
    assert answer.finish_reason == "length"
    assert len(answer.token_ids) == 24 - (len(short.token_ids) - 1)


def test_a_row_that_goes_away_leaves_its_slot(
    engines: dict[str, Engines], eager: Gpu, asked: list[tuple[Ask, int]], alone: list[tuple[int, ...]]
) -> None:
    for kv in FORMS:
        ours, _ = session(engines[kv], eager)
        batch = Growing(ours)
        requests = [ours.prepare(ask["image"], ask["prompt"]) for ask, _ in asked]
        gone, stays = batch.join(requests[:2], [9, 9])
        slot = batch.slot(gone)
        batch.step()
        batch.drop(gone)
        (new,) = batch.join(requests[3:4], [asked[3][1]])
        assert batch.slot(new) == slot and len(batch.rows) == 2
        while not new.ended:
            batch.step()
        assert tuple(new.chooser.ids) == alone[3]
        assert not gone.ended and (stays in batch.rows or stays.ended)


@pytest.mark.parametrize("kv", FORMS)
def test_an_answer_between_two_steps_changes_neither(
    engines: dict[str, Engines], eager: Gpu, asked: list[tuple[Ask, int]], alone: list[tuple[int, ...]], kv: str
) -> None:
    """It chooses tokens of its own, where those lay that the rows' step ahead had chosen."""
    ours, _ = session(engines[kv], eager)
    batch = Growing(ours)
    number = max(range(QUESTIONS), key=lambda index: asked[index][1])
    ask, length = asked[number]
    (row,) = batch.join([ours.prepare(ask["image"], ask["prompt"])], [length])
    while batch.rows:
        batch.step()
        other = ours.generate(asked[0][0]["image"], asked[0][0]["prompt"], max_new_tokens=asked[0][1])
        assert other.token_ids == alone[0]
    row.check()
    assert tuple(row.chooser.ids) == alone[number]
