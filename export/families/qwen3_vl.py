"""Qwen3-VL: learned positions interpolated to the grid, DeepStack planes, interleaved M-RoPE, query and key norms."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from luvc_export.core.tasks import Embedding, PairPrompt
from luvc_export.core.tiling import Video
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import HALF
from luvc_export.export.layers import norm
from luvc_export.export.llm.mrope import MropeFamily
from luvc_export.export.towers.interpolated_positions import corner_taps, interpolated
from luvc_export.export.towers.rotary_position_vit import RotaryPositionViT

#: Of Qwen3-VL-Embedding and Qwen3-VL-Reranker: ``default_instruction`` of the scripts that their hub folders have, and
#: the reranker's prompt.
_EMBEDDINGS = {
    "embed": Embedding(prompts={"default": "Represent the user's input."}, default_prompt="default"),
    "rerank": Embedding(
        normalise=False,
        prompts={"default": "Given a search query, retrieve relevant candidates that answer the query."},
        default_prompt="default",
        width=1,
        pair=PairPrompt(
            "Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note "
            'that the answer can only be "yes" or "no".',
            instruction="<Instruct>: ",
            query="<Query>:",
            document="\n<Document>:",
            nothing="NULL",
        ),
    ),
}


class Vision(RotaryPositionViT):
    """Encoder whose tapped blocks give DeepStack planes, each through a merger of its own."""

    def finish(self, x: Tensor) -> Tensor:
        """Norm of each patch, then join a unit's patches: [n, U * patches, C] -> [n, U, D]."""
        merger = self.visual.merger
        return _mlp(merger, self.per_unit(norm(merger.norm, x)))

    def finish_plane(self, index: int, x: Tensor) -> Tensor:
        """Join a unit's patches, then norm: [n, U * patches, C] -> [n, U, D]."""
        merger = self.visual.deepstack_merger_list[index]
        return _mlp(merger, norm(merger.norm, self.per_unit(x)))

    def learned_positions(self, rows: int, columns: int) -> Tensor:
        """The square table, bilinear from its first to its last place."""
        side, size = self.config.spatial_merge_size, self.visual.num_grid_per_side
        axes = corner_taps(rows * side, size), corner_taps(columns * side, size)
        return interpolated(self.visual.pos_embed.weight, size, *axes, side)


def _mlp(merger: Any, x: Tensor) -> Tensor:
    out: Tensor = merger.linear_fc2(merger.act_fn(merger.linear_fc1(x)))
    return out


class Qwen3VL(MropeFamily):
    """Qwen3-VL (dense)."""

    model_type = "qwen3_vl"
    architecture = Qwen3VLForConditionalGeneration
    also: tuple[str, ...] = ("Cosmos-Reason2",)
    pixels = HALF
    encoder = Vision

    def axes(self, section: list[int], frequencies: int) -> list[int]:
        """Interleaved t, h, w, t, h, w, ...; what is left after h and w are used up is t."""
        return [axis if (axis := place % 3) and place < 3 * section[axis] else 0 for place in range(frequencies)]

    def tapped(self, config: Any) -> tuple[int, ...]:
        """Encoder blocks whose features DeepStack adds to LLM layers, from the config."""
        return tuple(config.vision_config.deepstack_visual_indexes)

    def video(self, config: Any) -> Video | None:
        """Pairs of frames, each like a picture behind its time in words.

        They stand for the template's marks around a video too, as in the processor Qwen published (transformers 4.57 to
        5.9; vLLM): from 5.10 on transformers leaves those two around them, which the models were not trained with.
        """
        written = ("<{seconds} seconds><|vision_start|>", self.image_token_id(config), "<|vision_end|>")
        return Video("<|vision_start|><|video_pad|><|vision_end|>", config.vision_config.temporal_patch_size, written)

    def embedding(self, config: Any, task: str) -> Embedding | None:
        """As the scripts beside Qwen3-VL-Embedding and Qwen3-VL-Reranker do."""
        return _EMBEDDINGS.get(task)

    def tiny_config(self) -> Qwen3VLConfig:
        """Three blocks, planes after the first two (one before the merges, one at them), three LLM layers."""
        return Qwen3VLConfig(
            vision_config=_tiny.qwen_vision(patch_size=8, num_position_embeddings=36, deepstack_visual_indexes=[0, 1]),
            text_config=_tiny.text(
                head_dim=16, rope_parameters=_tiny.mrope(4, 2, 2, mrope_interleaved=True), **_tiny.ENDS
            ),
            **_tiny.QWEN_TOKENS,
        )


FAMILY = Qwen3VL()
