"""MiniCPM-V 4.7: SigLIP whose patches join in windows half-way, a second join at the end, Qwen3.5's text model."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import MiniCPMV4_7Config, MiniCPMV4_7ForConditionalGeneration
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil
from transformers.vision_utils import get_vision_nearest_position_ids

from luvc_export.core.plan import Plan
from luvc_export.core.plan.encoder import EncoderPrune
from luvc_export.core.shapes import EncoderShape
from luvc_export.core.tiling import Tiling, Video
from luvc_export.errors import CheckpointError
from luvc_export.export.compression import oim, unit_prune
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import Family, Normalise, ReferencePrompt
from luvc_export.export.families.qwen3_5 import Qwen35
from luvc_export.export.layers import attention, norm, split_heads
from luvc_export.export.towers.learned_position_vit import LearnedPositionViT, Stage
from luvc_export.export.towers.unit_tower import Seen

#: Patches along a unit: of both joins, or of the last alone (``downsample_mode``).
SIDES = {"16x": 4, "4x": 2}
#: Patches along a window of a join.
WINDOW = 2
#: Of a config: what transformers pins to the canvas of a picture.
MARKS = ("image_start_id", "image_end_id", "slice_start_id", "slice_end_id", "newline_id")


class Vision(LearnedPositionViT):
    """Tower, its last norm, a norm and two products of each unit's patches.

    A window of the join half-way lies inside a unit, so units merge and leave before and behind it; ``side`` is that of
    the moment.
    """

    nearest: Tensor
    #: Its processor lays patches of all pictures in one row: compression inside transformers does not take that.
    padded_patches = True

    def __init__(self, model: Any, plan: Plan, normalise: Normalise) -> None:
        config, side = model.config.vision_config, SIDES[model.config.downsample_mode]
        super().__init__(model.vision_tower, plan, normalise, plan.grid, side, (config.num_hidden_layers,))
        self.whole, self.merger = side, model.merger.mlp[0]
        self.joins = config.insert_layer_id + 1 if side > WINDOW else -1
        sizes = torch.tensor([[count * side for count in plan.grid]])
        places = get_vision_nearest_position_ids(sizes, self.tower.embeddings.num_patches_per_side)
        self.register_buffer("nearest", places, persistent=False)

    def from_pixels(self, pixels: Tensor, beside: Tensor | None = None) -> Seen:
        """See ``LearnedPositionViT``."""
        self.side = self.whole
        return super().from_pixels(pixels, beside)

    def positions(self) -> Tensor:
        """Of the place of the square table that is nearest to each patch."""
        return self.tower.embeddings.position_embedding.weight.index_select(0, self.nearest)

    def block(self, number: int, x: Tensor, stage: Stage, pruned: unit_prune.Kept | None) -> Tensor:
        """The first block behind the join reads joined patches."""
        if number == self.joins:
            x, self.side = self._joined(x), WINDOW
        return super().block(number, x, stage, self._of_now(pruned))

    def tap(self, x: Tensor, units: oim.Units, stage: Stage, pruned: unit_prune.Kept | None) -> Tensor:
        """See ``UnitTower``."""
        return super().tap(x, units, stage, self._of_now(pruned))

    def give(
        self, x: Tensor, saved: list[Tensor], units: oim.Units, stage: Stage, pruned: unit_prune.Kept | None
    ) -> Tensor:
        """Where the last block is the one that the join follows, now."""
        if self.joins == self.blocks:
            x, self.side = self._joined(x), WINDOW
        return super().give(x, saved, units, stage, pruned)

    def choose(
        self, prune: EncoderPrune, x: Tensor, before: Tensor, units: oim.Units, stage: Stage, padded: bool
    ) -> unit_prune.Kept:
        """See ``UnitTower``."""
        before = before if before.shape == x.shape else self._joined(before)
        return super().choose(prune, x, before, units, stage, padded)

    def finish(self, states: list[Tensor]) -> Tensor:
        """[n, U * 4, C] -> [n, U, D]."""
        x, merger = norm(self.tower.post_layernorm, states[0]), self.merger
        x = norm(merger.pre_norm, x.reshape(x.shape[0], -1, self.side**2 * x.shape[2]))
        embeds: Tensor = merger.linear_2(merger.act(merger.linear_1(x)))
        return embeds

    def _joined(self, x: Tensor) -> Tensor:
        """[n, U * 16, C] -> [n, U * 4, C]: attention inside windows of 2 x 2, the four to one, beside their mean."""
        join, channels = self.tower.vit_merger, x.shape[2]
        rows = x.reshape(-1, WINDOW, WINDOW, WINDOW, WINDOW, channels).transpose(2, 3).reshape(-1, WINDOW**2, channels)
        normed, a = norm(join.layer_norm1, rows), join.self_attn
        query, key, value = (split_heads(part(normed), self.head_dim) for part in (a.q_proj, a.k_proj, a.v_proj))
        rows = rows + a.out_proj(attention(query, key, value, None, self.scale))
        wide = join.linear_2(join.act(join.linear_1(norm(join.pre_norm, rows.flatten(1)))))
        return (wide + rows.mean(1)).reshape(x.shape[0], -1, channels)

    def _of_now(self, pruned: unit_prune.Kept | None) -> unit_prune.Kept | None:
        """Units that left before the join, as it would have joined them."""
        width = self.side**2 * self.config.hidden_size
        if pruned is None or pruned.restore is None or pruned.before.shape[2] == width:
            return pruned
        before, chosen = (
            self._joined(self._units_apart(part)).reshape(part.shape[0], -1, width)
            for part in (pruned.before, pruned.chosen)
        )
        return pruned._replace(before=before, chosen=chosen)

    def _units_apart(self, units: Tensor) -> Tensor:
        """[n, U, 16 * C] -> [n, U * 16, C]."""
        return units.reshape(units.shape[0], -1, self.config.hidden_size)


class MiniCPMV47(Qwen35):
    """MiniCPM-V 4.7. A picture is one image; its own processor calls that ``slice_mode`` false."""

    model_type = "minicpmv4_7"
    architecture = MiniCPMV4_7ForConditionalGeneration
    text_models = ("qwen3_5_text",)
    limits = ("slices", "videos", *Qwen35.limits)

    def build(self, config: Any) -> nn.Module:
        """MiniCPMV4_7ForConditionalGeneration.

        Raises:
            CheckpointError: Another text model, other windows or joins, or no ids of the marks around a picture.
        """
        self.check_half("text", config, self.text_models)
        for name, wanted in (("merger_times", [1]), ("merge_kernel_size", [WINDOW] * 2)):
            value = getattr(config, name)
            if list(np.atleast_1d(value)) != wanted:
                raise CheckpointError("patches are joined otherwise than here", where=name, got=value, expected=wanted)
        lacking = [name for name in MARKS if getattr(config, name) is None]
        if lacking:
            raise CheckpointError(
                "the config does not name the marks around a picture, which positions hang on",
                where=lacking[0],
                got=None,
                expected="ids, as the config.json of the model's repository has them",
            )
        return self.architecture(config)

    def side(self, config: Any) -> int:
        """Of both joins."""
        return SIDES[config.downsample_mode]

    def blocks(self, config: Any) -> int:
        """All, by SigLIP's name."""
        return Family.blocks(self, config)

    def encoder_shape(self, config: Any) -> EncoderShape:
        """Counted as if nothing joined half-way."""
        return Family.encoder_shape(self, config)

    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """The tower with the plan's merges."""
        return Vision(model.model, plan, normalise)

    def as_trained(self, model: Any) -> Any:
        """As it is: there are no videos to be placed."""
        return model

    def video(self, config: Any) -> Video | None:
        """None: frames have slices of their own."""
        return None

    def cut(self, config: Any, grid: tuple[int, int]) -> Tiling:
        """The picture's number, and the picture between its marks, all on its canvas."""
        start, end, *_ = marks = tuple(getattr(config, name) for name in MARKS)
        picture = super().cut(config, grid).written
        return Tiling(("<image_id>{number}</image_id>", start, *picture, end), canvas=marks)

    def image_processor(self, folder: str | os.PathLike[str]) -> Any:
        """The one of Pillow, whatever is installed."""
        return MiniCPMV4_6ImageProcessorPil.from_pretrained(folder, local_files_only=True)

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """Patches of all pictures in one row, and the grid of each."""
        ids, patch = self.expanded(config, prompt), config.vision_config.patch_size
        if not len(prompt.pixels):
            return {"input_ids": ids}
        images, _, height, width, _ = prompt.pixels.shape
        patches = prompt.pixels.reshape(images, height // patch, patch, width // patch, patch, 3)
        return {
            "input_ids": ids,
            "mm_token_type_ids": (ids == self.image_token_id(config)).int(),
            "pixel_values": patches.permute(5, 2, 0, 1, 3, 4).reshape(1, 3, patch, -1),
            "target_sizes": torch.tensor([(height // patch, width // patch)] * images),
        }

    def tiny_config(self) -> MiniCPMV4_7Config:
        """Three blocks, a join behind the second; Qwen3.5's four layers."""
        text = super().tiny_config().text_config.to_dict()
        return MiniCPMV4_7Config(
            vision_config=_tiny.vision(image_size=36, patch_size=4),
            text_config=text,
            insert_layer_id=1,
            image_token_id=250,
            video_token_id=251,
            **dict(zip(MARKS, (252, 253, 254, 255, 3), strict=True)),
        )


FAMILY = MiniCPMV47()
