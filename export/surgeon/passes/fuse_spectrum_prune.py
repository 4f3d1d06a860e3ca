"""Every planned prune becomes one node ``luvc::SpectrumPrune``; a drop is ``luvc::SpectrumDrop`` from the trace on.

requires: a decoder with prunes that tracing marked (``compression.marks``).
apply: the mark that chooses tokens and the mark that keeps rows are one node. Its body does their arithmetic in the
same order: bit-equal.
ensures: one node for every prune of the plan, in order, with the plan's budgets; no mark is left, no TopK outside.
must not touch: prunes that are not marked, since the node has no such score, aggregate or quota: they stay as they are
traced. A debug graph, whose kept indices are inputs, has no marks.
"""

from __future__ import annotations

from luvc_export.core.operators import KEEP_ROWS, MARKS, SPECTRUM_CHOOSE, SPECTRUM_DROP, SPECTRUM_PRUNE
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon import node_order
from luvc_export.export.surgeon.fused import bodies
from luvc_export.export.surgeon.fused.node import FusedNode, emit
from luvc_export.export.surgeon.graph import DOMAIN, Surgery, readers

ORDER = 30


def requires(surgery: Surgery) -> str | None:
    """A decoder with marked prunes."""
    if surgery.part != "decoder":
        return "the vision graph prunes nothing"
    if not surgery.plan.prunes:
        return "the plan prunes nothing"
    if _marked(surgery):
        return None
    if any(node.domain == DOMAIN for node in surgery.graph.nodes):
        return "done already"
    if surgery.plan.apart is not None:
        return "the fused node chooses where it drops: what is kept apart is chosen before"
    if surgery.plan.llm.aggregate or surgery.plan.sharing.quota != "none":
        name = "aggregate" if surgery.plan.llm.aggregate else "quota"
        return f"the fused node has no {name}: prunes with one stay as they are traced"
    return "no prune is marked: its score is no reading of the spectrum, or it was traced without marks"


def apply(surgery: Surgery) -> int:
    """Fuse prunes from the first layer to the last; drops count too."""
    node_order.sort(surgery.graph)
    marked = _marked(surgery)
    for choose in marked:
        _fuse(surgery, choose)
    drops = list(surgery.nodes(SPECTRUM_DROP.name))
    if drops:
        surgery.functions[SPECTRUM_DROP.name] = bodies.spectrum_drop()
    return len(marked) + len(drops)


def ensures(surgery: Surgery, fired: int) -> None:
    """One node a prune, with the plan's budgets; layers without a cache of their own have no visual rows to drop.

    Raises:
        CheckFailed: Budgets of the nodes and of the plan differ, or a TopK is left outside.
    """
    node_order.tidy(surgery.graph)
    nodes = [FusedNode(node) for node in surgery.graph.nodes if node.domain == DOMAIN]
    got = [(node.attribute("tokens"), node.attribute("keep")) for node in nodes]
    wanted = [(tokens, keep) for layer, tokens, keep in surgery.plan.prunes if layer < surgery.plan.cached]
    left = [node.name for node in surgery.graph.nodes if node.op in (*MARKS, "TopK")]
    if got != wanted or left:
        raise CheckFailed("the fused prunes are not the plan's", got=(got, left), expected=wanted)


def _marked(surgery: Surgery) -> list[FusedNode]:
    return [FusedNode(node) for node in surgery.nodes(SPECTRUM_CHOOSE.name) if node.domain == DOMAIN]


def _fuse(surgery: Surgery, choose: FusedNode) -> None:
    indices = choose.output("indices")
    keeps = [FusedNode(node) for node in readers(indices, KEEP_ROWS.name)]
    if len(keeps) != 1 or any(keeps[0].input(name) is not choose.input(name) for name in ("values", "index")):
        raise CheckFailed(
            "a prune chooses tokens of rows that it does not keep", where=choose.node.name, expected="one KeepRows"
        )
    [keep] = keeps
    if len(readers(indices)) > 1:
        surgery.skip("feature planes are gathered beside the prune, by its places")
    places = {tensor.name: keep.input(tensor.name) for tensor in KEEP_ROWS.fused.inputs if tensor.name != "indices"}
    kept = {tensor.name: keep.output(tensor.name) for tensor in KEEP_ROWS.fused.outputs} | {"indices": indices}
    fused = emit(
        surgery,
        SPECTRUM_PRUNE,
        places | {name: choose.input(name) for name in ("norm_weight", "basis")},
        {item.name: choose.attribute(item.name) for item in SPECTRUM_PRUNE.fused.attributes},
        like=kept | {"kept_normed": kept["kept_values"]},
    )
    for name, old in kept.items():
        surgery.replace(old, fused[name])
    surgery.functions[SPECTRUM_PRUNE.name] = bodies.spectrum_prune(
        choose.attribute("score"), choose.attribute("axis"), surgery.plan.decoder_padding
    )
