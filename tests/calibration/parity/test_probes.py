"""What enters a layer is found in the decoder's graph, however its weights are stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flat_plans import flat_plan
from onnx import TensorProto, helper, numpy_helper

from luvc_export.calibration.runners.probes import add_hidden_outputs, hidden_name
from luvc_export.core import graph_io


@pytest.mark.parametrize("slot", [False, True])
@pytest.mark.parametrize("stored", [np.float32, np.float16])
def test_a_bias_of_o_proj_is_no_residual(stored: Any, slot: bool) -> None:
    """Weights in 16 bits are widened first: what the bias is cast to was taken for what enters the layer.

    So was what an adapter's slot adds.
    """
    weight, bias = "layers.0.self_attn.o_proj.weight", "layers.0.self_attn.o_proj.bias"
    entering, wide = graph_io.VISUAL_EMBEDS, stored is np.float16
    _, factor = graph_io.lora_names(0, "o_proj")
    nodes = [
        *[helper.make_node("Cast", [name], [f"{name}.wide"], to=TensorProto.FLOAT) for name in (weight, bias) if wide],
        helper.make_node("Relu", [entering], ["attended"]),
        helper.make_node("MatMul", ["attended", f"{weight}.wide" if wide else weight], ["product"]),
        helper.make_node("Add", [f"{bias}.wide" if wide else bias, "product"], ["biased"]),
        *[helper.make_node("MatMul", ["ranks", factor], ["adapted"]) for _ in range(slot)],
        *[helper.make_node("Add", ["biased", "adapted"], ["both"]) for _ in range(slot)],
        helper.make_node("Add", [entering, "both" if slot else "biased"], ["out"]),
    ]
    tensors = [
        numpy_helper.from_array(np.ones((4, 4), stored), weight),
        numpy_helper.from_array(np.ones(4, stored), bias),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in (entering, "out")]
    model = helper.make_model(helper.make_graph(nodes, "decoder", values[:1], values[1:], tensors))
    assert add_hidden_outputs(model, flat_plan((2, 2), (4,), last_layer="full"))
    last = model.graph.node[-1]
    assert (last.op_type, list(last.input), list(last.output)) == ("Identity", [entering], [hidden_name(0)])
