"""What a family gives: sizes, the two halves built on transformers' own sub-modules, and a tiny test model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import nn

from luvc_export.export.decoder import Decoder
from luvc_export.plan import Plan
from luvc_export.shapes import DecoderShape, EncoderShape


class Family(ABC):
    """One Hugging Face ``model_type``.

    Attributes:
        model_type: Name in ``config.json``.
        position_kind: How the LLM places visual tokens, see ``luvc_export.manifest.Prompt``.
    """

    model_type: str
    position_kind: Literal["mrope", "sequential"]

    @abstractmethod
    def build(self, config: Any) -> nn.Module:
        """The transformers model of ``config``, weights uninitialised (called on the meta device)."""

    @abstractmethod
    def decoder_shape(self, config: Any) -> DecoderShape:
        """Sizes of the LLM."""

    @abstractmethod
    def encoder_shape(self, config: Any) -> EncoderShape:
        """Sizes of the vision encoder."""

    @abstractmethod
    def unit_pixels(self, config: Any) -> int:
        """Side of one unit in pixels; image sides are multiples of it."""

    @abstractmethod
    def vision(self, model: nn.Module, plan: Plan, normalise: Normalise) -> nn.Module:
        """Vision graph module: ``image`` -> visual_embeds, visual_positions, merged_into."""

    @abstractmethod
    def decoder(self, model: nn.Module, plan: Plan) -> Decoder:
        """Decoder graph module on the model's own sub-modules."""

    @abstractmethod
    def image_token_id(self, config: Any) -> int:
        """Placeholder of an image in the prompt."""

    @abstractmethod
    def tiny_config(self) -> Any:
        """A config small enough for tests, with every feature of the family."""


class Normalise(nn.Module):
    """uint8 [n, F, H, W, 3] -> fp32, ``(image * rescale - mean) / std`` per channel, as transformers' processors do."""

    def __init__(self, rescale: float, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.rescale = rescale
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Normalised pixels fp32 [n, F, H, W, 3]."""
        return (image.to(torch.float32) * self.rescale - self.mean) / self.std
