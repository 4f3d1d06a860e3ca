"""The RMSNorm that ranks tokens and the next layer's input norm are one computation.

requires: fused prunes.
matches: an RMSNormalization of a prune's kept rows, of the same weight and epsilon as the prune's own.
apply: the layer reads the prune's ``kept_normed``. A norm is row by row, so gathering before or after it is the same:
bit-equal.
must not touch: a norm of another weight or epsilon, or of anything but the kept rows.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from luvc_export.core.operators import SPECTRUM_PRUNE
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.fused.node import FusedNode
from luvc_export.export.surgeon.graph import DOMAIN, Surgery, readers, source

ORDER = 50


def requires(surgery: Surgery) -> str | None:
    """At least one fused prune."""
    return None if _prunes(surgery) else "there is no fused prune"


def apply(surgery: Surgery) -> int:
    """Redirect each layer norm that repeats a prune's."""
    fired = 0
    surgery.graph.cleanup()
    for prune in _prunes(surgery):
        for norm in readers(prune.output("kept_values"), "RMSNormalization"):
            if not _same(norm.inputs[1], prune.input("norm_weight")):
                surgery.skip("a layer's norm has another weight than the prune's")
            elif abs(norm.attrs.get("epsilon", 1e-5) - prune.attribute("epsilon")) > 0:
                surgery.skip("a layer's norm has another epsilon than the prune's")
            else:
                surgery.replace(norm.outputs[0], prune.output("kept_normed"))
                fired += 1
    return fired


def ensures(surgery: Surgery, fired: int) -> None:
    """No layer repeats a prune's norm.

    Raises:
        CheckFailed: Names the norm.
    """
    surgery.graph.cleanup()
    for prune in _prunes(surgery):
        for norm in readers(prune.output("kept_values"), "RMSNormalization"):
            alike = norm.attrs.get("epsilon", 1e-5) == prune.attribute("epsilon")
            if alike and _same(norm.inputs[1], prune.input("norm_weight")):
                raise CheckFailed("a prune's norm is computed again", where=norm.name)


def _prunes(surgery: Surgery) -> list[FusedNode]:
    return [FusedNode(node) for node in surgery.nodes(SPECTRUM_PRUNE.name) if node.domain == DOMAIN]


def _same(first: gs.Tensor, second: gs.Tensor) -> bool:
    """The same tensor, or the same operator on the same tensor."""
    if first is second:
        return True
    a, b = source(first), source(second)
    if a is None or b is None or a.op != b.op or a.attrs != b.attrs:
        return False
    return len(a.inputs) == len(b.inputs) and all(_same(x, y) for x, y in zip(a.inputs, b.inputs, strict=True))
