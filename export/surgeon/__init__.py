"""Graph surgery: traced graphs become what a target runs fast and right. See docs/surgery.md.

``run_passes`` runs the passes of ``pass_list``, each found by its file (``passes``), ``surgery_report`` reads back what
they did, ``render`` and ``render_html`` show it. Passes ask the target for a capability; no pass knows a device.
Running the list again on its own result changes nothing.
"""

from __future__ import annotations

import json

import onnx

from luvc_export.core.target import Precision, TargetSpec
from luvc_export.errors import LuvcError
from luvc_export.export.surgeon import flops, lint
from luvc_export.export.surgeon import passes as registry
from luvc_export.export.surgeon.graph import Surgery, size
from luvc_export.export.surgeon.passes import Step
from luvc_export.export.surgeon.report import (
    REPORT_KEY,
    GraphReport,
    PassReport,
    histogram,
    render,
    render_html,
    surgery_report,
)

__all__ = ["GraphReport", "PassReport", "pass_list", "render", "render_html", "run_passes", "surgery_report"]


def pass_list() -> tuple[Step, ...]:
    """What runs, in order: the passes by their ``ORDER``, then ``lint``."""
    return (*registry.ordered(), lint)


def run_passes(
    model: onnx.ModelProto,
    target: TargetSpec,
    precision: Precision = "fp32",
    *,
    text_capacity: int | None = None,
    groups: int = 1,
    passes: tuple[Step, ...] | None = None,
) -> tuple[onnx.ModelProto, GraphReport]:
    """Run every pass on a traced graph; external weights are not read.

    Args:
        model: Traced graph with its plan in the metadata, or a result of this function.
        target: What to make it for.
        precision: Arithmetic wanted.
        text_capacity: Text tokens a cache of fixed capacity holds; needed for the KV form ``inplace`` alone.
        groups: Images, or groups of them that share a budget, that such a cache holds.
        passes: In place of ``pass_list``, for tests.

    Raises:
        CheckFailed: A pass broke its promise, or lint found something.
    """
    surgery = Surgery.open(model, target, precision)
    surgery.text_capacity, surgery.groups = text_capacity, groups
    reports = []
    before = size(model)
    for item in pass_list() if passes is None else passes:
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
        after = surgery.size() if fired else before
        reports.append(PassReport(surgery.running, fired, reason or "; ".join(surgery.reasons), before, after))
        before = after
    result = surgery.close()
    counts = histogram(model), histogram(result)
    report = GraphReport(target.name, tuple(reports), *counts, flops.by_layer(result, surgery.plan))
    earlier = {item.key: item.value for item in model.metadata_props}.get(REPORT_KEY)
    history = [*(json.loads(earlier) if earlier else []), report.to_json()]
    surgery.say(REPORT_KEY, json.dumps(history), result)
    return result, report
