"""Compression inside a live transformers model: a context that places it and always takes it out again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from luvc_export.errors import UsageError
from luvc_export.export import families
from luvc_export.export.decoder import Decoder
from luvc_export.export.families.base import Family, Normalise
from luvc_export.layout import arrange
from luvc_export.plan import Plan


class PrunedCache(DynamicCache):
    """Per-layer caches of different lengths, and where the text goes on.

    ``get_seq_length`` counts the uncompressed sequence, which is what ``generate`` slices its inputs by.
    """

    def __init__(self, tensors: list[Tensor], sequence: int, text: int, position: int, order: int) -> None:
        super().__init__()
        self.tensors, self.sequence, self.text = tensors, sequence, text
        self.position, self.order = position, order

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens so far, every visual one counted."""
        return self.sequence


@contextmanager
def compressed(model: nn.Module, plan: Plan) -> Iterator[nn.Module]:
    """Let ``model(...)`` and ``model.generate(...)`` compress by ``plan`` inside the block; restored on any exit.

    Inputs stay those of the transformers processor, one prompt at a time, every image of the plan's grid.

    Args:
        model: A loaded checkpoint of a supported family whose vision half takes the processor's patches.
        plan: Made for this model.

    Raises:
        UsageError: The family's processor output is not supported, or inputs do not fit the plan.
    """
    family = families.find(
        str(model.config.model_type),  # type: ignore[union-attr]
        type(model).__name__,
    )
    vision = family.vision(model, plan, Normalise(1.0, [0.0] * 3, [1.0] * 3))
    if not hasattr(vision, "from_patches"):
        raise UsageError("compression inside transformers is not there for this family", got=family.model_type)
    decoder = family.decoder(model, plan)
    before = model.__dict__.get("forward")

    def forward(
        input_ids: Tensor,
        past_key_values: Any = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        logits_to_keep: int = 0,
        **unused: Any,
    ) -> CausalLMOutputWithPast:
        return _forward(
            model, family, plan, vision, decoder, input_ids, past_key_values, pixel_values, image_grid_thw,
            logits_to_keep,
        )  # fmt: skip

    forward.__signature__ = _signature(model)  # type: ignore[attr-defined]
    model.forward = forward
    try:
        yield model
    finally:
        del model.forward
        if before is not None:
            model.forward = before


def _signature(model: nn.Module) -> Any:
    """The model's own signature, which ``generate`` checks its arguments by, without pre-encoded images."""
    original = signature(type(model).forward)
    left_out = ("self", "mm_encoder_outputs")
    return original.replace(parameters=[p for name, p in original.parameters.items() if name not in left_out])


def _forward(
    model: nn.Module,
    family: Family,
    plan: Plan,
    vision: Any,
    decoder: Decoder,
    input_ids: Tensor,
    past: Any,
    pixel_values: Tensor | None,
    image_grid_thw: Tensor | None,
    logits_to_keep: int,
) -> CausalLMOutputWithPast:
    if input_ids.shape[0] != 1:
        raise UsageError("one prompt at a time", where="input_ids", got=list(input_ids.shape), expected="[1, length]")
    image_token = family.image_token_id(model.config)
    ids = _one_placeholder(input_ids[0].tolist(), image_token, plan.units)
    dtype = decoder.embed_tokens.weight.dtype
    hidden = decoder.embed_tokens.weight.shape[1]
    embeds = torch.zeros(0, plan.vision_tokens, hidden, dtype=dtype)
    positions = torch.zeros(0, plan.vision_tokens, 2 * vision.copies)
    if pixel_values is not None:
        _check_grid(plan, image_grid_thw, vision.patches)
        embeds, positions, _ = vision.from_patches(pixel_values)
    state = past if isinstance(past, PrunedCache) else None
    placed = arrange(
        ids, image_token, positions.numpy(), plan.grid, family.position_kind,
        state.position if state is not None else 0, state.order if state is not None else 0,
    )  # fmt: skip
    text = placed.input_ids.shape[1]
    total = text + (state.text if state is not None else 0)
    tensors = state.tensors if state is not None else _empty(family, model, plan, dtype)
    rows = torch.arange(text - logits_to_keep if logits_to_keep else 0, text)[None]
    arrays = (placed.input_ids, placed.visual_position_ids, placed.position_ids, placed.visual_order, placed.order)
    logits, presents, _ = decoder(
        embeds[None], *map(torch.from_numpy, arrays), torch.ones(1, total, dtype=torch.bool), rows, tensors
    )
    sequence = input_ids.shape[1] + (state.sequence if state is not None else 0)
    cache = PrunedCache(presents, sequence, total, placed.next_position, placed.next_order)
    return CausalLMOutputWithPast(logits=logits, past_key_values=cache)


def _empty(family: Family, model: nn.Module, plan: Plan, dtype: torch.dtype) -> list[Tensor]:
    shape = family.decoder_shape(model.config)
    return [torch.zeros(1, shape.kv_heads, 0, shape.head_dim, dtype=dtype) for _ in range(2 * plan.layers)]


def _one_placeholder(ids: list[int], image_token: int, units: int) -> list[int]:
    """Replace each run of ``units`` image tokens, as processors write them, by one."""
    short: list[int] = []
    index = 0
    while index < len(ids):
        short.append(ids[index])
        if ids[index] == image_token:
            if ids[index : index + units] != [image_token] * units:
                raise UsageError(
                    "an image in the prompt has another size than the plan",
                    where="input_ids",
                    expected=f"{units} image tokens in a row",
                    fix="resize the picture to the plan's image size before the processor",
                )
            index += units - 1
        index += 1
    return short


def _check_grid(plan: Plan, image_grid_thw: Tensor | None, patches: int) -> None:
    side = round(patches**0.5)
    wanted = [1, plan.grid[0] * side, plan.grid[1] * side]
    if image_grid_thw is None or any(row != wanted for row in image_grid_thw.tolist()):
        raise UsageError(
            "an image has another size than the plan",
            where="image_grid_thw",
            got=None if image_grid_thw is None else image_grid_thw.tolist(),
            expected=wanted,
        )
