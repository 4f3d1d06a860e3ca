"""The compressed model in torch: the very modules the exporter traces, run eagerly with the checkpoint's weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from luvc_export.calibration.parity.tolerances import TABLE
from luvc_export.calibration.runners.base import Kept
from luvc_export.calibration.runners.graph import Decoded, Visual
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.core.tasks import Embedding
from luvc_export.errors import MachineError
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.export.compression import spu
from luvc_export.export.compression.placement import made_on
from luvc_export.export.compression.row_reductions import mark
from luvc_export.export.compression.scores import ScoreInput
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.span import empty_caches
from luvc_export.export.llm.vectors import Judge
from luvc_export.export.processor import normalise
from luvc_export.export.weights import DTYPES
from luvc_export.runtime.batching import Feeds

#: How often rows are moved, by at most the distance within which scores of fp32 tie, to see which choices hold.
SHAKES = 16


def load_model(checkpoint: Checkpoint, dtype: str = "fp32", device: str = "cpu") -> Any:
    """The checkpoint through transformers' own class, in ``dtype``, on torch's ``device``: ``cpu`` or ``cuda``.

    Weights that are stored quantised are widened here: transformers would need the packages that wrote them.

    Raises:
        MachineError: This torch cannot use the GPU.
    """
    from transformers import GenerationConfig

    if device != "cpu":
        if not torch.cuda.is_available():
            raise MachineError(
                "this torch cannot use a GPU",
                where=f"--device {device}",
                got=f"torch {torch.__version__}",
                expected="a torch built for CUDA, and a GPU",
                fix="leave the option out, or install torch for CUDA",
            )
        torch.backends.cudnn.allow_tf32 = False  # convolutions of the encoder, in fp32 as on a CPU

    with torch.device("meta"):
        kind: Any = type(checkpoint.family.build(checkpoint.config))
    with quiet():
        if checkpoint.stored is None:
            model = kind.from_pretrained(checkpoint.folder, dtype=DTYPES[dtype], local_files_only=True)
        else:
            arguments = {"config": checkpoint.config, "state_dict": checkpoint.widened(), "dtype": DTYPES[dtype]}
            model = kind.from_pretrained(None, **arguments)
            if (checkpoint.folder / "generation_config.json").is_file():
                model.generation_config = GenerationConfig.from_pretrained(checkpoint.folder)
    return checkpoint.family.as_trained(model.eval().requires_grad_(False)).to(device)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar while transformers loads."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class TorchCalls:
    """See ``graph.Runner``; rows become vectors where ``embedding`` says how, else logits."""

    can_force = True
    largest_batch: int | None = None

    def __init__(self, checkpoint: Checkpoint, model: Any, plan: Plan, embedding: Embedding | None = None) -> None:
        self.plan, self.device = plan, next(model.parameters()).device
        self.encoder = checkpoint.family.vision(model, plan, normalise(checkpoint)).eval().to(self.device)
        self.decoder = checkpoint.family.decoder(model, plan).eval().to(self.device)
        self.decoder.pooled = embedding
        if embedding is not None and embedding.labels is not None:
            self.decoder.lm_head = Judge(nn.Parameter(model.lm_head.weight[[*embedding.labels]]), embedding.labels, 0)
        self.shape = checkpoint.family.decoder_shape(checkpoint.config)
        self.dtype = next(model.parameters()).dtype

    @torch.no_grad()
    def vision(self, images: NDArray[np.uint8], beside: NDArray[Any] | None) -> Visual:
        """See ``graph.Runner``."""
        with made_on(self.device):
            inputs = [torch.tensor(images)] + ([] if beside is None else [torch.tensor(beside)])
            embeds, positions, merged = self.encoder(*inputs)
        return embeds.float().cpu().numpy(), positions.float().cpu().numpy(), merged.cpu().numpy()

    @torch.no_grad()
    def decode(self, feeds: Feeds, cache: Any, forced: Kept | None) -> Decoded:
        """See ``graph.Runner``."""
        past = cache if cache is not None else self.empty(len(feeds[graph_io.INPUT_IDS]))
        forced_indices = (
            None
            if forced is None
            else {layer: torch.tensor(indices, device=self.device) for layer, indices in forced.items()}
        )
        with Watch(self.decoder) as watch:
            logits, presents, kept = self.decode_tensors(feeds, past, forced_indices)
        layers = [layer for layer, _, keep in self.plan.prunes if keep]
        return Decoded(
            logits.cpu().numpy(),
            {layer: indices.cpu().numpy() for layer, indices in zip(layers, kept, strict=False)},
            dict(zip(layers, watch.scores, strict=False)),
            watch.hidden,
            presents,
        )

    def decode_tensors(
        self, feeds: Feeds, past: list[Tensor], forced: dict[int, Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """``Decoder.forward`` on feeds."""
        with made_on(self.device):
            inputs = {name: torch.tensor(feeds[name]) for name in graph_io.decoder_inputs(self.plan)}
            inputs[graph_io.VISUAL_EMBEDS] = inputs[graph_io.VISUAL_EMBEDS].to(self.dtype)
            outputs: tuple[Tensor, list[Tensor], list[Tensor]] = self.decoder(**inputs, past=past, forced=forced)
        return outputs

    def states(self, cache: Any) -> list[NDArray[Any]]:
        """See ``graph.Runner``."""
        return [(part.float() if part.is_floating_point() else part).cpu().numpy() for part in cache]

    def empty(self, rows: int) -> list[Tensor]:
        """Caches of nothing; none where there are vectors."""
        if self.decoder.pooled is not None:
            return []
        with made_on(self.device):
            return empty_caches(self.shape, rows, self.dtype)


def settled(score: Callable[[ScoreInput], Tensor], given: ScoreInput) -> Tensor:
    """Scores of a choice in rounds, whose ranks show no tie [B, G, N]: 2 stay, 0 leave however fp32 rounds, 1 tie."""
    noise, stays = torch.Generator(given.normed.device).manual_seed(0), torch.zeros_like(given.normed[..., 0])
    for number in range(SHAKES):
        off = torch.randn(given.normed.shape, generator=noise, device=noise.device)
        size = TABLE["fp32"].tie.value / 10 ** (number % 3)  # small ones ask what is next to the choice itself
        shaken = dataclasses.replace(given, normed=given.normed * (1 + size * off))
        stays += mark(spu.best(score(shaken), given.keep), stays.shape[-1])
    return 1 + (stays == SHAKES).float() - (stays == 0).float()


@torch.no_grad()
def _read(score: Callable[[ScoreInput], Tensor], given: ScoreInput, ranks: Tensor) -> NDArray[np.float32]:
    """Scores that show ties, computed for whoever looks at them: who wants answers alone does not."""
    seen = settled(score, given) if "rounds" in given.settings else ranks
    return seen.float().cpu().numpy()


class Watch:
    """Collects, while it is entered, the scores of every prune and the hidden state that enters each layer."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.scores: list[Callable[[], NDArray[np.float32]]] = []
        self.hidden: list[NDArray[np.float32]] = []

    def __enter__(self) -> Watch:
        self._score, self._layer = self.decoder.score, self.decoder._layer
        self.decoder.score = self._scored
        self.decoder._layer = self._entered  # type: ignore[method-assign, assignment]
        return self

    def __exit__(self, *error: object) -> None:
        self.decoder.score = self._score
        del self.decoder._layer

    def _scored(self, given: ScoreInput) -> Tensor:
        score = self._score(given)
        self.scores.append(partial(_read, self._score, given, score))
        return score

    def _entered(self, layer: nn.Module, x: Tensor, *rest: Any) -> Any:
        self.hidden.append(x.float().cpu().numpy())
        inner: Callable[..., Any] = self._layer
        return inner(layer, x, *rest)
