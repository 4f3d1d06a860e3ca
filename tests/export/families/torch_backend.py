"""A family's two torch modules as back-end of a session: what Session does, without a graph to trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import family_harness as harness
import numpy as np
import torch
from family_harness import Case
from numpy.typing import NDArray
from torch import Tensor

from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.core.shapes import State, row_counts
from luvc_export.runtime.model import Array, Cache


@dataclass(frozen=True)
class TorchCache:
    states: tuple[State, ...]
    values: tuple[Tensor, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        return row_counts(self.states, (tuple(value.shape) for value in self.values))

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in self.values)


class TorchBackend:
    name, arithmetic, largest_batch = "torch", "fp32", None

    def __init__(self, tiny: Case, plan: Plan) -> None:
        self.printable = False  # only tokens whose text is read back as themselves
        self.states = tiny.family.decoder_shape(tiny.config).kept
        self.tiny, self.encoder, self.decoder = tiny, tiny.vision(plan), tiny.family.decoder(tiny.model, plan)

    def load(self, images: bool = True) -> None:
        """All is in memory."""

    def vision(self, images: NDArray[np.uint8], padding: NDArray[np.bool_] | None = None) -> dict[str, Array]:
        with torch.no_grad():
            outputs = self.encoder(torch.from_numpy(images), None if padding is None else torch.from_numpy(padding))
        names = (graph_io.VISUAL_EMBEDS, graph_io.VISUAL_POSITIONS, graph_io.MERGED_INTO)
        return {name: value.numpy() for name, value in zip(names, outputs, strict=True)}

    def decode(self, feeds: Mapping[str, Array], cache: Cache | None) -> tuple[dict[str, Array], TorchCache]:
        past = (
            cache.values
            if isinstance(cache, TorchCache)
            else tuple(harness.empty_past(self.tiny, len(feeds[graph_io.INPUT_IDS])))
        )
        names = graph_io.decoder_inputs(self.decoder.plan)
        inputs: dict[str, Any] = {name: torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in names}
        with torch.no_grad():
            logits, presents, kept = self.decoder(**inputs, past=past)
        if self.printable:
            token = torch.arange(logits.shape[-1])
            logits = logits - 1e4 * ((token < 4) | (token > 93))
        kept_names = [graph_io.kept_name(layer) for layer, _, _ in self.decoder.plan.chooses]
        chosen = {name: value.numpy() for name, value in zip(kept_names, kept, strict=True)}
        return {graph_io.LOGITS: logits.numpy(), **chosen}, TorchCache(self.states, tuple(presents))

    def placement(self) -> dict[str, dict[str, int]]:
        return {}
