"""What a plan can be asked for, one feature at a time: the choices of ``make_plan`` by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import save

from luvc_export.core.plan.request import EncoderPruneRequest
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.export.compression import scores
from luvc_export.export.compression.scorer_file import remember
from luvc_export.pipeline.plans import images_of_tiles, images_of_video

#: Frames and tiles that share a budget.
FRAMES, TILES = 4, (1, 2)
#: Layers of the tiny models: one before a prune, one after it, one that drops.
LAYERS = 3
#: Budgets of images that share one; a list of budgets, as shares of the tokens, is of single images.
SHARED = "thirds"


@dataclass(frozen=True, eq=False)
class Feature:
    """A plan's choice.

    Args:
        name: As the table says it.
        keep: Share of the tokens that each layer sees; or the name of a plan or schedule.
        choices: Of ``make_plan``.
        bucket: Percent of the units, where the plan is a bucket.
    """

    name: str
    keep: tuple[float, ...] | str = (1, 0.5, 0)
    choices: dict[str, Any] = field(default_factory=dict)
    bucket: int | None = None

    @property
    def shared(self) -> str:
        """What shares a budget: ``clip``, ``tiles``, or nothing."""
        return "clip" if "frames" in self.choices else "tiles" if "joint_tiles" in self.choices else ""


def features() -> list[Feature]:
    """Every choice there is; a score that is added is here by itself."""
    listed = [Feature(name, name) for name in ("none", "safe", "luvc", "luvc-literal")]
    listed += [Feature(f"score {name}", choices={"score": name}) for name in scores.built_in()]
    listed += [
        Feature("axis channel", choices={"axis": "channel"}),
        Feature("spectrum 1d", choices={"spectrum": "1d"}),
        Feature("reducer merge", choices={"reducer": "merge"}),
        Feature("kv-only", (1, 1, 0.5), {"kv_only": (1,), "last_layer": "full"}),
        Feature("kv-only after a prune", (1, 0.5, 0.5), {"kv_only": (1,), "last_layer": "kv_only"}),
        Feature("kv-only, tokens in turns", (1, 1, 0.5), {"kv_only": (1,), "turns": 3, "last_layer": "full"}),
        Feature("last layer kv_only", (1, 0.5, 0.5), {"last_layer": "kv_only"}),
        Feature("last layer full", (1, 0.5, 0.25), {"last_layer": "full"}),
    ]
    listed += [
        Feature(f"merge {where}", choices={"merge_keep": 0.5, "merge_schedule": where})
        for where in ("late", "gradual", "early", "windows")
    ]
    listed += [
        Feature("merge, size bias", choices={"merge_keep": 0.5, "size_bias": True}),
        Feature("merge in the LLM", choices={"merge_keep": 0.5, "reducer": "merge"}),
    ]
    leaves = {"prune": EncoderPruneRequest(0.5, 0, "none"), "spectrum": "1d"}
    listed += [
        Feature("encoder keep, restore all", choices={"prune": EncoderPruneRequest(0.5, 0, "all")}),
        Feature("encoder keep, restore none", (0.5, 0.25, 0), leaves),
    ]
    listed.append(Feature("bucket by name", choices={"merge_keep": 1.0}, bucket=50))
    for shared, choices in (("frames", {"frames": FRAMES}), ("tiles", {"joint_tiles": TILES})):
        for quota in ("none", "uniform", "spread", "v-cast"):
            listed.append(Feature(f"joint {shared}, quota {quota}", SHARED, {**choices, "quota": quota}))
        listed += [
            Feature(f"joint {shared}, quota spread, {score}", SHARED, {**choices, "quota": "spread", "score": score})
            for score in ("scope", "maxmin")
        ]
    return listed


def asked(feature: Feature, checkpoint: Checkpoint, units: int, hidden: int) -> tuple[str | list[int], dict[str, Any]]:
    """Schedule or budgets, and choices, as ``make_plan`` takes them for this model.

    Raises:
        UsageError: The family makes no such videos or tiles.
    """
    choices = dict(feature.choices)
    if (frames := choices.pop("frames", None)) is not None:
        choices["joint_images"] = images_of_video(checkpoint, frames)
    if "joint_tiles" in choices:
        choices["joint_images"] = images_of_tiles(checkpoint, choices["joint_tiles"])
    if "prune" in choices:
        choices["encoder_prune"] = choices.pop("prune")
    if choices.get("score") == "learned":
        maps = torch.randn(2, 8, hidden, generator=torch.Generator().manual_seed(0))
        choices["scorer"] = remember(save({"query": maps[0].clone(), "key": maps[1].clone()}), "made here").sha256
    if isinstance(feature.keep, str):
        return feature.keep, choices
    tokens = int(units * choices.get("merge_keep", 1))
    return [int(share * tokens) for share in feature.keep], {"merge_keep": 1.0, **choices}
