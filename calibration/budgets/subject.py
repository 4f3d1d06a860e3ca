"""A model and data in two parts: what plans are searched for, and measured on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from luvc_export.bundle.manifest import Manifest
from luvc_export.calibration.ablation.store import Store, weights_hash
from luvc_export.calibration.budgets.part import Choose, Part
from luvc_export.calibration.budgets.retrieval import PairsPart, canvas_of_task
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.runners import load_model
from luvc_export.calibration.runners.canvas import Grids
from luvc_export.core.plan import Plan, Sharing
from luvc_export.core.plan.cost import cost
from luvc_export.core.planning import PlanRequest, solve
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.errors import Progress, UsageError
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.export.compression import scores
from luvc_export.export.compression.scorer_file import known

#: Changes when a record's meaning does, so that old measurements are not mixed in.
RECORDS = 2


@dataclass(frozen=True)
class Subject:
    """A checkpoint and data in two parts, asked with pictures of one size.

    Args:
        checkpoint: With weights.
        data: Pictures and prompts.
        held_out: Share of the pictures that is kept for the check.
        image_size: Height and width, multiples of the family's unit.
        tiles: Grids of tiles a picture may be cut to, each tile an image with a budget of its own.
        video: Give images as many frames as the family's videos have, as a bundle with videos does.
        sharing: Images that share a budget.

    Raises:
        UsageError: The model pools the frames that are to share a budget.
    """

    checkpoint: Checkpoint
    data: CalibrationSet
    held_out: float
    image_size: tuple[int, int]
    tiles: Grids = ((1, 1),)
    video: bool = False
    sharing: Sharing = Sharing()

    def __post_init__(self) -> None:
        family, clip = self.checkpoint.family, self.sharing.kind == "clip"
        frames = family.video(self.checkpoint.config) if clip or self.video else None
        if frames is not None and frames.pooled is not None:
            raise UsageError(
                "no plan is searched for frames that the model pools",
                where="--joint-frames" if clip else "--video",
                got=family.model_type,
                fix="take a plan with a name: export --joint-frames N --plan film",
            )

    @cached_property
    def halves(self) -> tuple[CalibrationSet, CalibrationSet]:
        """The calibration part and the held-out one."""
        return self.data.split(1 - self.held_out)

    @property
    def llm(self) -> DecoderShape:
        """Sizes of the LLM."""
        return self.checkpoint.family.decoder_shape(self.checkpoint.config)

    @property
    def encoder(self) -> EncoderShape:
        """Sizes of the encoder."""
        return self.checkpoint.family.encoder_shape(self.checkpoint.config)

    @property
    def grid(self) -> tuple[int, int]:
        """Units (rows, columns) of an image."""
        unit = self.checkpoint.family.unit_pixels(self.checkpoint.config)
        return self.image_size[0] // unit, self.image_size[1] // unit

    @cached_property
    def image(self) -> Manifest:
        """What pictures are fitted to, and how they are cut."""
        return canvas_of_task(self.checkpoint, self.image_size, self.tiles, self.video)

    @cached_property
    def fitting(self) -> dict[str, Any]:
        """Fields of a plan's parts that say how pictures are fitted."""
        return {"padding": self.image.image.fit == "pad"}

    def solved(self, request: PlanRequest, switches: Mapping[str, Any]) -> Plan:
        """The plan of ``request`` for this model and size, with what its score says of itself, and ``switches``."""
        return scores.described(solve(request, self.grid, self.llm, self.encoder)).changed(**switches)

    def flops(self, plan: Plan, text: int, images: int) -> int:
        """Prefill FLOPs of the LLM under a plan."""
        return cost(plan, self.llm, text, images).flops

    def check_scorer(self, scorer: str, layers: Iterable[int]) -> None:
        """Check that the learned scorer of this hash has maps for prunes before ``layers``; the empty hash is none.

        Raises:
            PlanError: It was not opened, or has not learned a layer or this width.
        """
        for layer in layers if scorer else ():
            known(scorer).of(layer, self.llm.hidden)

    def store(self, path: Path) -> Store:
        """Measurements of this subject, kept at ``path``."""
        return Store(path, self.about)

    def load_model(self, device: str) -> Any:
        """The checkpoint as torch runs it, in fp32, on ``cpu`` or ``cuda``."""
        return load_model(self.checkpoint, device=device)

    @property
    def freezable(self) -> list[int]:
        """Layers that may carry: they have keys and values, and the last one's cost little anyway."""
        return [n for n in range(min(self.llm.cached, self.llm.layers - 1)) if n not in self.llm.keyless]

    @property
    def about(self) -> dict[str, Any]:
        """What every measurement depends on, as plain data."""
        learned, kept = self.halves
        about = {
            "data": self.data.to_json(),
            "calibration": learned.to_json(),
            "held_out": kept.to_json(),
            "weights": weights_hash(self.checkpoint.folder),
            "image_size": list(self.image_size),
            "records": RECORDS,
        }
        seen = {"tiles": self.tiles, "video": self.video, "joint_images": self.sharing.images}
        if seen != {"tiles": ((1, 1),), "video": False, "joint_images": 1}:
            about["media"] = json.loads(json.dumps(seen))
        if not self.image.does.decodes:
            about["task"] = self.image.task
        return about

    def parts(
        self, model: Any, none: Plan, store: Store, progress: Progress, choose: Choose | None = None
    ) -> tuple[Any, Any]:
        """Both parts, answered by the uncompressed model; ``choose`` leaves questions out, of pairs none.

        Raises:
            UsageError: The model finds the pages of pairs no better than chance.
        """
        stage = "the uncompressed model's answers"
        progress(stage, 0.0)
        common = self.image, none, store
        parts: list[Any] = []
        for name, data in zip(("calibration", "held-out"), self.halves, strict=True):
            if self.image.does.decodes:
                parts.append(Part(name, self.checkpoint, model, data, *common, choose))
            else:
                parts.append(PairsPart(name, self.checkpoint, model, data, *common))
            progress(stage, len(parts) / 2)
        return parts[0], parts[1]
