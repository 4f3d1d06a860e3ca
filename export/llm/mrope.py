"""What the Qwen-VL families share beside the encoder: M-RoPE decoder and the inputs of their transformers models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from luvc_export.core.plan import Plan
from luvc_export.core.tiling import Video
from luvc_export.errors import CheckpointError
from luvc_export.export.families.base import Family, Normalise, ReferencePrompt, expand_images, rotary_embedding
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.rope import Rope, mrope_axes
from luvc_export.export.towers.rotary_position_vit import RotaryPositionViT


class MropeFamily(Family):
    """A family whose LLM places visual tokens by (t, h, w) and whose encoder takes flat patches."""

    position_kind = "mrope"
    #: The family's encoder.
    encoder: type[RotaryPositionViT]

    def side(self, config: Any) -> int:
        """The patch merger's."""
        return int(config.vision_config.spatial_merge_size)

    def blocks(self, config: Any) -> int:
        """All, by Qwen-VL's name."""
        return int(config.vision_config.depth)

    def axes(self, section: list[int], frequencies: int) -> list[int]:
        """Position axis of every one of so many rotary frequencies: sections one after another, unless overridden.

        Args:
            section: Frequencies of each axis, ``mrope_section``.
            frequencies: Half a head.
        """
        return mrope_axes(section)

    def tapped(self, config: Any) -> tuple[int, ...]:
        """Blocks of the encoder that give DeepStack planes."""
        return ()

    def visual_width(self, config: Any) -> int:
        """The embedding and its DeepStack planes side by side."""
        return int(config.text_config.hidden_size * (1 + len(self.tapped(config))))

    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """The encoder with the plan's merges."""
        shape, tapped = self.encoder_shape(model.config), self.tapped(model.config)
        return self.encoder(model.model.visual, plan, normalise, shape, tapped)

    def video(self, config: Any) -> Video | None:
        """Pairs of frames, all in one place of the text, a time position apart."""
        return Video("<|video_pad|>", config.vision_config.temporal_patch_size, (self.image_token_id(config),), 1.0)

    def decoder(self, model: Any, plan: Plan) -> Decoder:
        """The language model with the plan's prunes."""
        head_dim, planes = self.decoder_shape(model.config).head_dim, len(self.tapped(model.config))
        return Decoder(self.language_model(model), model.lm_head, head_dim, self.rope(model, plan), plan, planes)

    def rope(self, model: Any, plan: Plan, partial: bool = False) -> Rope:
        """Angles of the language model by (t, h, w); ``partial``: heads may be turned in part.

        Raises:
            CheckpointError: See ``rotary_embedding``, or the sections of the config do not fit the heads.
        """
        text = model.config.text_config
        rotary = rotary_embedding(self.language_model(model), text, partial)
        axes = self._axes(text.rope_parameters.get("mrope_section") or rotary.mrope_section, len(rotary.inv_freq))
        copies = plan.encoder.position_copies
        return Rope(rotary.inv_freq, axes, rotary.attention_scaling, copies, axes_per_copy=3)

    def _axes(self, section: Any, frequencies: int) -> list[int]:
        """Position axis of every frequency.

        Raises:
            CheckpointError: ``section`` of the config does not give each one.
        """
        whole = isinstance(section, list | tuple) and len(section) == 3
        if whole and all(type(count) is int and 0 <= count <= frequencies for count in section):
            axes = self.axes(list(section), frequencies)
            placed = [axes.count(axis) for axis in (1, 2)]  # all of them, unless interleaved ones run past the end
            short = 3 * max(section[1:]) > len(axes) + 2 and placed != list(section[1:])
            if len(axes) == frequencies and not short:
                return axes
        raise CheckpointError(
            "the sections of M-RoPE do not fit the heads",
            where="text_config.rope_parameters.mrope_section",
            got=section,
            expected=f"three numbers that together are {frequencies}, half a head",
        )

    def as_trained(self, model: Any) -> Any:
        """Text behind a video stands where the models were trained to have it: see ``place_as_trained``."""
        return place_as_trained(model)

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """Flat patches, their grids, and which tokens are images and videos."""
        vision, side, image = config.vision_config, self.unit_pixels(config), self.image_token_id(config)
        rows, columns = prompt.pixels.shape[2] // side, prompt.pixels.shape[3] // side
        moving = {index for clip in prompt.clips for index in range(clip.first, clip.first + clip.images)}
        places = [place for place, token in enumerate(prompt.token_ids) if token == image]
        kinds = list(prompt.token_ids)
        for index in moving:
            kinds[places[index]] = config.video_token_id
        expanded = expand_images(kinds, image, rows * columns)[0].tolist()
        ids = expand_images(expanded, config.video_token_id, rows * columns)
        if not len(prompt.pixels):
            return {"input_ids": ids}
        grid = (rows * vision.spatial_merge_size, columns * vision.spatial_merge_size)
        sizes = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        still = [index for index in range(len(prompt.pixels)) if index not in moving]
        inputs = {"input_ids": ids, "mm_token_type_ids": (ids == image) + 2 * (ids == config.video_token_id).int()}
        if still:
            inputs["pixel_values"] = flat_patches(prompt.pixels[still], *sizes)
            inputs["image_grid_thw"] = torch.tensor([(1, *grid)] * len(still))
        if prompt.clips:
            inputs["pixel_values_videos"] = flat_patches(prompt.pixels[sorted(moving)], *sizes)
            inputs["video_grid_thw"] = torch.tensor([(clip.images, *grid) for clip in prompt.clips])
            inputs["second_per_grid_ts"] = [clip.seconds for clip in prompt.clips]
        return inputs


def flat_patches(pixels: Tensor, patch: int, merge: int, frames: int) -> Tensor:
    """[n, 1 or frames, H, W, 3] -> [n * patches, 3 * frames * patch * patch], the patches of a unit together."""
    rows, columns = pixels.shape[2] // (patch * merge), pixels.shape[3] // (patch * merge)
    tiles = pixels.expand(-1, frames, -1, -1, -1).reshape(-1, frames, rows, merge, patch, columns, merge, patch, 3)
    return tiles.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, 3 * frames * patch * patch)


def place_as_trained(model: Any) -> Any:
    """Let a transformers model go on after the largest position of any axis behind a video, as it was trained.

    Some versions of transformers (5.9 to 5.23 were seen) go on after rows and columns, and text shares the positions of
    later moments; 5.0 and the vendor's own code do not. What the version at hand gives is moved by what is missing,
    which is nothing where it is right.
    """
    original = model.model.get_rope_index

    def moved(input_ids: Tensor, mm_token_type_ids: Tensor, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
        positions, deltas = original(input_ids, mm_token_type_ids, *arguments, **named)
        mask = named.get("attention_mask")
        for row in range(len(input_ids)):
            there = torch.arange(input_ids.shape[1]) if mask is None else mask[row].bool().cpu().nonzero()[:, 0]
            kinds, mine = mm_token_type_ids[row, there], positions[:, row, there]
            for start in (1 + (kinds[1:] != kinds[:-1]).nonzero()[:, 0]).tolist():
                if kinds[start - 1] == 2:
                    mine[:, start:] += (mine[:, :start].max() + 1 - mine[:, start].min()).clamp(min=0)
            positions[:, row, there] = mine
            deltas[row] = mine.max() + 1 - input_ids.shape[1]
        return positions, deltas

    model.model.get_rope_index = moved
    return model
