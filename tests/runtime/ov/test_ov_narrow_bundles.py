"""Bundles in 16 bits on OpenVINO: plans that prune load in bf16, and answer nearly what they answer in fp32."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.demo import IMAGE_SIZE
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino import islands
from luvc_export.runtime.openvino.backend import OpenVinoBackend
from luvc_export.runtime.openvino.model import GraphReader
from luvc_export.runtime.session import Session

pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
#: Eight bits of fraction through three layers, against fp32 sums of the same 16-bit weights.
NEAR = 4e-2


@pytest.fixture
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any CPU compiles such graphs: where it has no products in bf16, the plug-in widens them itself."""
    cpu = dataclasses.replace(devices.find("CPU"), arithmetics=("fp32", "bf16"))
    monkeypatch.setattr(devices, "find", lambda name="": cpu)


def logits(bundle: Bundle, arithmetic: str) -> list[np.ndarray]:
    """Of a prompt with a picture, and of the step behind it."""
    session = Session(bundle, "openvino", "thirds", arithmetic=arithmetic, threads=1)
    picture = np.random.default_rng(0).integers(0, 256, (1, 1, *IMAGE_SIZE, 3), np.uint8)
    ids = [40, bundle.manifest.prompt.image_token_id, 41, 42]
    first = session.default.run(ids, session.default.encode_images(picture))
    return [first.logits, session.default.run([43], state=first.state).logits]


@pytest.mark.usefixtures("with_bf16")
def test_they_answer_in_bf16_what_they_answer_in_fp32(narrow_bundle: Bundle) -> None:
    pairs = zip(*(logits(narrow_bundle, arithmetic) for arithmetic in ("fp32", "bf16")), strict=True)
    for exact, near in pairs:
        assert np.linalg.norm(near - exact) < NEAR * np.linalg.norm(exact)


def test_a_graph_in_bf16_has_nothing_left_to_narrow(narrow_bundle: Bundle) -> None:
    """In fp16 the products of one layer and its attention are narrowed: seven of weights, as those of fp32."""
    graph = GraphReader(narrow_bundle).read(narrow_bundle.entry("thirds").decoder)
    count = islands.narrow_products(devices.load_library(), graph.model)
    assert count == {"fp16": 8, "bf16": 0}[narrow_bundle.manifest.dtype]


@pytest.mark.usefixtures("with_bf16")
def test_caches_are_kept_in_the_arithmetic(narrow_bundle: Bundle) -> None:
    backend = OpenVinoBackend(narrow_bundle, narrow_bundle.entry("thirds"), arithmetic="bf16", threads=1)
    kinds = {kind for name, (kind, _) in backend._decoder.inputs.items() if name.startswith("past_key_values")}
    assert kinds == {devices.load_library().Type.bf16}
