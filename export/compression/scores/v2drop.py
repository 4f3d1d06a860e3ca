"""V2Drop (CVPR'26): how far the layer before moved a token, ||h_l - h_(l-1)||; those that moved most stay."""

from __future__ import annotations

from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.errors import PlanError
from luvc_export.export.compression.row_reductions import norms
from luvc_export.export.compression.scores.base import Score, ScoreInput


class V2Drop(Score):
    """What moved most."""

    needs_layer_before = True

    def constant(self, plan: Plan, layer: int, tokens: int, channels: int) -> Tensor | None:
        """Nothing is read of the plan.

        Raises:
            PlanError: The layer before is frozen.
        """
        if layer - 1 in plan.llm.frozen:
            raise PlanError(
                "this score asks how far a layer moved a token, and the layer before it works on few or none",
                where="plan.llm.kv_only",
                got=f"layer {layer - 1}, and score {plan.llm.method.name!r} prunes before layer {layer}",
                fix=f"leave layer {layer - 1} out of kv_only, or choose another score",
            )
        return None

    def score(self, given: ScoreInput) -> Tensor:
        """L2 norm of the change [B, G, N]."""
        assert given.context is not None and given.context.before is not None
        return norms(given.context.hidden.float() - given.context.before.float())


SCORE = V2Drop()
