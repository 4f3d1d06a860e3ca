"""A decoder with slots for adapters, for as long as nobody has asked for one: without them.

ONNX Runtime computes a product of rank 0, writes its zeros out in full width and adds them; on OpenVINO it stands
between products that the plug-in would fuse.

requires: a decoder with slots, and a target that asks for one without (``TargetSpec.lora_slots``).
matches: what an export has from a factor to the sum beside a product: the choice of a row's ranks, types, products.
apply: who reads such a sum reads the product alone, and the slots' inputs go. What is added without an adapter is zero.
ensures: no slot is left.
must not touch: anything, where a slot is read otherwise.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from luvc_export.core import graph_io
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.graph import Surgery, readers

ORDER = 190

#: Operators between a factor and the sum beside products with factors.
_BETWEEN = ("Cast", "Greater", "MatMul", "Unsqueeze", "Where")


def requires(surgery: Surgery) -> str | None:
    """Slots where none are wanted."""
    if surgery.target.lora_slots:
        return "the target's graphs take adapters"
    return None if _slots(surgery) else "there are no slots for adapters"


def apply(surgery: Surgery) -> int:
    """Walk from the slots to the sums, and take these off; how many there were."""
    slots = _slots(surgery)
    added, sums, waiting = {id(tensor) for tensor in slots}, dict[int, gs.Node](), list(slots)
    while waiting:
        tensor = waiting.pop()
        for node in readers(tensor):
            if node.op == "Add" and not surgery.gives(node.outputs[0]):
                sums[id(node)] = node
            elif node.op in _BETWEEN and not surgery.gives(node.outputs[0]):
                waiting += [out for out in node.outputs if id(out) not in added]
                added |= {id(out) for out in node.outputs}
            else:
                surgery.skip(f"a slot is read by {node.op}")
                return 0
    for total in sums.values():
        own = [tensor for tensor in total.inputs if id(tensor) not in added]
        if len(own) != 1:
            surgery.skip("a slot is added to no product")
            return 0
    for total in sums.values():
        surgery.replace(total.outputs[0], next(tensor for tensor in total.inputs if id(tensor) not in added))
    surgery.graph.inputs = [tensor for tensor in surgery.graph.inputs if id(tensor) not in added]
    surgery.graph.cleanup()
    return len(sums)


def ensures(surgery: Surgery, fired: int) -> None:
    """Check that none is left.

    Raises:
        CheckFailed: One is.
    """
    if fired and (left := _slots(surgery)):
        raise CheckFailed("a slot for adapters is left", where=left[0].name)


def _slots(surgery: Surgery) -> list[gs.Tensor]:
    named = (tensor for tensor in surgery.graph.inputs)
    return [tensor for tensor in named if tensor.name == graph_io.LORA_ROWS or graph_io.is_factor(tensor.name)]
