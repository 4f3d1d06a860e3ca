"""The passes in the order they run. A pass is a module with ``requires``, ``apply`` and ``ensures``.

Passes ask the target for a capability; no pass knows a device. Running the list again on its own result changes
nothing.
"""

from __future__ import annotations

import json
from typing import Protocol

import onnx

from luvc_export.core.target import Precision, TargetSpec
from luvc_export.errors import LuvcError
from luvc_export.export.surgeon import flops, lint
from luvc_export.export.surgeon.graph import Surgery, size
from luvc_export.export.surgeon.passes import (
    append_argmax,
    call_plugins,
    cast_precision,
    fold_shapes,
    fuse_gate_up,
    fuse_orthogonal_merge,
    fuse_qkv,
    fuse_spectrum_prune,
    inline_functions,
    inplace_kv,
    lower_dialect,
    pack_heads,
    patch_layout,
    share_norm,
    share_rope,
    unpack_heads,
)
from luvc_export.export.surgeon.report import REPORT_KEY, GraphReport, PassReport, histogram


class Pass(Protocol):
    """What a pass module offers."""

    __name__: str

    def requires(self, surgery: Surgery) -> str | None:
        """Why the pass has nothing to do here, or None."""

    def apply(self, surgery: Surgery) -> int:
        """Change the graph; return how often. ``surgery.skip`` says why something was left alone."""

    def ensures(self, surgery: Surgery, fired: int) -> None:
        """Check the result.

        Raises:
            CheckFailed: The pass broke its promise.
        """


PASSES: tuple[Pass, ...] = (
    patch_layout,
    fuse_orthogonal_merge,
    fuse_spectrum_prune,
    share_rope,
    share_norm,
    fuse_qkv,
    fuse_gate_up,
    cast_precision,
    call_plugins,
    inline_functions,
    unpack_heads,
    inplace_kv,
    pack_heads,
    append_argmax,
    lower_dialect,
    fold_shapes,
    lint,
)


def run_passes(
    model: onnx.ModelProto,
    target: TargetSpec,
    precision: Precision = "fp32",
    *,
    text_capacity: int | None = None,
    groups: int = 1,
    passes: tuple[Pass, ...] = PASSES,
) -> tuple[onnx.ModelProto, GraphReport]:
    """Run every pass on a traced graph; external weights are not read.

    Args:
        model: Traced graph with its plan in the metadata, or a result of this function.
        target: What to make it for.
        precision: Arithmetic wanted.
        text_capacity: Text tokens a cache of fixed capacity holds; needed for the KV form ``inplace`` alone.
        groups: Images, or groups of them that share a budget, that such a cache holds.
        passes: The list, for tests.

    Raises:
        CheckFailed: A pass broke its promise, or lint found something.
    """
    surgery = Surgery.open(model, target, precision)
    surgery.text_capacity, surgery.groups = text_capacity, groups
    reports = []
    before = size(model)
    for item in passes:
        surgery.running, surgery.reasons = item.__name__.rsplit(".", 1)[-1], []
        reason = item.requires(surgery)
        fired = 0
        if reason is None:
            fired = item.apply(surgery)
            try:
                item.ensures(surgery, fired)
            except LuvcError as error:
                error.add_note(f"in pass {surgery.running}")
                raise
        after = size(surgery.close()) if fired else before
        reports.append(PassReport(surgery.running, fired, reason or "; ".join(surgery.reasons), before, after))
        before = after
    result = surgery.close()
    counts = histogram(model), histogram(result)
    report = GraphReport(target.name, tuple(reports), *counts, flops.by_layer(result, surgery.plan))
    earlier = {item.key: item.value for item in model.metadata_props}.get(REPORT_KEY)
    history = [*(json.loads(earlier) if earlier else []), report.to_json()]
    surgery.say(REPORT_KEY, json.dumps(history))
    return surgery.close(), report
