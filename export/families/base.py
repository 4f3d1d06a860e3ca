"""What a family gives: sizes, the two halves built on transformers' own sub-modules, and a tiny test model."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import AutoImageProcessor

from luvc_export.core.plan import Plan
from luvc_export.core.shapes import DEFAULT_IMAGE_SIZE, PLACE, ROWS, DecoderShape, EncoderShape, State
from luvc_export.core.tiling import ClipImages, Prefix, Tiling, TilingRule, Video
from luvc_export.core.token_layout import PositionKind
from luvc_export.errors import CheckpointError, UsageError
from luvc_export.export.families._vectors import MakesVectors
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.rope import Rope

#: Text models ``Decoder`` computes: pre-norm, gated MLP, one rotary frequency set, optional per-head norms.
TEXT_MODELS = ("llama", "mistral", "qwen2", "qwen3")
#: RoPE types that read the length of the context where a config does not say which.
GROWING_ROPES = ("yarn", "longrope", "dynamic")
#: RoPE types whose frequencies are the same at every length of the prompt (transformers, ``modeling_rope_utils``).
FIXED_ROPES = ("default", "linear", "llama3", "yarn", "proportional")


@dataclass(frozen=True)
class Pixels:
    """Pixel arithmetic of a family, used where a checkpoint opened without weights has no processor's settings.

    ``(image * rescale - mean) / std``; ``resample`` is a Pillow filter name.
    """

    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    rescale: float = 1 / 255
    resample: str = "bicubic"


#: What SigLIP towers are trained with.
HALF = Pixels(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
IMAGENET = Pixels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True)
class ReferencePrompt:
    """A prompt as the decoder takes it, to be asked of the transformers model.

    Attributes:
        pixels: Normalised fp32 [n, F, H, W, 3], the output of ``Normalise``.
        token_ids: One placeholder per image and everything ``cuts`` writes.
        tiles: Rows and columns of tiles of each picture; none for uncut ones.
        clips: Which images are moments of videos.
    """

    pixels: torch.Tensor
    token_ids: list[int]
    tiles: Sequence[tuple[int, int]] = ()
    clips: Sequence[ClipImages] = ()


class Family(MakesVectors, ABC):
    """One Hugging Face ``model_type``. The defaults are those of an image tower in front of a plain text model.

    Attributes:
        model_type: Name in ``config.json``.
        architecture: Class of the transformers model, where ``build`` is not overridden.
        position_kind: How the LLM places visual tokens, see ``luvc_export.bundle.manifest.Prompt``.
        pixels: Normalisation of the family's processor.
        tiling: How that processor chooses among grids of tiles.
        text_models: Text models that ``decoder`` computes.
        towers: ``model_type`` of the vision towers, where there are others than that of ``tiny_config``.
        also: Models of other names whose checkpoints are of this type.
        limits: What the transformers model or its processor does and this family does not; shown in docs/families.md.
        open_questions: What ``new-family`` could not tell and nobody has answered yet; none once the family is done.
    """

    model_type: str
    architecture: type[nn.Module]
    position_kind: PositionKind = "sequential"
    pixels: Pixels = Pixels()
    tiling: TilingRule = "best_resolution"
    text_models: tuple[str, ...] = TEXT_MODELS
    towers: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    open_questions: tuple[str, ...] = ()

    def build(self, config: Any) -> nn.Module:
        """The transformers model of ``config``, weights uninitialised (called on the meta device)."""
        return self.architecture(config)

    def side(self, config: Any) -> int:
        """Patches along a side of a unit, what becomes one token."""
        return 1

    def blocks(self, config: Any) -> int:
        """Blocks of the vision encoder that run; those behind the last that is read are never computed."""
        return int(config.vision_config.num_hidden_layers)

    def encoder_shape(self, config: Any) -> EncoderShape:
        """Sizes of the vision encoder, full attention in every block."""
        vision, blocks, unit = config.vision_config, self.blocks(config), self.side(config) ** 2
        return EncoderShape(blocks, vision.hidden_size, vision.intermediate_size, unit, 0, tuple(range(blocks)))

    def unit_pixels(self, config: Any) -> int:
        """Side of one unit in pixels; image sides are multiples of it unless ``image_size`` fixes them."""
        return int(config.vision_config.patch_size * self.side(config))

    @abstractmethod
    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """Vision graph module: ``image`` -> visual_embeds, visual_positions, merged_into."""

    @abstractmethod
    def tiny_config(self) -> Any:
        """A config small enough for tests, with every feature of the family."""

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """What the transformers model takes for the same prompt (parity feeds it to the original).

        By default, every placeholder as often as there are units, and the pixels.
        """
        ids, pixels = self.expanded(config, prompt), prompt.pixels
        return {"input_ids": ids, "pixel_values": channels_first(pixels)} if len(pixels) else {"input_ids": ids}

    def expanded(self, config: Any, prompt: ReferencePrompt) -> torch.Tensor:
        """Prompt int64 [1, S] with every placeholder as often as an image has units."""
        unit, (height, width) = self.unit_pixels(config), prompt.pixels.shape[2:4]
        return expand_images(prompt.token_ids, self.image_token_id(config), (height // unit) * (width // unit))

    def tile_settings(self, config: Any, image: tuple[int, int]) -> Mapping[str, Any]:
        """Settings of its processor that ``tiling`` and ``cut`` take for granted; export refuses tiles of others.

        Args:
            config: The model's.
            image: Height and width of a tile.
        """
        return {}

    def as_trained(self, model: Any) -> Any:
        """A transformers model of this family, made to compute what its makers trained where transformers differs."""
        return model

    def check_half(self, half: Literal["vision", "text"], config: Any, known: Sequence[str]) -> None:
        """Refuse a vision tower or a text model that this family does not compute.

        Raises:
            CheckpointError: Its ``model_type`` is none of ``known``.
        """
        kind = (config.get_text_config() if half == "text" else config.vision_config).model_type
        if kind not in known:
            what = "decoder for this text model" if half == "text" else "encoder for this vision tower"
            raise CheckpointError(
                f"no {what} inside {self.model_type}",
                where=f"{half}_config.model_type",
                got=repr(kind),
                expected=f"one of {', '.join(known)}" if len(known) > 1 else known[0],
            )

    def language_model(self, model: Any) -> nn.Module:
        """The text model inside: ``embed_tokens``, ``layers``, ``norm``, ``rotary_emb``."""
        inner: nn.Module = model.model.language_model
        return inner

    def decoder_shape(self, config: Any) -> DecoderShape:
        """Sizes of the LLM, from ``text_config``."""
        text = config.get_text_config()
        return DecoderShape(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            intermediate=text.intermediate_size,
            vocab=text.vocab_size,
            context=context(text),
        )

    def bounded(self, config: Any, text_capacity: int, units: int = 0) -> Any:
        """``config`` with a context as long as its sliding window, where the text and a picture of ``units`` each fit.

        No layer ever slides then, and no place of a cached row is asked for. RoPE types that read the length of the
        context keep it.
        """
        text = config.get_text_config()
        behind, ropes = window(text), str(getattr(text, "rope_parameters", None))
        keeps = any(state.name == PLACE for state in self.decoder_shape(config).states)
        if (
            not keeps
            or behind is None
            or max(text_capacity, units + 1) > behind
            or any(kind in ropes for kind in GROWING_ROPES)
        ):
            return config
        config = copy.deepcopy(config)
        config.get_text_config().max_position_embeddings = behind
        return config

    def decoder(self, model: Any, plan: Plan) -> Decoder:
        """Decoder graph module on the model's own sub-modules.

        Raises:
            CheckpointError: A text model this package does not compute.
        """
        config = model.config
        self.check_half("text", config, self.text_models)
        head_dim, rope = self.decoder_shape(config).head_dim, self.rope(model, plan)
        return Decoder(self.language_model(model), model.lm_head, head_dim, rope, plan)

    def rope(self, model: Any, plan: Plan) -> Rope:
        """Angles of the language model.

        Raises:
            CheckpointError: See ``rotary_embedding``.
        """
        rotary = rotary_embedding(self.language_model(model), model.config.get_text_config())
        axes, copies = [0] * len(rotary.inv_freq), plan.encoder.position_copies
        return Rope(rotary.inv_freq, axes, rotary.attention_scaling, copies)

    def image_token_id(self, config: Any) -> int:
        """Placeholder of an image in the prompt."""
        return int(config.image_token_id)

    def image_size(self, config: Any) -> tuple[int, int] | None:
        """The only image size (height, width) the model takes; None where any multiple of ``unit_pixels`` goes."""
        return None

    def usual_size(self, config: Any) -> tuple[int, int]:
        """The image size (height, width) of a plan where nobody says one."""
        return self.image_size(config) or DEFAULT_IMAGE_SIZE

    def image_budgets(self, config: Any) -> tuple[int, ...]:
        """Visual tokens of a picture that the model was trained with, where that is a choice of a few."""
        return ()

    def visual_width(self, config: Any) -> int:
        """Last axis of ``visual_embeds``: the LLM's hidden size, times 1 + planes where DeepStack adds some."""
        return self.decoder_shape(config).hidden

    def plane_mergers(self, model: Any) -> Sequence[Any]:
        """Modules of the transformers model that give DeepStack planes, in their order (parity listens to them)."""
        mergers: Sequence[Any] = getattr(getattr(model.model, "visual", None), "deepstack_merger_list", ())
        return mergers

    def cuts(self, config: Any, grids: Sequence[tuple[int, int]] = ((1, 1),)) -> tuple[Tiling, ...]:
        """Ways to make images of a picture, one for each grid of tiles (rows, columns).

        Raises:
            UsageError: A grid of tiles that the family's processor never makes.
        """
        return tuple(self.cut(config, grid) for grid in grids)

    def cut(self, config: Any, grid: tuple[int, int]) -> Tiling:
        """One of ``cuts``. The image token alone stands for a picture unless a family says otherwise."""
        if grid != (1, 1):
            raise UsageError(
                f"{self.model_type} does not cut pictures into tiles",
                where="--tiles",
                got=f"{grid[0]}x{grid[1]}",
                expected="no tiles: the picture is one image",
                fix="--image-size sets how large it is" if self.image_size(config) is None else "leave --tiles out",
            )
        return Tiling((self.image_token_id(config),))

    def video(self, config: Any) -> Video | None:
        """How videos are asked about; None where the family has none, or not here."""
        return None

    def prefix(self, config: Any) -> Prefix | None:
        """What stands around a prompt that is seen both ways; None where text is causal."""
        return None

    def image_processor(self, folder: str | os.PathLike[str]) -> Any:
        """The checkpoint's image processor, as transformers makes it; some take packages that exports need not."""
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True)

    def template_marker(self, config: Any) -> str | None:
        """What the chat template writes for an image where that is not the image token itself."""
        return None


class Normalise(nn.Module):
    """uint8 [n, F, H, W, 3] -> fp32, ``(image * rescale - mean) / std`` per channel, as transformers' processors do.

    Padding has the mean colour, so the plain formula subtracts nearly equal numbers there: what is left is rounding,
    and encoders that norm their patches make it large. So the whole number nearest to the mean is subtracted first,
    which is exact, then the rest: ``((image - centre) + shift) * scale``. ``shift`` makes the centre itself what
    transformers computes in fp32, rounding included. Between the two stands a bound that nothing is below, since
    OpenVINO makes one sum of two and rounds it (2e-5 of the mean colour, which Pixtral's first norm hands on).
    """

    centre: torch.Tensor
    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, rescale: float, mean: list[float], std: list[float]) -> None:
        super().__init__()
        means, deviations = (np.array(values, np.float64) for values in (mean, std))
        centre, scale = np.clip(np.rint(means / rescale), 0, 255), rescale / deviations
        rescaled = np.float32(centre * rescale) - np.float32(means)  # transformers rescales in fp64, the rest in fp32
        shift = (rescaled / np.float32(deviations)).astype(np.float64) / scale
        for name, values in (("centre", centre), ("shift", shift), ("scale", scale)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Normalised pixels fp32 [n, F, H, W, 3]."""
        return (torch.clamp(image.to(torch.float32) - self.centre, min=-255.0) + self.shift) * self.scale


def context(text: Any) -> int:
    """Longest sequence of a text config: where layers slide, no longer than their window, so none ever slides."""
    return window(text) or int(text.max_position_embeddings)


def window(text: Any) -> int | None:
    """How far back sliding layers of a text config look; None where nothing is ever further away."""
    kinds, size = getattr(text, "layer_types", None), getattr(text, "sliding_window", None)
    slides = "sliding_attention" in kinds if kinds else size is not None
    return int(size) if slides and size and size < text.max_position_embeddings else None


def places(text: Any, layers: int) -> tuple[State, ...]:
    """The place in the prompt of every cached row, for those of the first ``layers`` that slide."""
    size = window(text)
    slide = [number for number in range(layers) if text.layer_types[number] == "sliding_attention"]
    return tuple(State(number, PLACE, (ROWS,), "int64", size) for number in slide if size)


def rotary_embedding(inner: Any, text: Any, partial: bool = False, fixed: Sequence[str] = FIXED_ROPES) -> Any:
    """The text model's rotary module made again with real frequencies (the model's own may be on the meta device).

    ``fixed`` are RoPE types whose frequencies are those of its config at every length.

    Raises:
        CheckpointError: Frequencies that change with the length of the prompt cannot be fixed at export; nor are heads
            turned in part, unless that is ``partial``.
    """
    kinds = getattr(text, "layer_types", None) or ()
    each = [text.rope_parameters[kind] for kind in sorted(set(kinds)) if kind in text.rope_parameters]
    for stated in each or [text.rope_parameters]:
        if stated.get("rope_type", "default") not in fixed:
            raise CheckpointError(
                "this RoPE type is not known to be the same at every length of the prompt",
                where="text_config.rope_parameters.rope_type",
                got=repr(stated["rope_type"]),
                expected=", ".join(fixed),
            )
        turned = stated.get("rope_type", "default") == "proportional" or stated.get("partial_rotary_factor", 1) == 1
        if (
            not turned and not partial
        ):  # proportional frequencies are as many as the head has, zeros where nothing is turned
            raise CheckpointError(
                "heads that are turned in part are not supported",
                where="text_config.rope_parameters.partial_rotary_factor",
                got=stated["partial_rotary_factor"],
                expected=1,
            )
    return type(inner.rotary_emb)(text)


def rope_of_kinds(rotary: Any, kinds: Sequence[str], plan: Plan) -> Rope:
    """Caches that hold the frequencies of several kinds of layers side by side, in the order of ``kinds``."""
    each = [getattr(rotary, f"{kind}_inv_freq") for kind in kinds]
    factors = (getattr(rotary, f"{kind}_attention_scaling") for kind in kinds)
    scaling = [factor for factor, part in zip(factors, each, strict=True) for _ in part]
    return Rope(torch.cat(each), [0] * len(scaling), scaling, plan.encoder.position_copies)


def expand_images(token_ids: list[int], image_token_id: int, times: int) -> torch.Tensor:
    """Prompt int64 [1, S] as transformers takes it: every placeholder ``times`` times."""
    ids = [t for token in token_ids for t in ([token] * times if token == image_token_id else [token])]
    return torch.tensor([ids])


def rows_of_patches(pixels: torch.Tensor, patch: int) -> torch.Tensor:
    """[n, F, H, W, 3] -> the patches of one frame row by row [n, patches, patch * patch * 3], colours last."""
    images, _, height, width, _ = pixels.shape
    patches = pixels[:, 0].reshape(images, height // patch, patch, width // patch, patch, 3)
    return patches.transpose(2, 3).flatten(3).flatten(1, 2).contiguous()


def channels_first(pixels: torch.Tensor) -> torch.Tensor:
    """[n, F, H, W, 3] -> ``pixel_values`` [n, 3, H, W] of one frame."""
    return pixels[:, 0].permute(0, 3, 1, 2).contiguous()
