"""Inputs that no node reads leave the graph, where a parser would refuse or forget them.

requires: a decoder for engines, whose callers feed an engine what it has.
apply: ``visual_position_ids``, where all pictures are dropped before the first layer that turns heads, and
``past_groups``, where no layer with keys keeps a visual token.
ensures: every input is read.
must not touch: an input of another name: that nobody reads it is a fault, which lint tells.
"""

from __future__ import annotations

from luvc_export.core import graph_io
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.graph import Surgery

ORDER = 180

_NAMES = (graph_io.VISUAL_POSITION_IDS, graph_io.PAST_GROUPS)


def requires(surgery: Surgery) -> str | None:
    """Something that nobody reads, in a graph that is not a bundle's own."""
    if surgery.part != "decoder" or surgery.target.kv == "attention":
        return "graphs of bundles have every input"
    return None if _unread(surgery) else "every input is read"


def apply(surgery: Surgery) -> int:
    """Leave them out."""
    dropped = _unread(surgery)
    surgery.graph.inputs = [tensor for tensor in surgery.graph.inputs if tensor.name not in dropped]
    return len(dropped)


def ensures(surgery: Surgery, fired: int) -> None:
    """Check that none is left.

    Raises:
        CheckFailed: One is.
    """
    if fired and (left := _unread(surgery)):
        raise CheckFailed("an input is read by nothing", got=", ".join(left))


def _unread(surgery: Surgery) -> list[str]:
    named = [tensor for tensor in surgery.graph.inputs if tensor.name in _NAMES]
    return [tensor.name for tensor in named if not surgery.is_read(tensor)]
