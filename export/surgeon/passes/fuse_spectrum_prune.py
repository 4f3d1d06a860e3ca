"""Every planned prune becomes one node ``luvc::SpectrumPrune``, every planned drop one ``luvc::SpectrumDrop``.

requires: a decoder whose plan prunes.
matches: two TopK in a row (largest, then ascending) over a score that a low-pass product makes of an RMSNorm of a
leading slice, lowered for padding where the plan has it (``spu.padding_last``), and the flat gathers of whatever
travels with the kept tokens; for a drop, a slice that cuts off what the last prune left. What the sub-graph is told by
its operators, constants and shapes, never by names.
apply: the node takes the whole sequence [visual | text] and gives it back shorter, so slices and concatenations
around the gathers go too. Bit-equal but for the order in which a norm adds up channels (see ``tolerance``).
ensures: one node for every prune of the plan, in order, with the plan's budgets; no TopK outside.
must not touch: a TopK that ranks anything but a low-pass score, a prune whose basis is not the plan's, a debug graph
(its kept indices are inputs), prunes with an aggregate or with quotas, which the node has not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from luvc_export.core.operators import DOMAIN as PLUGIN_DOMAIN
from luvc_export.core.operators import SPECTRUM_DROP, SPECTRUM_PRUNE
from luvc_export.core.plan import Axis
from luvc_export.errors import CheckFailed
from luvc_export.export.compression import spu
from luvc_export.export.surgeon.fused import prune_body
from luvc_export.export.surgeon.fused.node import FusedNode, emit
from luvc_export.export.surgeon.graph import DOMAIN, Surgery, kind_of, readers, source, strip, up, value

ORDER = 30

_MOVES = ("Reshape", "Transpose", "Cast")


@dataclass(frozen=True)
class ScoreChain:
    """What a score sub-graph was found to be. ``norm`` is the RMSNormalization it starts from."""

    kind: str
    axis: Axis
    basis: gs.Tensor
    norm: gs.Node


def requires(surgery: Surgery) -> str | None:
    """A decoder with prunes in its plan."""
    if surgery.part != "decoder":
        return "the vision graph prunes nothing"
    if not surgery.plan.prunes:
        return "the plan prunes nothing"
    if surgery.plan.llm.aggregate or surgery.plan.sharing.quota != "none":
        name = "aggregate" if surgery.plan.llm.aggregate else "quota"
        return f"the fused node has no {name}: prunes with one stay as they are traced"
    if any(tensor.name.startswith("forced_indices") for tensor in surgery.graph.inputs):
        return "a debug graph takes the kept indices as inputs"
    if any(node.domain in (DOMAIN, PLUGIN_DOMAIN) for node in surgery.graph.nodes):
        return "done already"
    return None


def apply(surgery: Surgery) -> int:
    """Fuse prunes from the first layer to the last, then drops."""
    whole: dict[int, gs.Tensor] = {}
    fired = 0
    surgery.graph.toposort()
    index: gs.Tensor | None = None
    last: FusedNode | None = None
    for top in surgery.nodes("TopK"):
        second = readers(top.outputs[1], "TopK")
        if len(second) != 1 or not top.attrs.get("largest", 1) or second[0].attrs.get("largest", 1):
            continue
        ranked = _before_padding(top.inputs[0]) if surgery.plan.decoder_padding else top.inputs[0]
        score = match_score(ranked) if ranked is not None else None
        if score is None:
            surgery.skip("a TopK ranks something that is no low-pass score")
            continue
        made = _fuse(surgery, top, second[0], score, whole)
        if made is not None:
            last, index, fired = made, made.output("kept_index"), fired + 1
    for layer, tokens, keep in surgery.plan.prunes:
        if not keep:
            fired += _drop(surgery, last, index, tokens, layer)
    return fired


def ensures(surgery: Surgery, fired: int) -> None:
    """One node a prune, with the plan's budgets.

    Raises:
        CheckFailed: Budgets of the nodes and of the plan differ.
    """
    surgery.graph.toposort()
    nodes = [FusedNode(node) for node in surgery.graph.nodes if node.domain == DOMAIN]
    got = [(node.attribute("tokens"), node.attribute("keep")) for node in nodes]
    wanted = [(tokens, keep) for _, tokens, keep in surgery.plan.prunes]
    if fired and got != wanted:
        raise CheckFailed("the fused prunes are not the plan's", got=got, expected=wanted)


def _before_padding(ranked: gs.Tensor) -> gs.Tensor | None:
    """The scores [B, G, N] that ``spu.padding_last`` lowered, by a step for every negative place; None without it."""
    less = up(ranked, "Sub")
    steps = up(less.inputs[1], "Mul") if less is not None else None
    behind = up(steps.inputs[0], "Relu") if steps is not None else None
    away = up(behind.inputs[0], "Neg") if behind is not None else None
    step = value(steps.inputs[1]) if steps is not None else None
    if less is None or away is None or step is None or step.size != 1 or float(step) != np.float32(spu.PADDING_STEP):
        return None
    kind = kind_of(strip(away.inputs[0], "Cast"))
    return less.inputs[0] if kind is not None and kind.kind == "i" else None


def match_score(score: gs.Tensor) -> ScoreChain | None:
    """Recognise low, residual and ratio along tokens or channels."""
    node = source(strip(score, "Reshape"))
    if node is None:
        return None
    filtered: gs.Tensor | None
    if node.op == "Div":
        norms = [up(strip(tensor, "Reshape"), "ReduceL2") for tensor in node.inputs]
        kind = "ratio"
        filtered, plain = (norm.inputs[0] if norm is not None else None for norm in norms)
    elif node.op == "ReduceL2" and (minus := up(strip(node.inputs[0], "Reshape"), "Sub")) is not None:
        kind, plain, filtered = "residual", minus.inputs[0], minus.inputs[1]
    elif node.op == "ReduceL2":
        kind, filtered, plain = "low", node.inputs[0], None
    else:
        return None
    found = _lowpass(filtered) if filtered is not None else None
    if found is None:
        return None
    axis, basis, norm = found
    if plain is not None and up(strip(plain, *_MOVES), "RMSNormalization") is not norm:
        return None
    return ScoreChain(kind, axis, basis, norm)


def _lowpass(filtered: gs.Tensor) -> tuple[Axis, gs.Tensor, gs.Node] | None:
    """Two products with a basis and its transpose, and the norm they filter."""
    back = up(strip(filtered, *_MOVES), "MatMul")
    forth = up(back.inputs[0], "MatMul") if back is not None else None
    if back is None or forth is None:
        return None
    basis, transposed = value(forth.inputs[1]), value(back.inputs[1])
    turned = up(back.inputs[1], "Transpose")  # the exporter folds small ones only
    if turned is not None and (array := value(turned.inputs[0])) is not None:
        transposed = array.T
    norm = up(strip(forth.inputs[0], *_MOVES), "RMSNormalization")
    if basis is None or transposed is None or norm is None or not np.array_equal(basis.T, transposed):
        return None
    axis: Axis = "channel" if _untransposed(forth.inputs[0]) else "token"
    return axis, forth.inputs[1], norm


def _untransposed(tensor: gs.Tensor) -> bool:
    while (node := source(tensor)) is not None and node.op in _MOVES:
        if node.op == "Transpose":
            return False
        tensor = node.inputs[0]
    return True


def _fuse(
    surgery: Surgery, top: gs.Node, second: gs.Node, score: ScoreChain, whole: dict[int, gs.Tensor]
) -> FusedNode | None:
    """Replace one prune; ``whole`` maps visual tensors of earlier prunes to the whole sequence."""
    k = value(top.inputs[1])
    cut = up(score.norm.inputs[0], "Slice")
    if k is None or cut is None:
        surgery.skip("a prune keeps a number of tokens that is not fixed")
        return None
    keep = int(k.ravel()[0])
    tokens = next((n for _, n, kept in surgery.plan.prunes if kept == keep), 0)
    basis = value(score.basis)
    assert basis is not None
    if score.axis == "token" and basis.shape[0] != tokens:
        surgery.skip(f"a prune to {keep} filters {basis.shape[0]} tokens where the plan has {tokens}")
        return None
    gathered = _travellers(second.outputs[0])
    roles: dict[str, tuple[gs.Tensor, gs.Tensor, gs.Tensor]] = {}
    index_pair: tuple[gs.Tensor, gs.Tensor] | None = None
    others = []
    for before, after in gathered:
        joins = [node for node in readers(after, "Concat") if len(node.inputs) == 2 and node.inputs[0] is after]
        if not joins:
            kind = kind_of(before)
            if kind is not None and kind.kind == "i":
                index_pair = (before, after)
            else:
                others.append(after)
            continue
        role = "values" if before is strip(cut.outputs[0], "Reshape") else _role(joins[0].outputs[0])
        roles[role] = (before, joins[0].inputs[1], joins[0].outputs[0])
    if set(roles) != {"values", "order", "cos", "sin"} or index_pair is None:
        surgery.skip(f"a prune to {keep} carries {sorted(roles)} beside the index, expected values, order, cos and sin")
        return None
    full = {"values": cut.inputs[0]}
    for role in ("order", "cos", "sin"):
        before, text, _ = roles[role]
        if id(before) not in whole:
            visual = _of_rank(surgery, before, roles[role][2], len(text.shape or ()))
            whole[id(before)] = surgery.emit("Concat", [visual, text], axis=1)[0]
            whole[id(before)].dtype = before.dtype
        full[role] = whole[id(before)]
    kept = {f"kept_{role}": roles[role][2] for role in ("values", "order", "cos", "sin")}
    made = emit(
        surgery,
        SPECTRUM_PRUNE,
        full | {"norm_weight": score.norm.inputs[1], "basis": score.basis, "index": index_pair[0]},
        {
            "tokens": tokens,
            "keep": keep,
            "cutoff": (basis.shape[1] - 1) // 2 if surgery.plan.llm.spectrum == "1d" else -1,
            "frequencies": int(basis.shape[1]),
            "score": score.kind,
            "axis": score.axis,
            "epsilon": float(score.norm.attrs.get("epsilon", 1e-5)),
        },
        like=kept
        | {
            "kept_index": readers(index_pair[1], "Reshape")[0].outputs[0],
            "kept_normed": kept["kept_values"],
            "indices": second.outputs[0],
        },
    )
    for role in ("order", "cos", "sin"):
        old = next(after for before, after in gathered if before is roles[role][0])
        whole[id(strip(old, "Reshape"))] = made[f"kept_{role}"]
    for name, old in kept.items():
        surgery.replace(old, made[name])
    for reshape in readers(index_pair[1], "Reshape"):
        surgery.replace(reshape.outputs[0], made["kept_index"])
    if others:
        surgery.skip("feature planes are gathered beside the prune, by its places")
    surgery.replace(second.outputs[0], made["indices"])
    surgery.functions[SPECTRUM_PRUNE.name] = prune_body.spectrum_prune(
        score.kind, score.axis, surgery.plan.decoder_padding
    )
    return FusedNode(made["indices"].inputs[0])


def _travellers(chosen: gs.Tensor) -> list[tuple[gs.Tensor, gs.Tensor]]:
    """(before, after) of every tensor gathered at places made of ``chosen``; ``before`` without reshapes."""
    found = []
    flat = [node.outputs[0] for add in readers(chosen, "Add") for node in readers(add.outputs[0], "Reshape")]
    flat += [node.outputs[0] for tensor in list(flat) for node in readers(tensor, "Reshape")]
    for tensor in flat:
        for gather in readers(tensor, "Gather"):
            for after in readers(gather.outputs[0], "Reshape"):
                found.append((strip(gather.inputs[0], "Reshape"), after.outputs[0]))
    return found


def _of_rank(surgery: Surgery, before: gs.Tensor, joined: gs.Tensor, rank: int) -> gs.Tensor:
    """``before`` as it was reshaped to the rank of the text part, above the gather that ``joined`` comes from.

    Images still apart, [B, G, N, ...], are laid side by side where the graph does so for the gather alone.
    """
    gather = up(strip(source(joined).inputs[0], "Reshape"), "Gather")  # type: ignore[union-attr]
    tensor = gather.inputs[0] if gather is not None else before
    while tensor is not before and len(tensor.shape or ()) != rank:
        tensor = source(tensor).inputs[0]  # type: ignore[union-attr]
    shape = list(tensor.shape or ())
    if len(shape) == rank + 1:
        tensor = surgery.emit("Reshape", [tensor, [0, -1, *map(int, shape[3:])]])[0]
        tensor.dtype = before.dtype
    result: gs.Tensor = tensor
    return result


def _role(joined: gs.Tensor) -> str:
    """What [visual | text] is, by which input of a RotaryEmbedding reads it or a part of it."""
    parts = [node.outputs[0] for node in readers(joined, "Slice")]
    casts = [cast.outputs[0] for tensor in (joined, *parts) for cast in readers(tensor, "Cast")]
    for tensor in (joined, *parts, *casts):
        for node in readers(tensor, "RotaryEmbedding"):
            return "cos" if node.inputs[1] is tensor else "sin"
    return "order"


def _drop(surgery: Surgery, last: FusedNode | None, index: gs.Tensor | None, tokens: int, layer: int) -> int:
    """The slice that leaves the text alone, after the last prune or, without one, after the start."""
    cuts = [node for node in surgery.nodes("Slice") if _cuts_visual(node)]
    if len(cuts) != 1 or last is None or index is None:
        surgery.skip(f"the drop before layer {layer} is a plain slice: nothing was ranked before it")
        return 0
    rows = {name: last.output(f"kept_{name}") for name in ("order", "cos", "sin")}
    made = emit(
        surgery,
        SPECTRUM_DROP,
        rows | {"values": cuts[0].inputs[0], "index": index},
        {"tokens": tokens, "keep": 0},
        like={"kept_values": cuts[0].outputs[0]} | {f"kept_{name}": tensor for name, tensor in rows.items()},
    )
    for name in rows:
        made[f"kept_{name}"].shape = None
    surgery.replace(cuts[0].outputs[0], made["kept_values"])
    surgery.functions[SPECTRUM_DROP.name] = prune_body.spectrum_drop()
    return 1


def _cuts_visual(node: gs.Node) -> bool:
    """A slice of rows to the end whose start is computed: [:, groups * count :] of hidden states that go nowhere else.

    A frozen layer cuts the text off too, but of rows whose keys and values it also computes.
    """
    shape = node.outputs[0].shape
    starts, ends = value(node.inputs[1]), value(node.inputs[2])
    axes = value(node.inputs[3]) if len(node.inputs) > 3 else None
    to_end = ends is not None and int(ends.ravel()[0]) > 2**40
    alone = all(reader.op != "Concat" for reader in readers(node.outputs[0])) and len(readers(node.inputs[0])) == 1
    return (
        starts is None and to_end and axes is not None and int(axes.ravel()[0]) == 1 and len(shape or ()) == 3 and alone
    )
