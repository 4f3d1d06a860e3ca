"""What only decides which rows stay is left in fp32 by a decoder in bf16, whether a fused node holds it or not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cut_checkpoint
import pytest
from slow_cases import slow_but

from luvc_export import export_bundle, make_plan
from luvc_export.bundle import folder as bundles
from luvc_export.demo import IMAGE_SIZE
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino import islands
from luvc_export.runtime.openvino.model import GraphReader

pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
#: A layer's products: q, k, v, o, gate, up, down.
PRODUCTS = 7


@pytest.mark.slow(beside="runtime/ov/test_openvino_backend.py::test_islands_stay_in_fp32_and_products_do_not")
@pytest.mark.parametrize("score", slow_but(["low"], ["scope", "low"]))
def test_what_only_decides_stays_in_fp32_fused_or_not(tmp_path: Path, score: str) -> None:
    """Products with weights, and attention, above a choice that no fused node holds are narrowed as well."""
    checkpoint = cut_checkpoint.write(tmp_path, 3, 2)
    cut_checkpoint.write_weights(checkpoint / "model.safetensors", 3, 2)
    plan = make_plan(str(checkpoint), [80, 20, 0], image_size=IMAGE_SIZE, score=score)
    export_bundle(str(checkpoint), tmp_path / "bundle", {"one": plan}, image_size=IMAGE_SIZE, text_capacity=256)
    bundle = bundles.load(tmp_path / "bundle")
    graph, library = GraphReader(bundle).read(bundle.entry("one").decoder), devices.load_library()
    before = {node.get_friendly_name() for node in graph.model.get_ops()}
    assert islands.narrow_products(library, graph.model) == PRODUCTS + 1
    narrow = [node for node in graph.model.get_ops() if node.get_output_element_type(0) == library.Type.bf16]
    kinds = Counter(node.get_type_name() for node in narrow if node.get_friendly_name() in before)
    assert (kinds["MatMul"], kinds["ScaledDotProductAttention"]) == (PRODUCTS, 1)
    chosen = [node.input_value(0) for node in graph.model.get_ops() if node.get_type_name() == "TopK"]
    assert chosen and all(value.get_element_type() != library.Type.bf16 for value in chosen)
