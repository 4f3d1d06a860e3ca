"""The most likely next token, chosen where the logits are: greedy decoding need not bring them to the host.

requires: a decoder, and a target whose engines choose tokens.
apply: ``next_token`` int64 [B, 1] and ``next_logit`` float32 [B, 1]: the largest logit of the last position, and its
token, the smallest of equals (ONNX TopK). Not-a-number counts as infinite, so that a ``next_logit`` that is not finite
says what the logits themselves would have said.
ensures: both outputs are there, and ``logits`` still is.
must not touch: anything that was there.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from luvc_export.core import graph_io
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.graph import Surgery

ORDER = 150

_LARGEST = float(np.finfo(np.float32).max)


def requires(surgery: Surgery) -> str | None:
    """A decoder whose target wants it."""
    if surgery.part == "vision":
        return "the vision graph makes no tokens"
    if graph_io.VECTORS in _outputs(surgery):
        return "nothing is decoded"
    if not surgery.target.next_token:
        return "the target chooses tokens on the host"
    return "the token is chosen already" if graph_io.NEXT_TOKEN in _outputs(surgery) else None


def apply(surgery: Surgery) -> int:
    """Choose from the last row of the logits."""
    logits = _outputs(surgery)[graph_io.LOGITS]
    batch = (logits.shape or ["batch"])[0]
    last = surgery.emit("Slice", [logits, [-1], [np.iinfo(np.int64).max], [1]])[0]
    largest, infinity = (surgery.constant(number, "limit", np.float32) for number in (_LARGEST, np.inf))
    finite = surgery.emit("LessOrEqual", [last, largest])[0]
    clean = surgery.emit("Where", [finite, last, infinity])[0]
    best = surgery.emit("TopK", [clean, [1]], count=2, axis=2)
    for tensor, name, kind in zip(
        best, (graph_io.NEXT_LOGIT, graph_io.NEXT_TOKEN), (np.float32, np.int64), strict=True
    ):
        output = surgery.emit("Squeeze", [tensor, [2]])[0]
        output.name, output.dtype, output.shape = name, np.dtype(kind), [batch, 1]
        surgery.graph.outputs.append(output)
    return 1


def ensures(surgery: Surgery, fired: int) -> None:
    """Check that all three are given.

    Raises:
        CheckFailed: One is not.
    """
    missing = {graph_io.LOGITS, graph_io.NEXT_TOKEN, graph_io.NEXT_LOGIT} - set(_outputs(surgery))
    if missing:
        raise CheckFailed("a decoder that chooses tokens lacks an output", where="outputs", got=sorted(missing))


def _outputs(surgery: Surgery) -> dict[str, gs.Tensor]:
    return {tensor.name: tensor for tensor in surgery.graph.outputs}
