"""One head for two decoders: rows cut before the last norm, logits computed by the steps' half."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.runtime.backends import open_backend
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino.backend import OpenVinoBackend
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
