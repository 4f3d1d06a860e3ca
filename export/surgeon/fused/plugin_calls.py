"""A plugin call in place of a fused node: what the plugin takes, and plain ONNX for the rest.

A prune hands over the visual rows of every image and, as payloads, those of what travels with them (order, cos, sin,
index) as far as anything reads them; the kept rows are joined with the text, and normed rows are the norm of those. A
merge hands over the grid, the counts and the positions.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from luvc_export.core.operators import DOMAIN, ORTHOGONAL_MERGE, SPECTRUM_PRUNE
from luvc_export.export.surgeon.fused.plugin_node import IDENTITY
from luvc_export.export.surgeon.fused.visual_rows import VisualRows
from luvc_export.export.surgeon.graph import Surgery

_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)


def prune(surgery: Surgery, node: gs.Node) -> None:
    """``luvc::SpectrumPrune`` by its plugin."""
    hidden, weight, basis, *travel, index = node.inputs
    kept_hidden, *kept_travel, kept_index, kept_normed, chosen = node.outputs
    keep = node.attrs["keep"]
    rows = VisualRows(surgery, index, node.attrs["tokens"], keep)
    carried = [(source, old) for source, old in zip(travel, kept_travel, strict=True) if surgery.is_read(old)]
    tails = [list(old.shape[2:]) for _, old in carried]
    payloads = [rows.visual(source, tail) for (source, _), tail in zip(carried, tails, strict=True)]
    if surgery.is_read(kept_index):
        payloads.append(rows.images(index, []))
    tail = list(kept_hidden.shape[2:])
    attributes = {"keep": keep, "score": node.attrs["score"], "epsilon": node.attrs["epsilon"]}
    if payloads:
        attributes["token_axes"] = [1] * len(payloads)
    values = rows.visual(hidden, tail)
    kept, indices, *kept_payloads = surgery.emit(
        SPECTRUM_PRUNE.name, [values, weight, basis, *payloads], count=2 + len(payloads), domain=DOMAIN,
        **attributes, **IDENTITY,
    )  # fmt: skip
    indices.dtype, indices.shape = _INT64, [None, keep]
    for new, source in zip([kept, *kept_payloads], [values, *payloads], strict=True):
        new.dtype, new.shape = source.dtype, [None, keep, *source.shape[2:]]
    joined = rows.with_text(kept, hidden, tail)
    surgery.replace(kept_hidden, joined)
    for new, (source, old), rest in zip(kept_payloads, carried, tails, strict=False):
        surgery.replace(old, rows.with_text(new, source, rest))
    for new, old in ((indices, chosen), (kept_payloads[-1] if payloads else None, kept_index)):
        if surgery.is_read(old):
            surgery.replace(old, rows.by_row(new))
    if surgery.is_read(kept_normed):
        epsilon = node.attrs["epsilon"]
        made = surgery.emit("RMSNormalization", [joined, weight], like=[kept_normed], axis=-1, epsilon=epsilon)
        surgery.replace(kept_normed, made[0])


def merge(surgery: Surgery, node: gs.Node) -> None:
    """``luvc::OrthogonalMerge``, over both axes or one, by its plugin."""
    x, sizes, positions, _ = node.inputs
    height, width = node.attrs["height"], node.attrs["width"]
    *state, into = surgery.emit(
        ORTHOGONAL_MERGE.name, [x, sizes, positions], count=4, domain=DOMAIN,
        removed_columns=node.attrs["columns"], removed_rows=node.attrs["rows"], **IDENTITY,
    )  # fmt: skip
    grid = [height - node.attrs["rows"], width - node.attrs["columns"]]
    for new, old, source in zip(state, node.outputs, node.inputs, strict=False):
        new.dtype, new.shape = source.dtype, [source.shape[0], *grid, *source.shape[3:]]
        surgery.replace(old, new)
    into.dtype, into.shape = _INT32, [x.shape[0], height, width]
    places = node.outputs[4]
    if surgery.is_read(places):
        wide = surgery.emit("Cast", [into], to=int(onnx.TensorProto.INT64))[0]
        wide.dtype, wide.shape = _INT64, into.shape
        surgery.replace(places, surgery.emit("Reshape", [wide, [-1, height * width]], like=[places])[0])
