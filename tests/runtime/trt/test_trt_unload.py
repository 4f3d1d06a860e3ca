"""Engines that are unloaded and loaded again: what is given back, what stays, and who makes room for whom."""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import onnxruntime as ort
import ort_engine
import pytest
import stand_in
from growing import Growing
from ort_engine import Engines, OrtEngine

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import EngineFile, Footprint
from luvc_export.demo.questions import cases
from luvc_export.errors import MachineError
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.engine.job import Answer
from luvc_export.runtime.generation.plan_residency import PlanResidency
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.session import Session
from luvc_export.runtime.tensorrt.backend import TrtBackend
from luvc_export.runtime.tensorrt.cache_memory import CacheMemory

FORMS, WEIGHTS, SLOTS = ("concat", "inplace"), 8 << 20, 3


class Weighing:
    """An engine whose weights are on the GPU as long as it, or a context of it, is there."""

    layers, captures_itself = 1, False

    def __init__(self, gpu: Gpu, engine: OrtEngine) -> None:
        self.engine, self.weights, self.saved = engine, gpu.allocate(WEIGHTS, "weights"), 0
        self.scratch_bytes = engine.scratch_bytes

    def context(self, profile: int, stream: int) -> Context:
        return Context(self)

    def save_runtime_cache(self) -> None:
        self.saved += 1


class Context:
    """Keeps its engine, as TensorRT's do."""

    def __init__(self, engine: Weighing) -> None:
        self._engine = engine

    def set_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        return self._engine.engine.set_shapes(shapes)

    def enqueue(self, addresses: Mapping[str, int], scratch: int, stream: int) -> None:
        self._engine.engine.enqueue(addresses, scratch, stream)


class Opener:
    """Opens engines of one back-end; remembers how often, and what was saved of each."""

    def __init__(self, gpu: Gpu, engines: Engines) -> None:
        self.gpu, self.engines, self.opened, self.saves = gpu, engines, list[str](), list[int]()
        self._ort: dict[str, OrtEngine] = {}

    def __call__(self, file: EngineFile) -> Weighing:
        name = file.file.split(".")[0]
        if name not in self._ort:
            folder = self.engines.bundle.folder
            known = lambda model, options, providers: session(model, str(folder))  # noqa: E731
            self._ort[name] = OrtEngine(self.gpu, self.engines.models[name], folder, file, session=known)
        weighing = Weighing(self.gpu, self._ort[name])
        self.opened.append(name)
        number = len(self.saves)
        self.saves.append(0)
        weighing.save_runtime_cache = lambda: self.saves.__setitem__(number, self.saves[number] + 1)  # type: ignore[method-assign]
        return weighing


@pytest.fixture(scope="module")
def engines(unpadded_bundle: Bundle) -> dict[str, Engines]:
    """Of two layers, in each form; with room for rows too."""
    one, several = (ort_engine.Capacity(text=96, groups=2, batch=batch) for batch in (1, SLOTS))
    forms = {kv: ort_engine.describe(unpadded_bundle, "thirds", kv, one) for kv in FORMS}
    return forms | {f"{kv} rows": ort_engine.describe(unpadded_bundle, "thirds", kv, several) for kv in FORMS}


@functools.cache
def session(model: bytes, folder: str) -> Any:
    """ONNX Runtime's, which a call leaves as it was: opened once for all tests."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@pytest.fixture(autouse=True)
def counted() -> Iterator[None]:
    """What only the collector would give back counts as kept."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    monkeypatch.setenv("STAND_IN_BYTES", str(512 << 20))
    return Gpu(library=stand_in.library())


def opened(engines: Engines, gpu: Gpu, **footprint: int) -> tuple[TrtBackend, Opener]:
    bundle, opener = engines.bundle, Opener(gpu, engines)
    if footprint:
        entry = replace(bundle.manifest.engines[0], footprint=Footprint(**{**NOTHING, **footprint}))
        bundle = Bundle(bundle.folder, replace(bundle.manifest, engines=(entry,)))
    return TrtBackend(bundle, engines.plan, gpu=gpu, opener=opener), opener


NOTHING = {"weights": 0, "kv": 0, "activations": 0, "workspace": 0, "loading": 0}


def question(seed: int = 0) -> tuple[Any, str]:
    case = next(cases("heldout", 1, seed, ("where_is",)))
    return case.images[0], case.prompt


def held(gpu: Gpu) -> int:
    free, total = gpu.memory()
    return total - free


def kept_of(engines: Engines, gpu: Gpu) -> tuple[Any, int]:
    """A back-end that has answered, and the bytes that it held before."""
    backend, _ = opened(engines, gpu)
    before = held(gpu)
    Session(engines.bundle, backend, engines.plan).generate(*question(), max_new_tokens=4)
    assert held(gpu) > before + 2 * WEIGHTS
    return backend, before


@pytest.mark.parametrize("kv", FORMS)
def test_all_is_given_back_and_answers_stay_the_same(engines: dict[str, Engines], gpu: Gpu, kv: str) -> None:
    backend, opener = opened(engines[kv], gpu)
    before, session = held(gpu), Session(engines[kv].bundle, backend, "thirds")
    answers = []
    for _ in range(3):
        answers.append(session.generate(*question(), max_new_tokens=4).token_ids)
        backend.unload()
        assert held(gpu) == before and not backend.placement()
    assert len(set(answers)) == 1
    assert opener.opened == ["decoder", "vision"] * 3 and opener.saves == [1] * 6
    backend.unload()
    assert held(gpu) == before, "nothing is unloaded twice"


def test_runtime_caches_are_saved_once(engines: dict[str, Engines], gpu: Gpu) -> None:
    """At the unload, or when the back-end goes."""
    backend, opener = opened(engines["concat"], gpu)
    for _ in range(2):
        backend.load()
        assert opener.saves[-2:] == [0, 0]
        backend.unload()
    backend.load(images=False)
    del backend
    assert opener.saves == [1] * 5


@pytest.mark.parametrize("part", ["_decoder", "_vision", "_engines", "_scratch", "blocks"])
def test_an_unload_that_keeps_something_is_seen(
    engines: dict[str, Engines], gpu: Gpu, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, before = kept_of(engines["inplace"], gpu)
    if part == "blocks":
        monkeypatch.setattr(CacheMemory, "give_back", lambda self: None)
        kept = None
    else:
        value = getattr(backend, part)
        kept = dict(value) if isinstance(value, dict) else value
    backend.unload()
    assert held(gpu) > before
    del kept


@pytest.mark.parametrize("kv", FORMS)
def test_states_go_on_where_they_lie(engines: dict[str, Engines], gpu: Gpu, kv: str) -> None:
    """The newest one, and one that has gone on already."""
    backend, _ = opened(engines[kv], gpu)
    session = Session(engines[kv].bundle, backend, "thirds")
    before, plan, request = held(gpu), session.default, session.prepare(*question())
    first = plan.run(request.token_ids, plan.encode_images(request.images))
    second = plan.run([5], state=first.state)
    wanted = [plan.run([6], state=second.state).logits, plan.run([7], state=first.state).logits]
    values = [array.copy() for array in backend.read_states(second.state.cache)]  # type: ignore[arg-type]
    backend.unload()
    assert 0 < held(gpu) - before < WEIGHTS, "caches alone"
    for asked, logits in zip((second, first), wanted, strict=True):
        token = 6 if asked is second else 7
        assert (plan.run([token], state=asked.state).logits == logits).all()
        backend.unload()
    for array, value in zip(backend.read_states(second.state.cache), values, strict=True):  # type: ignore[arg-type]
        assert (array == value).all()
    del first, second, asked
    backend.unload()
    assert held(gpu) == before


@pytest.mark.parametrize("kv", FORMS)
def test_an_answer_goes_on_that_was_unloaded_midway(engines: dict[str, Engines], gpu: Gpu, kv: str) -> None:
    """Its token that was on the way keeps neither engines nor their memory, and is not taken for a later one."""
    backend, opener = opened(engines[kv], gpu)
    session = Session(engines[kv].bundle, backend, "thirds")
    session.default.ends = frozenset()
    before = held(gpu)
    wanted = session.generate(*question(), max_new_tokens=8).token_ids
    for stop in (1, 3):
        stream = session.generate(*question(), max_new_tokens=8, stream=True)
        for _ in range(stop):
            next(stream, None)
        backend.unload()
        assert held(gpu) - before < WEIGHTS
        for _ in stream:
            pass
        assert stream.result.token_ids == wanted
    assert opener.opened == 2 * ["decoder", "vision"] + ["decoder"], "no picture comes after the first token"


class Batch(Growing):
    """Rows of a session, each about a question of its own."""

    def begin(self, seed: int, length: int = 6) -> Answer:
        self.session.default.ends = frozenset()
        (row,) = self.join([self.session.prepare(*question(seed))], [length])
        return row

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()


@pytest.mark.parametrize("kv", FORMS)
def test_rows_in_use_outlive_their_engines(engines: dict[str, Engines], gpu: Gpu, kv: str) -> None:
    """They go on in their block. One that is empty is given back, though whoever serves keeps the rows' object."""
    backend, _ = opened(engines[f"{kv} rows"], gpu)
    before, session = held(gpu), Session(engines[f"{kv} rows"].bundle, backend, "thirds")
    session.default.ends = frozenset()
    wanted = [session.generate(*question(seed), max_new_tokens=6).token_ids for seed in range(3)]
    backend.unload()
    batch = Batch(session)
    assert held(gpu) == before, "no row is there yet"
    rows = [batch.begin(seed) for seed in range(2)]
    batch.run(2)
    backend.unload()
    caches = held(gpu) - before
    assert 0 < caches < WEIGHTS
    rows.append(batch.begin(2))
    batch.run(1)
    backend.unload()
    assert held(gpu) - before == caches
    batch.run(6)
    assert [tuple(row.chooser.ids) for row in rows] == wanted
    backend.unload()
    assert held(gpu) == before, "no row is there any longer"
    row = batch.begin(0, 1)
    assert tuple(row.chooser.ids) == wanted[0][:1]
    assert not batch.rows


def test_chosen_tokens_of_before_are_not_taken_for_those_of_now(engines: dict[str, Engines], gpu: Gpu) -> None:
    """Calls are counted on, and memory of the newest tokens is another's."""
    backend, _ = opened(engines["inplace rows"], gpu)
    batch = Batch(Session(engines["inplace rows"].bundle, backend, "thirds"))
    batch.begin(0)
    batch.run(1)
    slots: Any = batch.answers.slots
    assert slots.can_choose([0])
    number = backend._caches.number
    backend.unload()
    assert not slots.can_choose([0]) and backend._caches.number > number


def two_plans(engines: dict[str, Engines], gpu: Gpu, most: int | None = None) -> list[LoadedPlan]:
    turns, plans = PlanResidency(most), []
    for name in FORMS:
        backend, _ = opened(engines[name], gpu, weights=2 * WEIGHTS)
        plans.append(LoadedPlan(engines[name].bundle, backend, engines[name].plan))
        plans[-1].residency = turns
    return plans


def is_loaded(plan: LoadedPlan) -> bool:
    return bool(plan.backend.placement())


def test_engines_that_do_not_fit_beside_others_take_their_place(
    engines: dict[str, Engines], gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two_plans(engines, gpu)
    one.load()
    other.load()
    assert is_loaded(one) and is_loaded(other), "memory holds both"
    for plan in (one, other):
        plan.backend.unload()  # type: ignore[attr-defined]
    monkeypatch.setenv("STAND_IN_BYTES", str(held(gpu) + 3 * WEIGHTS))
    one.load()
    with pytest.raises(MachineError, match="there is not enough memory on the GPU"):
        other.load(busy=[one])
    assert is_loaded(one) and not is_loaded(other)
    for plan, before in ((other, one), (one, other)):
        plan.warm_up()
        assert is_loaded(plan) and not is_loaded(before)
    monkeypatch.setenv("STAND_IN_BYTES", str(held(gpu) - 2 * WEIGHTS))
    one.backend.unload()  # type: ignore[attr-defined]
    with pytest.raises(MachineError, match=r"not enough memory on the GPU\n(.|\n)*for weights, caches and activations"):
        one.load()


def test_room_is_made_where_the_prediction_was_too_small(
    engines: dict[str, Engines], gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second engine of two finds no memory: nothing of it stays, the idle plan goes, and it is loaded anew."""
    one, other = two_plans(engines, gpu)
    backend, opener = opened(engines["inplace"], gpu, weights=1)
    other.backend = backend
    one.load()
    monkeypatch.setenv("STAND_IN_BYTES", str(held(gpu) + WEIGHTS * 3 // 2))
    before = held(gpu)
    with pytest.raises(MachineError, match=r"not enough memory on the GPU\n  where: weights"):
        other.load(busy=[one])
    gc.collect()  # the error's frames
    assert held(gpu) == before
    other.load()
    assert is_loaded(other) and not is_loaded(one)
    assert opener.opened == ["decoder"] * 2 + ["decoder", "vision"] and opener.saves == [1, 1, 0, 0]


@pytest.mark.parametrize(("most", "kept"), [(1, False), (2, True), (None, True)])
def test_so_many_plans_are_open(engines: dict[str, Engines], gpu: Gpu, most: int | None, kept: bool) -> None:
    one, other = two_plans(engines, gpu, most)
    one.load()
    assert other.waits_for([one]) != kept
    other.load()
    assert is_loaded(one) == kept and is_loaded(other)


def test_caches_that_stayed_are_not_asked_for_again(
    engines: dict[str, Engines], gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines["inplace"]
    backend, _ = opened(engine, gpu, kv=2 * WEIGHTS)
    session = Session(engine.bundle, backend, "thirds")
    answer = session.generate(*question(), max_new_tokens=2)
    backend.unload()
    cache = backend._caches.nbytes
    monkeypatch.setenv("STAND_IN_BYTES", str(held(gpu) + 2 * WEIGHTS - cache))
    backend._caches.check_fits(backend._entry.footprint, "engines")
    monkeypatch.setenv("STAND_IN_BYTES", str(held(gpu) + 2 * WEIGHTS - cache - 1))
    with pytest.raises(MachineError, match="not enough memory on the GPU"):
        backend._caches.check_fits(backend._entry.footprint, "engines")
    del answer
