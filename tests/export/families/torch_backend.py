"""A family's two torch modules as back-end of a session: what Session does, without a graph to trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import family_harness as harness
import numpy as np
import torch
from family_harness import Case
from numpy.typing import NDArray
from torch import Tensor

from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.runtime.host.cache import CacheValues, HostCache
from luvc_export.runtime.model import Array, Backend, Cache


class _Tensors(CacheValues):
    """Torch's tensors on the CPU."""

    def make(self, array: Array, name: str) -> Tensor:
        return torch.from_numpy(array)

    def narrow(self, array: Array, name: str) -> Tensor:
        return torch.from_numpy(array)

    def read(self, value: Tensor) -> Array:
        array: Array = value.numpy()
        return array

    def shape(self, value: Tensor) -> Sequence[int]:
        return value.shape

    def nbytes(self, value: Tensor) -> int:
        return value.nbytes


class TorchBackend(Backend):
    name, arithmetic = "torch", "fp32"

    def __init__(self, tiny: Case, plan: Plan) -> None:
        self.printable = False  # only tokens whose text is read back as themselves
        self.states, self._values = tiny.family.decoder_shape(tiny.config).kept, _Tensors(self)
        self.tiny, self.encoder, self.decoder = tiny, tiny.vision(plan), tiny.family.decoder(tiny.model, plan)

    def vision(self, images: NDArray[np.uint8], padding: NDArray[np.bool_] | None = None) -> dict[str, Array]:
        with torch.no_grad():
            outputs = self.encoder(torch.from_numpy(images), None if padding is None else torch.from_numpy(padding))
        names = (graph_io.VISUAL_EMBEDS, graph_io.VISUAL_POSITIONS, graph_io.MERGED_INTO)
        return {name: value.numpy() for name, value in zip(names, outputs, strict=True)}

    def decode(self, feeds: Mapping[str, Array], cache: Cache | None) -> tuple[dict[str, Array], HostCache]:
        past = (
            cache.values if cache is not None else tuple(harness.empty_past(self.tiny, len(feeds[graph_io.INPUT_IDS])))
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
        return {graph_io.LOGITS: logits.numpy(), **chosen}, HostCache(self.states, self._values, tuple(presents))
