"""What the exporter leaves, made small: functions inlined, constants folded, casts, reshapes and slices of no use gone.

The steps are those of ``onnxscript.optimizer.optimize_ir`` without the rewrites that cannot fire on these graphs (no
convolution, no clip, no scatter). The one that looks for slices that are a split took half of their time.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as rules

_RULES = (
    *rules.mul_by_1_rule.commute(),
    *rules.add_0_rule.commute(),
    rules.sub_0_rule,
    rules.div_by_1_rule,
    rules.two_reshapes_matmul_reshape_rule,
    rules.one_reshape_matmul_reshape_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.materialize_reshape_shape_rule,
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.reshape_reshape_rule,
    rules.no_op_transpose_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.squeeze_reshape_1d_rule,
)
#: As ``optimize_ir`` has it.
_ROUNDS = 2


def simplify(model: ir.Model) -> None:
    """Simplify ``model`` in place; what it computes and its inputs and outputs stay."""
    passes.InlinePass()(model)
    for _ in range(_ROUNDS):
        folded = fold_constants_ir(model, onnx_shape_inference=True).modified
        rewritten = RewritePass(_RULES)(model).modified
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
