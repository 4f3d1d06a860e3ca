"""Weights in bf16 that products read where the file lies: nothing packs them, until calls of a few rows are many."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.core import graph_io
from luvc_export.demo import IMAGE_SIZE
from luvc_export.errors import MachineError
from luvc_export.runtime import memory
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino import rewrites
from luvc_export.runtime.openvino.backend import FEW_ROWS, PACKED_AFTER, OpenVinoBackend
from luvc_export.runtime.openvino.model import GraphReader
from luvc_export.runtime.product_check import check as engines
from luvc_export.runtime.session import Session

pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
#: A layer's products: q, k, v, o, gate, up, down.
PRODUCTS = 7
NEAR = 2e-2


@pytest.fixture(autouse=True)
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with AMX: where there is none the plug-in widens what stands in bf16 itself."""
    cpu = dataclasses.replace(devices.find("CPU"), arithmetics=("fp32", "bf16"))
    monkeypatch.setattr(devices, "find", lambda name="": cpu)
    monkeypatch.setattr(devices, "cpu_features", lambda: ["AMX-BF16"])


def answer(bundle: Bundle, few: int = 0) -> tuple[list[np.ndarray], OpenVinoBackend]:
    """Logits of a prompt with a picture, of a step behind it, and of as many calls of two tokens."""
    session = Session(bundle, "openvino", "thirds", arithmetic="bf16", threads=1)
    picture = np.random.default_rng(0).integers(0, 256, (1, 1, *IMAGE_SIZE, 3), np.uint8)
    ids = [40, bundle.manifest.prompt.image_token_id, 41, 42]
    first = session.default.run(ids, session.default.encode_images(picture))
    steps = [first, *(session.default.run(some, state=first.state) for some in ([43], *[[43, 44]] * few))]
    assert isinstance(session.backend, OpenVinoBackend)
    return [step.logits for step in steps], session.backend


@pytest.mark.slow(
    beside="runtime/ov/test_weights_in_place.py::test_weights_are_packed_once_calls_of_a_few_rows_are_many"
)
@pytest.mark.parametrize("narrow_bundle", ["bf16"], indirect=True)
def test_nothing_is_packed_for_prompts_and_single_steps(narrow_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    placed, backend = answer(narrow_bundle)
    assert backend.in_place == PRODUCTS * narrow_bundle.manifest.decoder.layers + 1 and (
        backend._vision.weights and "_packed" not in backend.__dict__
    )
    held = {node.get_friendly_name() for node in backend._decoder.graph.model.get_ops()}
    assert not any("_proj" in name and name.endswith("weight") for name in held)
    monkeypatch.setattr(devices, "cpu_features", lambda: ["AVX512-BF16"])
    packed, backend = answer(narrow_bundle)
    assert not backend.in_place and not backend._vision.weights
    for one, other in zip(placed, packed, strict=True):
        assert np.linalg.norm(one - other) <= NEAR * np.linalg.norm(other)


@pytest.mark.parametrize("narrow_bundle", ["bf16"], indirect=True)
def test_weights_are_packed_once_calls_of_a_few_rows_are_many(narrow_bundle: Bundle) -> None:
    """Answers that decode together, and drafts, are such calls; whatever computes them, the numbers are near."""
    some, backend = answer(narrow_bundle, PACKED_AFTER)
    assert "_packed" not in backend.__dict__
    more, backend = answer(narrow_bundle, PACKED_AFTER + 1)
    assert not backend._packed.weights and backend._decoder.weights
    assert np.linalg.norm(more[-1] - some[-1]) <= NEAR * np.linalg.norm(some[-1])
    for rows, compiled in ((1, backend._decoder), (2, backend._packed), (FEW_ROWS.stop, backend._decoder)):
        assert backend._of_rows({graph_io.INPUT_IDS: np.zeros((1, rows), np.int64)}) is compiled
    backend.unload()
    assert not {"_packed", "_decoder"} & set(backend.__dict__)


@pytest.mark.slow(
    beside="runtime/ov/test_weights_in_place.py::test_weights_are_packed_once_calls_of_a_few_rows_are_many"
)
@pytest.mark.parametrize("narrow_bundle", ["bf16"], indirect=True)
@pytest.mark.parametrize("fits", [True, False])
def test_short_turns_of_a_chat_and_a_small_memory_pack_nothing(
    narrow_bundle: Bundle, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Single steps between few rows; and where packed weights do not fit, what they would have served is answered."""
    backend = OpenVinoBackend(narrow_bundle, narrow_bundle.entry("thirds"), arithmetic="bf16", threads=1)
    assert backend.in_place == 0  # not loaded yet, and not for being asked
    backend.load(images=False)
    turn, step = ({graph_io.INPUT_IDS: np.zeros((1, rows), np.int64)} for rows in (20, 1))
    for _ in range(2 * PACKED_AFTER):
        assert backend._of_rows(turn) is backend._of_rows(step) is backend._decoder

    def refuse(*_: object) -> None:
        raise MachineError("there is not enough memory", where="here", got="1 GiB", fix="more")

    if not fits:
        monkeypatch.setattr(memory, "require", refuse)
    decoders = [backend._of_rows(turn) for _ in range(PACKED_AFTER + 2)]
    assert decoders[-1] is (backend._packed if fits else backend._decoder) and decoders[0] is backend._decoder


@pytest.mark.parametrize("narrow_bundle", ["bf16"], indirect=True)
def test_a_cpu_that_computes_such_products_wrong_packs_weights(
    narrow_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held to an exact product of one row and of several before any weight is read so."""
    entry, product = narrow_bundle.entry("thirds"), engines.float_product()
    engines.openvino_in_place.cache_clear()
    assert OpenVinoBackend(narrow_bundle, entry, arithmetic="bf16", threads=1)._in_place
    wrong = dataclasses.replace(product, exact=tuple(1.1 * exact for exact in product.exact))
    monkeypatch.setattr(engines, "float_product", lambda: wrong)
    engines.openvino_in_place.cache_clear()
    backend = OpenVinoBackend(narrow_bundle, entry, arithmetic="bf16", threads=1)
    engines.openvino_in_place.cache_clear()
    assert not backend._in_place and not backend.in_place


@pytest.mark.parametrize("kind", ["short_bundle", "narrow_bundle"])
@pytest.mark.parametrize("narrow_bundle", ["bf16"], indirect=True)
def test_other_weights_stay_constants(short_bundle: Bundle, narrow_bundle: Bundle, kind: str) -> None:
    """What is not stored in bf16, and what would not outlive the model."""
    bundle = {"short_bundle": short_bundle, "narrow_bundle": narrow_bundle}[kind]
    graph, library = GraphReader(bundle).read(bundle.entry("thirds").decoder), devices.load_library()
    stored = {array.ctypes.data for array in graph.mapped} if kind == "short_bundle" else set[int]()
    assert graph.mapped
    before = len(graph.model.get_parameters())
    assert rewrites.read_in_place(library, graph.model, stored) == {}
    assert len(graph.model.get_parameters()) == before
