"""The reference: transformers' own model, tokenizer and image processor, uncompressed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luvc_export.bundle.manifest import Manifest
from luvc_export.calibration.cases import Case
from luvc_export.calibration.runners.base import (
    LOGITS,
    VECTORS,
    VISION,
    Encoded,
    Forced,
    Observation,
    Said,
    ends,
    plane,
    probe,
)
from luvc_export.calibration.runners.canvas import Tokens, prepare, uncompressed
from luvc_export.core.plan import Sharing
from luvc_export.core.tasks import Embedding
from luvc_export.core.token_layout import arrange
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.export.compression.placement import CACHE
from luvc_export.export.families.base import ReferencePrompt
from luvc_export.runtime.prompt.request import Request


class HuggingFace:
    """See ``base.Runner``; one prompt at a time, since padding is not what is under test here.

    Args:
        checkpoint: Where ``model`` is from.
        model: From ``compressed.load_model``.
        manifest: How pictures are fitted and cut; the processor itself does neither again.
        dtype: Of the model.
        sharing: Images that videos are brought to, and tiles that pictures are cut to, as in the plan this is compared
            with.
    """

    can_force = False

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: Any,
        manifest: Manifest,
        dtype: str,
        sharing: Sharing = Sharing(),
    ) -> None:

        widened = "" if checkpoint.stored is None else ", codes widened here"
        self.name, self.dtype = f"{checkpoint.name} (Hugging Face{widened})", dtype
        self.plan = uncompressed(checkpoint, manifest.image.size, sharing)
        self.checkpoint, self.model, self.manifest = checkpoint, model, manifest
        self.tokens = Tokens(checkpoint, manifest.prompt)
        self.processor = checkpoint.family.image_processor(checkpoint.folder)

    @torch.no_grad()
    def observe(self, cases: Sequence[Case], forced: Forced = None, features: Encoded = None) -> list[Observation]:
        """See ``base.Runner``."""
        return [self._observe(self._request(case)) for case in cases]

    def _observe(self, request: Request) -> Observation:
        visual, text = self._places(request)
        order = torch.cat([visual, text])
        entered: list[Tensor] = []
        added: list[Tensor] = []
        last: list[Tensor] = []
        with self._watch(entered, added, last):
            decodes = self.manifest.does.decodes
            out = self.model(**self._inputs(request), **({"use_cache": True} if decodes else {}))
        tensors = {VISION: _array(entered[0][0][visual])}
        taps = len(self.checkpoint.family.plane_mergers(self.model))
        planes = [torch.cat(added[index::taps]).flatten(0, -2) for index in range(taps if added else 0)]
        tensors |= {plane(index + 1): _array(values) for index, values in enumerate(planes)}
        cached = self.checkpoint.family.decoder_shape(self.checkpoint.config).cached
        caches = getattr(out, CACHE).layers if decodes else [None] * cached  # those that embed may keep none
        for number, layer in enumerate(caches[:cached]):
            tensors[probe(number, "in")] = _array(entered[number][0][order])
            for part in ("key", "value") if decodes else ():
                values = getattr(layer, f"{part}s", None)
                if values is not None and values.shape[2] == len(order):  # a layer with a window forgot what left it
                    tensors[probe(number, part)] = _array(values[0].transpose(0, 1).flatten(1)[order])
        how = self.manifest.embedding
        if how is None:
            tensors[LOGITS] = _array(out.logits[0][text])
        elif how.pooling == "every":
            tensors[VECTORS] = self._merged(_array(out.embeddings[0][order]), len(visual), how)
        else:
            rows = last[0][0]
            tensors[VECTORS] = self._vector(rows.mean(0)[None] if how.pooling == "mean" else rows[-1:], how)
        return Observation(tensors, len(text), first=request.images[0, 0] if len(request.images) else None)

    def _vector(self, rows: Tensor, how: Embedding) -> NDArray[np.float32]:
        """A vector, or the second label's logit less the first's, of the row behind the last norm [1, D]."""
        if how.labels is not None:
            no, yes = self.model.lm_head.weight[[*how.labels]]
            return _array(rows @ (yes - no)[:, None])
        return _array(torch.nn.functional.normalize(rows.float(), dim=-1) if how.normalise else rows)

    def _merged(self, rows: NDArray[np.float32], visual: int, how: Embedding) -> NDArray[np.float32]:
        """Vectors of one picture's tokens, merged cell by cell, then those of text."""
        (high, wide), (height, width) = how.merged, self.plan.grid
        if not visual or how.merged == (1, 1):
            return rows
        whole = rows[:visual].reshape(height, width, -1)
        places = [(row, column) for row in range(0, height, high) for column in range(0, width, wide)]
        means = np.stack([whole[row : row + high, column : column + wide].mean((0, 1)) for row, column in places])
        return np.concatenate([means / np.linalg.norm(means, axis=-1, keepdims=True), rows[visual:]])

    @contextmanager
    def _watch(self, entered: list[Tensor], added: list[Tensor], last: list[Tensor]) -> Iterator[None]:
        """Collect what enters each layer of the LLM, what DeepStack's mergers give, and the LLM's last rows."""

        def enters(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            entered.append(arguments[0] if arguments else named["hidden_states"])

        inner: Any = self.checkpoint.family.language_model(self.model)
        hooks = [layer.register_forward_pre_hook(enters, with_kwargs=True) for layer in inner.layers]
        hooks += [inner.register_forward_hook(lambda module, arguments, out: last.append(out[0]))]
        hooks += [
            tap.register_forward_hook(lambda module, arguments, out: added.append(out))
            for tap in self.checkpoint.family.plane_mergers(self.model)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def answer(self, cases: Sequence[Case], longest: int) -> list[Said]:
        """See ``base.Runner``."""
        eos, answers = ends(self.model.generation_config.eos_token_id), []
        for case in cases:
            inputs = self._inputs(self._request(case))
            mask = torch.ones_like(inputs["input_ids"])
            with _greedy(self.model):
                out = self.model.generate(**inputs, attention_mask=mask, max_new_tokens=longest)
            new = tuple(out[0, inputs["input_ids"].shape[1] :].tolist())
            answers.append(Said(new, self.tokens.decode(new), new[-1] in eos))
        return answers

    def _request(self, case: Case) -> Request:
        return prepare(case, self.tokens, self.manifest, self.plan)

    def _inputs(self, request: Request) -> dict[str, Any]:
        """What transformers' model takes; pixels normalised by its processor."""
        family, config = self.checkpoint.family, self.checkpoint.config
        pixels, ids = self._pixels(request.images), list(request.token_ids)
        cut = len(request.images) > len(request.tiles) or request.clips
        inputs = family.reference_inputs(
            config, ReferencePrompt(pixels, ids, request.tiles if cut else (), request.clips)
        )
        known, dtype = inspect.signature(self.model.forward).parameters, next(self.model.parameters()).dtype
        how = self.manifest.embedding
        hands_on = how is not None and how.pooling == "every"  # to the model inside
        return {name: _as(value, dtype) for name, value in inputs.items() if name in known or hands_on}

    def _pixels(self, images: NDArray[np.uint8]) -> Tensor:
        """uint8 [n, F, H, W, 3] -> normalised fp32 of the same shape."""
        processor = self.processor
        shown = np.ascontiguousarray(images.reshape(-1, *images.shape[2:]).transpose(0, 3, 1, 2))
        switches = (
            processor.do_rescale,
            processor.rescale_factor,
            processor.do_normalize,
            processor.image_mean,
            processor.image_std,
        )
        if hasattr(processor, "rescale_and_normalize"):
            pixels = processor.rescale_and_normalize(torch.from_numpy(shown), *switches)
        else:
            pixels = torch.from_numpy(np.array([_normalised(processor, one) for one in shown], np.float32))
        flat: Tensor = pixels.reshape(-1, 3, *images.shape[2:4]).permute(0, 2, 3, 1)
        return flat.reshape(images.shape).float().contiguous()

    def _places(self, request: Request) -> tuple[Tensor, Tensor]:
        """Where visual tokens and text stand in transformers' sequence, by the logical order of ours."""
        prompt, plan = self.manifest.prompt, self.plan
        units = np.indices(plan.grid).reshape(2, -1).T.astype(np.float32)
        positions = np.broadcast_to(units, (len(request.images), plan.units, 2))
        ids, kind = list(request.token_ids), prompt.position_kind
        layout = arrange(ids, prompt.image_token_id, positions, plan.grid, kind, blocks=request.blocks)
        orders = np.concatenate([layout.visual_order[0], layout.order[0]])
        places = torch.from_numpy(np.argsort(np.argsort(orders, kind="stable"), kind="stable"))
        return places[: layout.visual_order.shape[1]], places[layout.visual_order.shape[1] :]


@contextmanager
def _greedy(model: Any) -> Iterator[None]:
    """Let ``generate`` take the most likely token, without the penalties and rules of ``generation_config.json``."""
    from transformers import GenerationConfig

    meant = model.generation_config
    pad = meant.pad_token_id if meant.pad_token_id is not None else min(ends(meant.eos_token_id), default=0)
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=meant.eos_token_id, pad_token_id=pad)
    try:
        yield
    finally:
        model.generation_config = meant


def _normalised(processor: Any, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """One image [3, H, W] through a processor that works on arrays."""
    shown: Any = image
    if processor.do_rescale:
        shown = processor.rescale(shown, processor.rescale_factor)
    if processor.do_normalize:
        shown = processor.normalize(shown, processor.image_mean, processor.image_std)
    return np.asarray(shown, np.float32)


def _as(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _array(values: Tensor) -> NDArray[np.float32]:
    return values.float().numpy()
