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
from family_harness import TOLERANCE, Case, case
from torch import Tensor

from luvc_export import contract
from luvc_export.export import families, trace
from luvc_export.export.decoder import Decoder

FAMILIES = families.built_in()


def _session(model: ir.Model) -> Any:
    onnxscript.optimizer.optimize_ir(model)
    trace.check(model)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", FAMILIES)
def test_onnx_equals_compressed_torch(name: str) -> None:
    """Vision; then prefill of two images, of text alone, and a decode step, all from one decoder graph."""
    tiny = case(name)
    plan, images = tiny.thirds, tiny.images(2)
    assert plan.merges
    assert plan.vision_tokens < plan.units
    assert [keep for _, _, keep in plan.prunes if keep]

    vision = tiny.vision(plan)
    seen = harness.see(tiny, plan, images, vision)
    found = _session(trace.trace_vision(vision, tiny.size, 1)).run(None, {contract.IMAGE: images.numpy()})
    assert harness.difference(found[0], seen[0]) < TOLERANCE
    assert harness.difference(found[1], seen[1]) < TOLERANCE
    assert np.array_equal(found[2], seen[2].numpy())

    decoder = tiny.family.decoder(tiny.model, plan)
    session = _session(trace.trace_decoder(decoder, harness.graph_shape(tiny), torch.float32))
    run = harness.lay_out(tiny, plan, tiny.prompt(2), *seen[:2])
    past, logits = _compare(tiny, session, decoder, run.inputs(), harness.empty_past(tiny))
    assert logits.std() >= 1
    after = harness.next_inputs(run, decoder, 5, run.layout.input_ids.shape[1] + 1)
    _compare(tiny, session, decoder, after, past)
    text = harness.lay_out(tiny, plan, tiny.prompt(0), *harness.see(tiny, plan, tiny.images(0))[:2])
    _compare(tiny, session, decoder, text.inputs(), harness.empty_past(tiny))


def _compare(
    tiny: Case, session: Any, decoder: Decoder, inputs: list[Tensor], past: list[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """Run both; logits, caches and kept tokens must agree. Return torch's caches and logits."""
    plan = decoder.plan
    with torch.no_grad():
        logits, presents, kept = decoder(*inputs, past)
    names = [*contract.DECODER_INPUTS, *contract.past_names(plan.layers)]
    feeds = {name: value.numpy() for name, value in zip(names, [*inputs, *past], strict=True)}
    used = {entry.name for entry in session.get_inputs()}
    found = session.run(None, {name: value for name, value in feeds.items() if name in used})
    assert harness.difference(found[0], logits) < TOLERANCE
    for cache, value in zip(presents, found[1 : 1 + len(presents)], strict=True):
        assert value.shape == tuple(cache.shape)
        assert np.allclose(value, cache.numpy(), atol=TOLERANCE, rtol=0)
    for chosen, value in zip(kept, found[1 + len(presents) :], strict=True):
        assert np.array_equal(value, chosen.numpy())
    return presents, logits
