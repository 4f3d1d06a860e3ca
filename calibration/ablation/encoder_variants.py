"""Ways to make the vision encoder itself cheaper, as variants whose LLM prunes nothing: all is the encoder's doing."""

from __future__ import annotations

from luvc_export.calibration.ablation.variants import Shapes, Variant, encoded, one_shot, smaller
from luvc_export.core.plan import EncoderPlan, EncoderPrune
from luvc_export.core.plan.merging import MergePass, earliest, third
from luvc_export.core.planning import place_merges
from luvc_export.export.compression import scores


def cheaper_encoders(shapes: Shapes) -> list[Variant]:
    """Prune and restore, merges in windows and along axes, units chosen before the patch merger, smaller pictures."""
    blocks, window = shapes.encoder.blocks, shapes.encoder.window
    early, later = earliest(blocks), third(blocks)
    variants = [_pruned(shapes, f"restore, {keep:g}", block=later, keep=keep) for keep in (0.35, 0.4, 0.5, 0.75, 0.8)]
    variants += [_pruned(shapes, f"restore, {keep:g}", block=early, keep=keep) for keep in (0.5, 0.75, 0.8)]
    variants += [
        _pruned(shapes, f"restore, {keep:g}, residual", block=0, keep=keep, score="residual") for keep in (0.64, 0.8)
    ]
    variants += [
        _pruned(shapes, f"restore, {k:g}, residual", block=early, keep=k, score="residual") for k in (0.6, 0.8)
    ]
    variants += [_pruned(shapes, "restore, 0.4, seen for a quarter", block=later, keep=0.4, stabilise=blocks // 4)]
    variants += [_pruned(shapes, f"restore, 0.5, {score}", block=later, keep=0.5, score=score) for score in _OTHERS]
    if window:
        variants += [
            _pruned(shapes, f"restore, {k:g}, each window", block=later, keep=k, window=window) for k in (0.5, 0.8)
        ]
    variants += [
        _merged(shapes, "OIM in windows, 12 of 16", (MergePass(early, 0, 1, 4),)),
        _merged(shapes, "OIM in windows, 9 of 16", (MergePass(early, 1, 1, 4),)),
        _merged(shapes, "OIM gradual, 0.75", place_merges(shapes.grid, 0.75, shapes.encoder, schedule="gradual")),
    ]
    in_llm = one_shot(shapes, round(0.5 * shapes.units)).changed(method=scores.method("norm"))
    variants += [
        _pruned(shapes, "before the merger, 0.5, norm", block=blocks - 1, keep=0.5, restore="none"),
        Variant("after the merger, 0.5, norm", (in_llm,), "in the LLM"),
    ]
    return [*variants, *(_smaller(shapes, share) for share in (0.75, 0.5))]


_OTHERS = ("residual", "change")


def _pruned(shapes: Shapes, name: str, **how: object) -> Variant:
    prune = EncoderPrune(**how)  # type: ignore[arg-type]
    plan = encoded(shapes, EncoderPlan(shapes.grid, prune=prune), "encoder")
    return Variant(name, (plan,), f"after block {prune.block}")


def _merged(shapes: Shapes, name: str, merges: tuple[MergePass, ...]) -> Variant:
    plan = encoded(shapes, EncoderPlan(shapes.grid, merges), "encoder")
    return Variant(name, (plan,), "after block " + ", ".join(str(step.block) for step in merges))


def _smaller(shapes: Shapes, share: float) -> Variant:
    plan = smaller(shapes, share * shapes.units)
    return Variant(f"smaller picture, {share:g}", (plan,), f"{plan.grid[0]}x{plan.grid[1]} units")
