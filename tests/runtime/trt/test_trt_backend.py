"""The same Session on engines: whole answers equal to ONNX Runtime's, on the stand-in GPU (see ort_engine)."""

from __future__ import annotations

import dataclasses
import gc
import warnings
from typing import Any, cast

import numpy as np
import ort_engine
import pytest
import stand_in
from ort_engine import Engines

from luvc_export.bundle.folder import Bundle
from luvc_export.calibration.tasks import find
from luvc_export.core import graph_io
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.cuda.pool import Block, Lease
from luvc_export.runtime.cuda.tensor import GpuTensor
from luvc_export.runtime.host.cache import HostCache
from luvc_export.runtime.session import Session
from luvc_export.runtime.state import State

CAPACITY = Capacity(text=96, groups=2, logits=96)
FORMS = ("concat", "inplace")


@pytest.fixture(scope="module")
def engines(short_bundle: Bundle) -> dict[str, Engines]:
    return {kv: ort_engine.describe(short_bundle, "thirds", kv, CAPACITY) for kv in FORMS}


@pytest.fixture(scope="module")
def expected(short_bundle: Bundle) -> Session:
    return Session(short_bundle, plan="thirds", threads=1)


@pytest.fixture(scope="module")
def question() -> tuple[Any, str]:
    task = find("glyph")
    case = next(case for case in task.cases(task.report[0], 20, 5) if len(case.images) == 1)
    return case.images[0], case.prompt


@pytest.fixture
def gpu() -> Gpu:
    return Gpu(library=stand_in.library())


def session(engines: Engines, gpu: Gpu, **options: Any) -> tuple[Session, dict[str, Any]]:
    backend, opened = engines.backend(gpu, **options)
    return Session(engines.bundle, backend, "thirds"), opened


@pytest.mark.parametrize("kv", FORMS)
def test_an_answer_is_ort_s(
    engines: dict[str, Engines], expected: Session, gpu: Gpu, question: tuple[Any, str], kv: str
) -> None:
    image, prompt = question
    ours, opened = session(engines[kv], gpu)
    theirs = expected.generate(image, prompt, max_new_tokens=6)
    for _ in range(2):
        got = ours.generate(image, prompt, max_new_tokens=6)
        assert (got.token_ids, got.visual_tokens) == (theirs.token_ids, theirs.visual_tokens)
    assert opened["decoder"].contexts == 2 and opened["vision"].contexts == 1
    assert set(ours.backend.placement()) == {"vision", "decoder"}


@pytest.mark.parametrize("kv", FORMS)
def test_logits_of_every_token_and_every_kept_index_are_ort_s(
    engines: dict[str, Engines], expected: Session, gpu: Gpu, question: tuple[Any, str], kv: str
) -> None:
    """Two images, then a token, all logits: what parity asks for."""
    ours, _ = session(engines[kv], gpu)
    image, prompt = question
    request = expected.prepare([image, image], prompt)
    steps = []
    for item in (expected, ours):
        first = item.default.run(request.token_ids, item.default.encode_images(request.images), all_logits=True)
        steps.append((first, item.default.run([5], state=first.state)))
    for theirs, got in zip(*steps, strict=True):
        np.testing.assert_allclose(got.logits, theirs.logits, rtol=1e-4, atol=1e-4)
        assert got.state.cache.lengths == theirs.state.cache.lengths
        assert {layer: rows.tolist() for layer, rows in got.kept.items()} == {
            layer: rows.tolist() for layer, rows in theirs.kept.items()
        }


@pytest.mark.parametrize("kv", FORMS)
def test_an_answer_that_is_held_can_be_gone_on_from(
    engines: dict[str, Engines], gpu: Gpu, question: tuple[Any, str], kv: str
) -> None:
    """A generation holds its state: its caches are not used for other answers while it lives."""
    ours, _ = session(engines[kv], gpu)
    backend: Any = ours.backend
    held = [ours.generate(*question, max_new_tokens=4) for _ in range(3)]
    assert len(backend._caches.blocks()) == 3 + (kv == "concat")
    assert len({id(answer.past.state.cache.block) for answer in held if answer.past}) == 3


@pytest.mark.parametrize("kv", FORMS)
def test_a_state_can_be_continued_twice(
    engines: dict[str, Engines], gpu: Gpu, question: tuple[Any, str], kv: str
) -> None:
    ours, _ = session(engines[kv], gpu)
    request = ours.prepare(*question)
    first = ours.default.run(request.token_ids, ours.default.encode_images(request.images))

    def then(state: State, *tokens: int) -> Any:
        for token in tokens:
            step = ours.default.run([token], state=state)
            state = step.state
        return step

    left = then(first.state, 5, 6)
    right = then(first.state, 7)
    assert not np.array_equal(left.logits, right.logits)
    np.testing.assert_array_equal(then(first.state, 5, 6).logits, left.logits)
    np.testing.assert_array_equal(then(right.state, 8).logits, then(first.state, 7, 8).logits)


def test_caches_take_what_was_planned_and_no_more(
    engines: dict[str, Engines], gpu: Gpu, question: tuple[Any, str]
) -> None:
    for kv, sets in (("concat", 2), ("inplace", 1)):
        ours, _ = session(engines[kv], gpu)
        backend: Any = ours.backend
        sizes = [ours.generate(*question, max_new_tokens=4).timings.kv_mib for _ in range(3)]
        planned = backend._kv
        assert planned.sets == sets == len(backend._caches.blocks())
        assert set(sizes) == {planned.region.nbytes / 2**20}
        assert len(backend._vision._blocks) == 1


def logits(ours: Session, question: tuple[Any, str], tokens: int) -> list[float]:
    """A prompt and then ``tokens`` given ones, whatever the model would say: their logits."""
    request = ours.prepare(*question)
    step = ours.default.run(request.token_ids, ours.default.encode_images(request.images))
    logits = [step.logits]
    for token in range(5, 5 + tokens):
        step = ours.default.run([token], state=step.state)
        logits.append(step.logits)
    return list(np.concatenate(logits).ravel())


def test_single_tokens_are_replayed_from_a_graph(
    engines: dict[str, Engines], gpu: Gpu, question: tuple[Any, str]
) -> None:
    """The engine is put on the stream twice for tokens, plainly and into the graph; all others are launches."""
    wanted = logits(session(engines["inplace"], gpu, graphs=False)[0], question, 6)
    ours, opened = session(engines["inplace"], gpu)
    backend: Any = ours.backend
    enqueued = []
    for _ in range(3):
        assert logits(ours, question, 6) == wanted
        enqueued.append(len(opened["decoder"]._calls))
        assert next(iter(backend._decoder._decode.values()))[0].replay.graph is not None
    assert enqueued == [1 + 2, 3 + 1, 4], "the second prompt is captured, the third replayed"
    assert opened["decoder"].runs == 3 * 7
    assert backend._decoder._prefill.replay.graph is not None


def test_growing_caches_are_not_captured(engines: dict[str, Engines], gpu: Gpu, question: tuple[Any, str]) -> None:
    wanted = logits(session(engines["concat"], gpu, graphs=False)[0], question, 4)
    ours, _ = session(engines["concat"], gpu)
    backend: Any = ours.backend
    for _ in range(3):
        assert logits(ours, question, 4) == wanted
    assert next(iter(backend._decoder._decode.values()))[0].replay.graph is None
    assert backend._decoder._prefill.replay.graph is not None


def test_a_graph_goes_when_shapes_change(engines: dict[str, Engines], gpu: Gpu, question: tuple[Any, str]) -> None:
    ours, _ = session(engines["inplace"], gpu)
    longer = (question[0], question[1] + " Now.")
    wanted = [logits(session(engines["inplace"], gpu, graphs=False)[0], asked, 2) for asked in (question, longer)]
    for index in (0, 0, 1, 0, 1, 1, 1, 0):
        assert logits(ours, (question, longer)[index], 2) == wanted[index]


def test_without_capture_it_warns_once_and_answers(
    engines: dict[str, Engines], gpu: Gpu, question: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = logits(session(engines["inplace"], gpu)[0], question, 5)
    monkeypatch.setenv("STAND_IN_NO_CAPTURE", "1")
    ours, _ = session(engines["inplace"], gpu)
    says = r"no CUDA graph, steps are launched one by one(.|\n)*CAPTURE_UNSUPPORTED"
    with pytest.warns(RuntimeWarning, match=says) as seen:
        assert logits(ours, question, 5) == wanted
    assert len(seen) == 1


def test_a_caller_s_stream_and_pictures_on_the_gpu(
    engines: dict[str, Engines], gpu: Gpu, question: tuple[Any, str]
) -> None:
    stream = gpu.new_stream()
    ours, _ = session(engines["inplace"], gpu, stream=stream)
    backend: Any = ours.backend
    assert backend._stream == stream
    images = ours.prepare(*question).images
    block, host = gpu.allocate(images.nbytes, "test"), gpu.pinned(images.nbytes)
    host.array()[:] = images.reshape(-1)
    gpu.upload(block.address, host.address, images.nbytes, stream)
    there = GpuTensor(gpu, Lease(Block(block)), images.shape, "uint8", stream)
    wanted, got = backend.vision(images), backend.vision(there)
    for name, value in wanted.items():
        np.testing.assert_array_equal(np.asarray(got[name]), np.asarray(value))
    assert wanted[graph_io.VISUAL_EMBEDS].address != got[graph_io.VISUAL_EMBEDS].address, "both are held"


def test_embeddings_may_come_from_the_host(engines: dict[str, Engines], gpu: Gpu, question: tuple[Any, str]) -> None:
    ours, _ = session(engines["concat"], gpu)
    request = ours.prepare(*question)
    seen = ours.default.encode_images(request.images)
    copied = dataclasses.replace(seen, embeds=np.asarray(seen.embeds))
    logits = [ours.default.run(request.token_ids, item).logits for item in (seen, copied)]
    np.testing.assert_array_equal(*logits)


def test_what_does_not_fit_is_refused(engines: dict[str, Engines], gpu: Gpu, question: tuple[Any, str]) -> None:
    ours, _ = session(engines["inplace"], gpu)
    backend: Any = ours.backend
    request = ours.prepare(*question)
    seen = ours.default.encode_images(request.images)
    first = ours.default.run(request.token_ids, seen)
    with pytest.raises(UsageError, match=r"take images with the first call of a conversation only\n(.|\n)*--kv concat"):
        ours.default.run(request.token_ids, seen, first.state)
    with pytest.raises(UsageError, match=r"do not hold so many text tokens\n.*\n.* held, 96 more\n.*at most 96"):
        ours.default.run([5] * 96, state=first.state)
    with pytest.raises(UsageError, match=r"does not fit the engine\n.*image, profile 'image'\n.*\n.*to \[2"):
        backend.vision(np.zeros((3, *request.images.shape[1:]), np.uint8))
    with pytest.raises(UsageError, match=r"pictures are bytes"):
        backend.vision(request.images.astype(np.float32))
    with pytest.raises(UsageError, match=r"another back-end"):
        backend.decode({}, HostCache((), cast(Any, None), ()))


def test_an_ordinary_answer_warns_of_nothing_and_leaves_no_memory(
    engines: dict[str, Engines], question: tuple[Any, str]
) -> None:
    gc.collect()
    gpu = Gpu(library=stand_in.library())
    free, _ = gpu.memory()
    ours, _ = session(engines["inplace"], gpu)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = ours.generate(*question, max_new_tokens=4)
    assert gpu.memory()[0] < free and answer.token_ids
    del ours, answer, _
    gc.collect()
    assert gpu.memory()[0] == free


def test_too_little_memory_for_another_state(
    engines: dict[str, Engines], gpu: Gpu, question: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _ = session(engines["inplace"], gpu)
    request = ours.prepare(*question)
    first = ours.default.run(request.token_ids, ours.default.encode_images(request.images))
    held = ours.default.run([5], state=first.state)
    monkeypatch.setenv("STAND_IN_BYTES", "1000")
    with pytest.raises(MachineError, match=r"not enough memory on the GPU\n.*caches and states"):
        ours.default.run([6], state=first.state)
    assert held.state.past_text
