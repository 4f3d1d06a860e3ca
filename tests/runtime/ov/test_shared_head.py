"""One head for two decoders: rows cut before the last norm, logits computed by the steps' half."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.core import graph_io
from luvc_export.runtime.backends import open_backend
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino.backend import OpenVinoBackend
from luvc_export.runtime.openvino.shared_head import head_alone, without_head
from luvc_export.runtime.session import Session

pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")


def opened(bundle: Bundle, shared: bool) -> Any:
    backend: Any = open_backend("openvino+openvino", bundle, "none", 1, arithmetic="fp32")
    if not shared:
        backend.prompts.head = backend.steps.head = None
    return backend


def logits(bundle: Bundle, backend: Any) -> list[np.ndarray]:
    """Of a prompt, every token of it, and of a step after it."""
    calls = Session(bundle, backend, "none").default
    whole = calls.run([97, 98, 99, 100], all_logits=True)
    return [whole.logits, calls.run([101], state=whole.state).logits, calls.run([101, 102], state=whole.state).logits]


@pytest.fixture(scope="module")
def honest(short_bundle: Bundle) -> list[np.ndarray]:
    """Logits of decoders with a head each."""
    return logits(short_bundle, opened(short_bundle, shared=False))


def test_logits_are_those_of_decoders_with_heads(
    short_bundle: Bundle, honest: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, vocab = opened(short_bundle, shared=True), short_bundle.manifest.decoder.vocab

    def furthest() -> float:
        pairs = zip(logits(short_bundle, backend), honest, strict=True)
        return max(float(np.abs(one - other).max() / np.abs(other).max()) for one, other in pairs)

    assert furthest() < 1e-4
    assert "_head" not in backend.prompts.__dict__
    for half in (backend.prompts, backend.steps):
        shapes = [port.get_partial_shape() for port in half._decoder.model.outputs]
        assert half._headless and all(shape[-1] != vocab for shape in shapes if shape.rank.is_static)
    assert backend.steps._head.model.outputs[0].get_partial_shape()[1] == vocab
    true = OpenVinoBackend.logits

    def turned(self: OpenVinoBackend, rows: Any) -> Any:
        """Sabotage: rows whose columns are turned round."""
        return true(self, devices.load_library().Tensor(np.flip(rows.data, -1).copy()))

    with monkeypatch.context() as patch:
        patch.setattr(OpenVinoBackend, "logits", turned)
        assert furthest() > 1e-2
    backend.unload()
    assert "_head" not in backend.steps.__dict__
    assert furthest() < 1e-4, "what was unloaded is loaded again"


def decoder(library: Any, rows_matter: bool = False, gathered: bool = True) -> Any:
    """Rows chosen among others, and a head; ``rows_matter``: an input changes scores behind it."""
    ops = library.opset13
    values, which = ops.parameter([-1, 8], library.Type.f32), ops.parameter([-1], library.Type.i64)
    rows = ops.gather(ops.abs(values), which, np.array(0, np.int64)) if gathered else ops.abs(values)
    scores = ops.matmul(rows, ops.constant(np.ones((5, 8), np.float32)), False, True)
    parameters = [values, which]
    if rows_matter:
        parameters.append(ops.parameter([5], library.Type.f32))
        scores = ops.add(scores, parameters[-1])
    result = ops.result(ops.reshape(scores, np.array([1, -1, 5]), False))
    result.get_output_tensor(0).set_names({graph_io.LOGITS})
    return library.Model([result], parameters if gathered else [parameters[0]])


@pytest.mark.parametrize("how", [{"rows_matter": True}, {"gathered": False}])
def test_what_cannot_be_cut_stays_whole(how: dict[str, bool]) -> None:
    library = devices.load_library()
    assert not without_head(decoder(library, **how)) and head_alone(library, decoder(library, **how)) is None


def test_two_parts_make_the_whole() -> None:
    library, random = devices.load_library(), np.random.default_rng(0)
    values, which = random.standard_normal((6, 8), np.float32), np.array([4, 1])
    model = decoder(library)
    assert without_head(model)
    parts = [model, head_alone(library, decoder(library)), decoder(library)]
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    body, head, whole = (devices.core().compile_model(part, "CPU", hint) for part in parts)
    rows = body([values, which])[0]
    assert rows.shape == (2, 8)
    assert np.array_equal(head([rows])[0], whole([values, which])[0][0])
