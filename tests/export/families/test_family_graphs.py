"""The default plan, merging and pruning: each family's ONNX graphs answer as its compressed torch modules do."""

from __future__ import annotations

from typing import Any

import family_harness as harness
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import onnxscript.optimizer
import pytest
import torch
from family_harness import TOLERANCE, case

from luvc_export import contract
from luvc_export.export import families, trace

FAMILIES = families.built_in()


def _session(model: ir.Model) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", FAMILIES)
def test_onnx_equals_compressed_torch(name: str) -> None:
    tiny = case(name)
    plan, images, ids = tiny.thirds, tiny.images(2), tiny.prompt(2)
    assert plan.merges
    assert plan.vision_tokens < plan.units
    assert [keep for _, _, keep in plan.prunes if keep]
    vision, decoder = tiny.vision(plan), tiny.family.decoder(tiny.model, plan)
    graphs = [
        trace.trace_vision(vision, tiny.size, 1),
        trace.trace_decoder(decoder, harness.graph_shape(tiny), torch.float32),
    ]
    for graph in graphs:
        onnxscript.optimizer.optimize_ir(graph)
        trace.check(graph)

    seen = harness.see(tiny, plan, images, vision)
    found = _session(graphs[0]).run(None, {contract.IMAGE: images.numpy()})
    assert harness.difference(found[0], seen[0]) < TOLERANCE
    assert harness.difference(found[1], seen[1]) < TOLERANCE
    assert np.array_equal(found[2], seen[2].numpy())

    run = harness.lay_out(tiny, plan, ids, *seen[:2])
    past = harness.empty_past(tiny)
    with torch.no_grad():
        expected, presents, kept = decoder(*run.inputs(), past)
    names = [*contract.DECODER_INPUTS, *contract.past_names(plan.layers)]
    feeds = {name: value.numpy() for name, value in zip(names, [*run.inputs(), *past], strict=True)}
    session = _session(graphs[1])
    used = {entry.name for entry in session.get_inputs()}
    found = session.run(None, {name: value for name, value in feeds.items() if name in used})
    assert harness.difference(found[0], expected) < TOLERANCE
    for cache, value in zip(presents, found[1 : 1 + len(presents)], strict=True):
        assert harness.difference(value, cache) < TOLERANCE
    for chosen, value in zip(kept, found[1 + len(presents) :], strict=True):
        assert np.array_equal(value, chosen.numpy())
    assert expected.std() >= 1
