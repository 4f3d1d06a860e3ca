"""Compression inside a live transformers model: a context that places it and always takes it out again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from luvc_export.core.plan import Plan
from luvc_export.core.token_layout import arrange, block_of, seen_both_ways
from luvc_export.errors import UsageError
from luvc_export.export import families
from luvc_export.export.families.base import Normalise, ReferencePrompt
from luvc_export.export.llm.span import empty_caches

#: What transformers calls a model's caches in its output, and what ``generate`` hands on: ``cache`` since 5.24, whose
#: old name warns.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


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
        model: A loaded checkpoint of a supported family.
        plan: Made for this model.

    Raises:
        UsageError: Inputs do not fit the plan, or hold videos.
    """
    if plan.sharing.images > 1:
        raise UsageError(
            "compression inside transformers takes one image to a budget",
            where="plan.joint_images",
            got=plan.sharing.images,
            fix="export a bundle with --video and ask that",
        )
    before, forward = model.__dict__.get("forward"), _Forward(model, plan)
    model.forward = forward
    try:
        yield model
    finally:
        del model.forward
        if before is not None:
            model.forward = before


def made_on(device: torch.device) -> AbstractContextManager[Any]:
    """While it is entered, tensors that modules make are made on ``device``, where the model is."""
    return device if device.type != "cpu" else nullcontext()


def _signature(model: nn.Module) -> Any:
    """The model's own signature, which ``generate`` checks its arguments by, without pre-encoded images."""
    original = signature(type(model).forward)
    left_out = ("self", "mm_encoder_outputs")
    return original.replace(parameters=[p for name, p in original.parameters.items() if name not in left_out])


class _Forward:
    """What stands in for a model's ``forward``: its halves with the plan's merges and prunes."""

    def __init__(self, model: Any, plan: Plan) -> None:
        self.config, self.plan = model.config, plan
        self.family = families.find(str(model.config.model_type), type(model).__name__)
        places = {*getattr(model, "hf_device_map", {}).values()}
        if len(places) > 1:
            raise UsageError(
                "compression inside transformers takes a model on one device",
                where="model",
                got=f"layers on {', '.join(sorted(map(str, places)))}",
                fix="load it without device_map, or export a bundle and ask that",
            )
        self.vision: Any = self.family.vision(model, plan, Normalise(1.0, [0.0] * 3, [1.0] * 3)).to(model.device)
        if getattr(self.vision, "padded_patches", False):
            raise UsageError(
                f"compression inside transformers does not take the pictures of {self.family.model_type}",
                where="model",
                got="a processor that gives patches of any grid, padded",
                fix="export a bundle and ask that",
            )
        self.decoder = self.family.decoder(model, plan).to(model.device)
        self.__signature__ = _signature(model)

    def __call__(self, input_ids: Tensor, *others: Any, **named: Any) -> CausalLMOutputWithPast:
        with made_on(input_ids.device):
            return self._forward(input_ids, *others, **named)

    def _forward(
        self,
        input_ids: Tensor,
        past_key_values: Any = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        logits_to_keep: int = 0,
        pixel_values_videos: Tensor | None = None,
        cache: Any = None,
        **unused: Any,
    ) -> CausalLMOutputWithPast:
        if pixel_values_videos is not None:
            raise UsageError(
                "compression inside transformers takes no video",
                where="pixel_values_videos",
                fix="pass frames as images, or export a bundle with --video",
            )
        if input_ids.shape[0] != 1:
            raise UsageError(
                "one prompt at a time", where="input_ids", got=list(input_ids.shape), expected="[1, length]"
            )
        config, family, plan = self.config, self.family, self.plan
        image_token, cut = family.image_token_id(config), family.cuts(config)[0]
        if cut.row_ends and isinstance(cut.row_ends[0], str):
            ids = _one_before_its_ends(input_ids[0].tolist(), image_token, plan.grid)
        else:
            ids = _one_placeholder(input_ids[0].tolist(), image_token, *self._one_picture)
        images = ids.count(image_token)
        blocks = {number: block for number in range(images) if (block := block_of(cut, number))}
        embeds, positions = self._seen(pixel_values, image_grid_thw, images)
        past = past_key_values if cache is None else cache
        state = past if isinstance(past, PrunedCache) else None
        starts = (state.position, state.order) if state is not None else (0, 0)
        placed = arrange(ids, image_token, positions.cpu().numpy(), plan.grid, family.position_kind, *starts, blocks)
        if family.prefix(config) is not None:
            placed = seen_both_ways(placed)
        text = placed.input_ids.shape[1]
        total = text + (state.text if state is not None else 0)
        empty = empty_caches(family.decoder_shape(config), 1, embeds.dtype)
        rows = torch.arange(text - logits_to_keep if logits_to_keep else 0, text)[None]
        arrays = (placed.input_ids, placed.visual_position_ids, placed.position_ids, placed.visual_order, placed.order)
        mask, tensors = torch.ones(1, total, dtype=torch.bool), empty if state is None else state.tensors
        inputs = [torch.from_numpy(array).to(input_ids.device) for array in arrays]
        logits, presents, _ = self.decoder(embeds[None], *inputs, mask, rows, tensors)
        sequence = input_ids.shape[1] + (state.sequence if state is not None else 0)
        after = PrunedCache(presents, sequence, total, placed.next_position, placed.next_order)
        return CausalLMOutputWithPast(logits=logits, **{CACHE: after})

    @cached_property
    def _size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        side = self.family.unit_pixels(self.config)
        return self.family.image_size(self.config) or (self.plan.grid[0] * side, self.plan.grid[1] * side)

    @cached_property
    def _one_picture(self) -> tuple[list[int], list[int]]:
        """What processors write for a picture, and what stands for it here: the same for every call."""
        cut = self.family.cuts(self.config)[0]
        written = [part for part in cut.spelled(self.plan.grid[0]) if isinstance(part, int)]
        asked = ReferencePrompt(torch.zeros(1, 1, *self._size, 3), written)
        return self.family.reference_inputs(self.config, asked)["input_ids"][0].tolist(), written

    def _seen(self, pixels: Tensor | None, image_grid_thw: Tensor | None, images: int) -> tuple[Tensor, Tensor]:
        """Embeddings [n, N_0, D] and positions [n, N_0, 2 * copies] of a call's ``images``."""
        plan, side = self.plan, self.family.unit_pixels(self.config)
        if pixels is None:
            dtype, width = self.decoder.embed_tokens.weight.dtype, self.family.visual_width(self.config)
            nothing = torch.zeros(0, plan.vision_tokens, width, dtype=dtype)
            return nothing, torch.zeros(0, plan.vision_tokens, 2 * self.vision.copies)
        if hasattr(self.vision, "from_patches") and pixels.shape[-2:] != (plan.grid[0] * side, plan.grid[1] * side):
            _check_grid(plan, image_grid_thw, self.vision.patches)
            embeds, positions, _ = self.vision.from_patches(pixels)
        else:
            embeds, positions, _ = self.vision(_pictures(pixels, images, self._size))
        return embeds, positions


def _one_placeholder(ids: list[int], image_token: int, theirs: list[int], written: list[int]) -> list[int]:
    """Replace what processors write for an image, ``theirs``, by ``written``: one token and what is around it."""
    short: list[int] = []
    index = 0
    while index < len(ids):
        if ids[index : index + len(theirs)] == theirs:
            short += written
            index += len(theirs)
        elif ids[index] == image_token:
            raise _another_size(f"{theirs.count(image_token)} image tokens in a row")
        else:
            short.append(ids[index])
            index += 1
    return short


def _one_before_its_ends(ids: list[int], image_token: int, grid: tuple[int, int]) -> list[int]:
    """Replace each picture's rows of image tokens, one token after each, by one image token and those ends."""
    (rows, columns), short, index = grid, list[int](), 0
    while index < len(ids):
        if ids[index] != image_token:
            short.append(ids[index])
            index += 1
            continue
        lines = [ids[index + row * (columns + 1) :][: columns + 1] for row in range(rows)]
        if any(line[:-1] != [image_token] * columns or line[-1] == image_token for line in lines):
            raise _another_size(f"{rows} times {columns} image tokens and what ends a row")
        short += [image_token, *(line[-1] for line in lines)]
        index += rows * (columns + 1)
    return short


def _another_size(expected: str) -> UsageError:
    return UsageError(
        "an image in the prompt has another size than the plan",
        where="input_ids",
        expected=expected,
        fix="resize the picture to the plan's image size before the processor, and let it cut no tiles",
    )


def _pictures(pixels: Tensor, images: int, size: tuple[int, int]) -> Tensor:
    """The first of each image's tiles, [n, 1, H, W, 3], from a processor's [..., 3, H, W].

    Processors that cut pictures into tiles give the whole one first, and for several pictures the model takes no other.
    """
    if pixels.shape[-2:] != size:
        raise UsageError(
            "an image has another size than the plan", where="pixel_values", got=list(pixels.shape), expected=size
        )
    each = pixels.reshape(images, -1, *pixels.shape[-3:])[:, 0]
    return each.permute(0, 2, 3, 1)[:, None]


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
