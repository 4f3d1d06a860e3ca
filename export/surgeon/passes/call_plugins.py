"""Fused nodes that a plugin can run become calls of it, and what the plugin leaves to others plain ONNX around it.

A fused node (domain ``luvc``) has an ONNX body and works on the whole sequence [visual | text] or on all that merges.
A plugin node (domain ``luvc.plugin``) has no body: it is what ``luvc_export.core.operators`` says and TensorRT's
creators read.

requires: a fused node whose operator is among the target's plugins.
apply: ``plugin_calls``. Scores are then the plugin's own, so kept sets differ from the body's where scores are equal to
within rounding.
ensures: every plugin node fits the contract.
must not touch: what the plugin should do slower by its counted cost, and what it cannot do (a score along channels, the
``max`` merge, copies of positions that somebody reads). It stays a fused node, which ``inline_functions``
replaces by its body; the report says why.
"""

from __future__ import annotations

import onnx
import onnx.shape_inference
import onnx_graphsurgeon as gs

from luvc_export.core.operators import DOMAIN as PLUGIN_DOMAIN
from luvc_export.core.operators import OPERATORS, ORTHOGONAL_MERGE, SCORES, SPECTRUM_PRUNE
from luvc_export.core.plan.llm import TENSORRT_TOPK_LIMIT
from luvc_export.errors import CheckFailed, did_you_mean
from luvc_export.export.surgeon import node_order
from luvc_export.export.surgeon.fused import plugin_call
from luvc_export.export.surgeon.fused.node import FusedNode, schema_of
from luvc_export.export.surgeon.graph import DOMAIN, Surgery

ORDER = 90
#: Above, the plugin's three products outweigh the bytes it saves (docs/plugin-costs.md, which a test holds to it).
MOST_FREQUENCIES = 128


def requires(surgery: Surgery) -> str | None:
    """A fused node, and a target with plugins."""
    if unknown := sorted(surgery.target.plugins - set(OPERATORS)):
        raise CheckFailed(
            "the target names a plugin that does not exist",
            where=surgery.target.name,
            got=unknown[0],
            expected=did_you_mean(unknown[0], OPERATORS),
        )
    if not any(node.domain == DOMAIN for node in surgery.graph.nodes):
        return "there is no fused node"
    return None if surgery.target.plugins else "the target has no plugins"


def apply(surgery: Surgery) -> int:
    """Replace nodes from the last to the first: what only a replaced node read is then read no more.

    Then infer shapes (of the graph only: external weights are not read).
    """
    fired = 0
    node_order.tidy(surgery.graph)
    for node in reversed([node for node in surgery.graph.nodes if node.domain == DOMAIN]):
        if (reason := why_not(surgery, node)) is not None:
            surgery.skip(f"{node.op} stays an ONNX function: {reason}")
            continue
        calls = {SPECTRUM_PRUNE.name: plugin_call.prune, ORTHOGONAL_MERGE.name: plugin_call.merge}
        calls[plugin_of(node)](surgery, node)
        surgery.graph.cleanup()
        fired += 1
    if fired:
        surgery.reload(onnx.shape_inference.infer_shapes(surgery.close(), data_prop=True))
    return fired


def ensures(surgery: Surgery, fired: int) -> None:
    """Plugin nodes that a creator can read.

    Raises:
        CheckFailed: Lists where they differ from the contract.
    """
    nodes = [node for node in surgery.graph.nodes if node.domain == PLUGIN_DOMAIN]
    lines = [f"  - {node.name}: {problem}" for node in nodes for problem in plugin_call.problems(node)]
    if lines:
        raise CheckFailed("a plugin node does not fit its contract:\n" + "\n".join(lines))


def plugin_of(node: gs.Node) -> str:
    """The plugin of a fused node; merges over one axis are variants by name among functions only."""
    return schema_of(node).name


def why_not(surgery: Surgery, node: gs.Node) -> str | None:
    """Why no plugin of the target runs this fused node, or None."""
    plugin = plugin_of(node)
    if plugin not in surgery.target.plugins:
        return "the target has no plugin for it"
    fused = FusedNode(node)
    if plugin == SPECTRUM_PRUNE.name:
        axis, score = fused.attribute("axis"), fused.attribute("score")
        frequencies, keep = fused.attribute("frequencies"), fused.attribute("keep")
        if frequencies > MOST_FREQUENCIES and keep <= TENSORRT_TOPK_LIMIT:
            return f"at {frequencies} frequencies the inlined form should be faster (docs/plugin-costs.md)"
        if axis != "token":
            return f"the plugin filters along tokens, the plan along {axis}s"
        return None if score in SCORES else f"the plugin has no score {score}"
    if (mode := fused.attribute("mode")) != "mean":
        return f"the plugin merges by mean, the plan by {mode}"
    carries = surgery.is_read(fused.output("merged_copies"))
    return "it carries original positions, the plugin mean ones" if carries else None
