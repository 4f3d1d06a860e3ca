"""What stays in fp32 where the arithmetic is narrower, and how the plug-in is told.

OpenVINO's CPU plug-in narrows every operator except what stands between the last products and an fp32 or integer
output ("tail of the graph", ``Graph::EnforceInferencePrecision``). Which is what we need: ``kept_indices`` and
``merged_into`` are outputs, so all that ranks tokens, from the last product on, stays in fp32: prune scores with their
spectrum, merge similarities, and in an encoder that merges the residual sums above them. Sines, cosines and angles of
positions stay in fp32 as well, and norms add up in fp32 whatever they read. The runtime model says what became of it
(``Compiled.precisions``), a test holds it.

What the tail does not reach is the LLM's residual stream: it is rounded after every sum. ``residual`` makes what enters
the last norm one more output, and the tail then reaches every sum.
"""

from __future__ import annotations

from typing import Any

#: Output that ``residual`` adds; nobody reads it.
RESIDUAL = "luvc.residual"


def residual(model: Any) -> bool:
    """Keep the residual stream of a decoder in fp32; False where no sum of activations is found."""
    sums = [node for node in model.get_ordered_ops() if node.get_type_name() == "Add" and _sums_activations(node)]
    if not sums:
        return False
    port = sums[-1].output(0)
    port.get_tensor().add_names({RESIDUAL})
    model.add_outputs([RESIDUAL])
    return True


def _sums_activations(node: Any) -> bool:
    """Neither side is a weight, cast or not, and both are floating-point of three dimensions."""
    for value in node.input_values():
        source = value.get_node()
        while source.get_type_name() in ("Convert", "Reshape", "Transpose", "Unsqueeze"):
            source = source.input_values()[0].get_node()
        if source.get_type_name() == "Constant" or not value.get_element_type().is_real():
            return False
    return len(node.output(0).get_partial_shape()) == 3
