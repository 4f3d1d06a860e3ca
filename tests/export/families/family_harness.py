"""Tiny models of every family with random weights, their Hugging Face answers and ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import timm_stand_in
import torch
from family_checkpoints import find
from flat_plans import flat_request
from torch import Tensor, nn

from luvc_export.core.plan import Plan
from luvc_export.core.planning import solve
from luvc_export.core.token_layout import TokenLayout, arrange, block_of, seen_both_ways
from luvc_export.export import families
from luvc_export.export.families.base import Family, Normalise, ReferencePrompt
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.span import empty_caches

#: fp32, sums in another order; logits have a standard deviation of at least 1.
TOLERANCE = 1e-4
#: What a sabotage must move the logits by.
SABOTAGE = 100 * TOLERANCE
GREEDY = 32
#: Families whose models can be made here: some towers are another package's.
MADE_HERE = [name for name in families.built_in() if (own := find(name).needs) is None or find_spec(own)]
if find_spec("timm"):  # modules that ask a family for its sizes may be collected alone
    timm_stand_in.load()


@dataclass(frozen=True)
class Case:
    """A tiny model of a family, with plan ``none`` and the default one, merging to half so that both axes merge."""

    family: Family
    config: Any
    model: Any
    size: tuple[int, int]
    plan: Plan
    thirds: Plan

    def __str__(self) -> str:
        return self.family.model_type

    @property
    def wide(self) -> tuple[tuple[int, int], Plan]:
        """Another image size, and the default plan for it."""
        unit = self.family.unit_pixels(self.config)
        shapes = self.family.decoder_shape(self.config), self.family.encoder_shape(self.config)
        share = 0.5 if shapes[1].blocks else None
        return (2 * unit, 6 * unit), solve(flat_request(schedule="thirds", merge_keep=share), (2, 6), *shapes)

    def normalise(self) -> Normalise:
        pixels = self.family.pixels
        return Normalise(pixels.rescale, list(pixels.mean), list(pixels.std))

    def vision(self, plan: Plan) -> nn.Module:
        return self.family.vision(self.model, plan, self.normalise())

    def images(self, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(7)
        return torch.randint(0, 256, (count, 1, *self.size, 3), dtype=torch.uint8, generator=generator)

    def prompt(self, images: int) -> list[int]:
        """Text before, between and after ``images`` images, what the family writes around them included."""
        generator = torch.Generator().manual_seed(11 + images)
        words = iter(torch.randint(3, 200, (64,), generator=generator).tolist())
        ids = [next(words) for _ in range(4)]
        for _ in range(images):
            ids += self.written()
            ids += [next(words) for _ in range(3)]
        return ids

    def written(self) -> list[int]:
        """What stands for an uncut picture. No tokenizer here: any token stands for a piece of text."""
        parts = self.family.cuts(self.config)[0].spelled(self.plan.grid[0])
        return [part if isinstance(part, int) else 201 + len(part) % 8 for part in parts]


@cache
def case(name: str) -> Case:
    family = families.find(name, "test")
    return build(family, family.tiny_config())


def build(family: Family, config: Any, seed: int = 0, size: tuple[int, int] | None = None) -> Case:
    torch.manual_seed(seed)
    config._attn_implementation = "eager"
    model: Any = family.as_trained(family.build(config).eval())
    randomise(model)
    unit = family.unit_pixels(config)
    size = size or family.image_size(config) or (4 * unit, 6 * unit)
    shapes = family.decoder_shape(config), family.encoder_shape(config)
    grid = size[0] // unit, size[1] // unit
    share = 0.5 if shapes[1].blocks else None
    none, thirds = (solve(flat_request(schedule=name, merge_keep=share), grid, *shapes) for name in ("none", "thirds"))
    return Case(family, config, model, size, none, thirds)


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Weights that matter: the default init is so small that wrong positions hardly move the logits."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape)
        if "embed" in name and parameter.dim() > 1 and "patch" not in name:
            parameter.copy_(noise)
        elif parameter.dim() > 1:
            parameter.copy_(noise * 1.2 / parameter[0].numel() ** 0.5)
        elif "norm" in name and "weight" in name:
            parameter.copy_(parameter + 0.2 * noise)
        else:
            parameter.copy_(0.2 * noise)
    for rule in (module for module in model.modules() if hasattr(module, "in_proj_qkv")):
        # A gated norm reads what a query finds under the keys, its own first. Drawn apart, some of a few channels find
        # next to nothing, which the norm makes as large as any other row: 16 bits then say nothing of it.
        for weight in (rule.in_proj_qkv.weight, rule.conv1d.weight):
            queries, keys = weight[: rule.key_dim], weight[rule.key_dim : 2 * rule.key_dim]
            keys.copy_((queries + keys) / 2**0.5)
    for name, buffer in model.named_buffers():
        if name.endswith(("_min", "_max")):
            buffer.copy_(torch.tensor(-2.5 if name.endswith("_min") else 2.5) + 0.5 * torch.randn(()))
        elif name.endswith(("layer_scalar", "std_scale", "std_bias")):
            buffer.copy_(1 + 0.2 * torch.randn(buffer.shape))


@dataclass
class Run:
    """Decoder inputs of one prompt; tests change them to sabotage."""

    embeds: Tensor
    layout: TokenLayout
    change: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    def inputs(self) -> list[Tensor]:
        """All decoder inputs before the caches, every text token's logits asked for."""
        text = self.layout.input_ids.shape[1]
        named = {
            "visual_embeds": self.embeds[None],
            **{
                name: torch.from_numpy(getattr(self.layout, name))
                for name in ("input_ids", "visual_position_ids", "position_ids", "visual_order", "order")
            },
            "text_mask": torch.ones(1, text, dtype=torch.bool),
            "logits_indices": torch.arange(text)[None],
        }
        return [self.change.get(name, lambda unchanged: unchanged)(value) for name, value in named.items()]


def encode_images(
    case: Case, plan: Plan, images: Tensor, vision: nn.Module | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, positions and places of ``images``; zero rows without any."""
    if not len(images):
        width = case.family.visual_width(case.config)
        return torch.zeros(0, plan.vision_tokens, width), torch.zeros(0, plan.vision_tokens, 2), torch.zeros(0, 0)
    with torch.no_grad():
        out: tuple[Tensor, Tensor, Tensor] = (vision or case.vision(plan))(images)
    return out


def lay_out(case: Case, plan: Plan, ids: list[int], embeds: Tensor, positions: Tensor) -> Run:
    family, config = case.family, case.config
    cut = family.cuts(config)[0]
    blocks = {number: block for number in range(len(embeds)) if (block := block_of(cut, number))}
    places = positions.numpy()
    layout = arrange(ids, family.image_token_id(config), places, plan.grid, family.position_kind, blocks=blocks)
    return Run(embeds, seen_both_ways(layout) if family.prefix(config) else layout)


def empty_past(case: Case, batch: int = 1) -> list[Tensor]:
    return empty_caches(case.family.decoder_shape(case.config), batch, torch.float32)


def cached_rows(case: Case, past: list[Tensor]) -> dict[int, int]:
    """Rows of each layer that caches keys."""
    states = case.family.decoder_shape(case.config).kept
    return {one.layer: tensor.shape[2] for one, tensor in zip(states, past, strict=True) if one.in_cache}


def logits(case: Case, decoder: Decoder, run: Run) -> Tensor:
    """Logits [T, vocab] of the text tokens the vocabulary knows."""
    with torch.no_grad():
        out: Tensor = decoder(*run.inputs(), empty_past(case))[0][0]
    return out[spoken(case, run)]


def spoken(case: Case, run: Run) -> Tensor:
    """Which text tokens are no picture's in Hugging Face's sequence either, bool [T]."""
    ids, image = run.layout.input_ids[0].tolist(), case.family.image_token_id(case.config)
    theirs = case.family.reference_inputs(case.config, ReferencePrompt(torch.zeros(0, 1, *case.size, 3), ids))
    return theirs["input_ids"][0] != image


def next_inputs(run: Run, decoder: Decoder, token: int, seen: int) -> list[Tensor]:
    """Decoder inputs of the next token of one row, ``seen`` text tokens counting it."""
    axes, ahead = run.layout.position_ids.shape[0], seen - 1 - run.layout.input_ids.shape[1]
    return [
        torch.zeros(1, 0, decoder.plan.vision_tokens, run.embeds.shape[-1]),
        torch.tensor([[token]]),
        torch.zeros(axes, 1, 0),
        torch.full((axes, 1, 1), float(run.layout.next_position + ahead)),
        torch.zeros(1, 0, dtype=torch.int64),
        torch.tensor([[run.layout.next_order + ahead]]),
        torch.ones(1, seen, dtype=torch.bool),
        torch.zeros(1, 1, dtype=torch.int64),
    ]


def greedy(case: Case, decoder: Decoder, run: Run, count: int = GREEDY) -> list[int]:
    """``count`` tokens by decoding one at a time with the caches."""
    inputs, past, tokens = run.inputs(), empty_past(case), list[int]()
    with torch.no_grad():
        for step in range(count):
            out, past, _ = decoder(*inputs, past)
            tokens.append(int(out[0, -1].argmax()))
            inputs = next_inputs(run, decoder, tokens[-1], run.layout.input_ids.shape[1] + step + 1)
    return tokens


def reference(case: Case, ids: list[int], images: Tensor) -> dict[str, Any]:
    """Inputs of the transformers model."""
    return case.family.reference_inputs(case.config, ReferencePrompt(case.normalise()(images), ids))


def reference_logits(case: Case, inputs: dict[str, Any]) -> Tensor:
    """Hugging Face's logits [T, vocab] of the text tokens."""
    if hasattr(case.model.model, "rope_deltas"):
        case.model.model.rope_deltas = None
    with torch.no_grad():
        out: Tensor = case.model(**inputs).logits[0]
    return out[inputs["input_ids"][0] != case.family.image_token_id(case.config)]


def reference_embeds(case: Case, inputs: dict[str, Any]) -> Tensor:
    """Hugging Face's visual embeddings as they enter the LLM [n * N, width], DeepStack planes after each token."""
    vision = {k: v for k, v in inputs.items() if k not in ("input_ids", "mm_token_type_ids", "token_type_ids")}
    with torch.no_grad():
        out = case.model.get_image_features(**vision, return_dict=True)
    flat = [torch.cat([*out.pooler_output]) * getattr(case.config.get_text_config(), "embedding_multiplier", 1)]
    flat += [torch.cat([*plane]) for plane in getattr(out, "deepstack_features", None) or []]
    joined: Tensor = torch.cat([part.reshape(-1, part.shape[-1]) for part in flat], -1)
    return joined


def units(case: Case) -> Tensor:
    """Which of the rows that stand for a picture in Hugging Face's sequence are units, int64 [plan.units].

    The first ones, or those between vectors of the model's own where these end each row.
    """
    (rows, columns), cut = case.plan.grid, case.family.cuts(case.config)[0]
    between = cut.row_ends is not None and isinstance(cut.row_ends[0], int)
    first = cut.written.index(case.family.image_token_id(case.config)) if between else 0
    return first + ((columns + between) * torch.arange(rows)[:, None] + torch.arange(columns)).flatten()


def reference_greedy(case: Case, inputs: dict[str, Any], count: int = GREEDY) -> list[int]:
    """Hugging Face's ``generate``."""
    case.model.generation_config.eos_token_id = None
    case.model.generation_config.pad_token_id = 0
    if hasattr(case.model.model, "rope_deltas"):
        case.model.model.rope_deltas = None
    mask = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        out = case.model.generate(**inputs, attention_mask=mask, do_sample=False, max_new_tokens=count)
    return [int(token) for token in out[0, inputs["input_ids"].shape[1] :]]


def reads_as_prompt(case: Case, tokens: list[int]) -> bool:
    """Whether an answer's tokens are read alike where they are part of a prompt: causal, and none stands for media."""
    names = ("image_token_id", "image_token_index", "video_token_id", "vision_start_token_id", "audio_token_id")
    marks = {getattr(case.config, name, None) for name in names} | {case.family.image_token_id(case.config)}
    return not case.family.prefix(case.config) and not marks & {*tokens}


def reference_chooses(case: Case, ids: list[int], images: Tensor, tokens: list[int]) -> bool:
    """Whether Hugging Face's greedy answer to ``ids`` is ``tokens``: in one call, each the best after those before."""
    if not reads_as_prompt(case, tokens):
        return tokens == reference_greedy(case, reference(case, ids, images), len(tokens))
    inputs = reference(case, [*ids, *tokens[:-1]], images)
    return bool(reference_logits(case, inputs)[-len(tokens) :].argmax(-1).tolist() == tokens)


def graph_shape(case: Case) -> Any:
    """Decoder sizes as ``trace_decoder`` takes them: ``hidden`` is the width of ``visual_embeds``."""
    return replace(case.family.decoder_shape(case.config), hidden=case.family.visual_width(case.config))


def difference(a: Tensor | np.ndarray[Any, Any], b: Tensor | np.ndarray[Any, Any]) -> float:
    """Largest absolute difference; inf where shapes differ."""
    left, right = torch.as_tensor(a), torch.as_tensor(b)
    return float((left - right).abs().max()) if left.shape == right.shape else float("inf")
