"""What the exporter leaves, made small: functions inlined, constants folded, casts, reshapes and slices of no use gone.

The steps are those of ``onnxscript.optimizer.optimize_ir`` without the rewrites that cannot fire on these graphs (no
convolution, no clip, no scatter). The one that looks for slices that are a split took half of their time.
"""

from __future__ import annotations

import copy
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewritePass, RewriteRule
from onnxscript.rewriter.rules import common as rules

#: Operator -> the rules whose pattern ends in a node of it, which are tried on such nodes alone.
_RULES: dict[str, tuple[RewriteRule, ...]] = {
    "Mul": (*rules.mul_by_1_rule.commute(),),
    "Add": (*rules.add_0_rule.commute(),),
    "Sub": (rules.sub_0_rule,),
    "Div": (rules.div_by_1_rule,),
    "Slice": (rules.collapse_slice_rule, rules.collapse_slice2_rule),
    "Reshape": (
        rules.two_reshapes_matmul_reshape_rule,
        rules.one_reshape_matmul_reshape_rule,
        rules.materialize_reshape_shape_rule,
        rules.reshape_reshape_rule,
        rules.squeeze_reshape_1d_rule,
    ),
    "Cast": (rules.cast_cast_rule, rules.no_op_cast_rule),
    "Expand": (rules.no_op_expand_rule,),
    "Transpose": (rules.no_op_transpose_rule, rules.transpose_transpose_rule),
    "Unsqueeze": (rules.unsqueeze_unsqueeze_rule,),
}


def _on(operator: str, rule: RewriteRule) -> RewriteRule:
    """``rule``, not asked about nodes of other operators."""
    own, asked = copy.copy(rule), rule.try_rewrite

    def try_rewrite(model: ir.Model, graph: Any, node: ir.Node, **options: Any) -> Any:
        return asked(model, graph, node, **options) if node.op_type == operator else None

    own.try_rewrite = try_rewrite
    return own


_ON_ITS_OPERATOR = [_on(operator, rule) for operator, ends in _RULES.items() for rule in ends]
#: As ``optimize_ir`` has it.
_ROUNDS = 2


def simplify(model: ir.Model) -> None:
    """Simplify ``model`` in place; what it computes and its inputs and outputs stay."""
    passes.InlinePass()(model)
    for _ in range(_ROUNDS):
        folded = fold_constants_ir(model, onnx_shape_inference=True).modified
        rewritten = RewritePass(_ON_ITS_OPERATOR)(model).modified
        _sweep(model)
        if not (folded or rewritten):
            break
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for step in (passes.DeduplicateInitializersPass(), passes.CommonSubexpressionEliminationPass()):
        step(model)
    passes.OutputFixPass()(model)
    passes.NameFixPass()(model)


def _sweep(model: ir.Model) -> None:
    for step in (passes.RemoveUnusedNodesPass(), passes.RemoveUnusedFunctionsPass(), passes.RemoveUnusedOpsetsPass()):
        step(model)
