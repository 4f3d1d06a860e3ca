"""The reference: transformers' own model, tokenizer and image processor, uncompressed."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from luvc_export.bundle.manifest import ImageInput
from luvc_export.calibration.cases import Case
from luvc_export.calibration.runners.base import LOGITS, VISION, Kept, Observation, Said, ends, probe
from luvc_export.calibration.runners.text import Tokens
from luvc_export.core.plan import Plan
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.runtime.media.preprocess import preprocess


class HuggingFace:
    """See ``base.Runner``; one prompt at a time, since padding is not what is under test here.

    Args:
        checkpoint: Where ``model`` is from.
        model: From ``compressed.load_model``.
        image: Size and fit; the processor itself must not resize again.
        dtype: Of the model.
    """

    can_force = False

    def __init__(self, checkpoint: Checkpoint, model: Any, image: ImageInput, dtype: str) -> None:
        from transformers import AutoImageProcessor

        self.name, self.dtype = f"{checkpoint.name} (Hugging Face)", dtype
        unit = checkpoint.family.unit_pixels(checkpoint.config)
        grid = (image.size[0] // unit, image.size[1] // unit)
        shape = checkpoint.family.decoder_shape(checkpoint.config)
        self.plan = Plan(grid, (grid[0] * grid[1],) * shape.layers, last_layer="full", schedule="none")
        self.model, self.image, self.tokens = model, image, Tokens(checkpoint)
        self.processor = AutoImageProcessor.from_pretrained(checkpoint.folder, local_files_only=True)
        self.image_token = checkpoint.family.image_token_id(checkpoint.config)

    @torch.no_grad()
    def observe(self, cases: Sequence[Case], forced: Sequence[Kept] | None = None) -> list[Observation]:
        """See ``base.Runner``."""
        return [self._observe(case) for case in cases]

    def _observe(self, case: Case) -> Observation:
        inputs = self._inputs(case)
        out = self.model(**inputs, output_hidden_states=True, use_cache=True)
        visual = inputs["input_ids"][0] == self.image_token
        order = torch.cat([visual.nonzero()[:, 0], (~visual).nonzero()[:, 0]])
        text = int((~visual).sum())
        tensors = {VISION: _array(out.hidden_states[0][0][visual])}
        for number, layer in enumerate(out.past_key_values.layers):
            tensors[probe(number, "in")] = _array(out.hidden_states[number][0][order])
            for part, values in (("key", layer.keys), ("value", layer.values)):
                tensors[probe(number, part)] = _array(values[0].transpose(0, 1).flatten(1)[order])
        tensors[LOGITS] = _array(out.logits[0][~visual])
        return Observation(tensors, text)

    @torch.no_grad()
    def answer(self, cases: Sequence[Case], longest: int) -> list[Said]:
        """See ``base.Runner``."""
        config = self.model.generation_config
        eos = ends(config.eos_token_id)
        said = []
        for case in cases:
            inputs = self._inputs(case)
            pad = config.pad_token_id if config.pad_token_id is not None else min(eos, default=0)
            out = self.model.generate(
                **inputs,
                attention_mask=torch.ones_like(inputs["input_ids"]),
                do_sample=False,
                max_new_tokens=longest,
                pad_token_id=pad,
            )
            new = tuple(out[0, inputs["input_ids"].shape[1] :].tolist())
            said.append(Said(new, self.tokens.decode(new), new[-1] in eos))
        return said

    def _inputs(self, case: Case) -> dict[str, Tensor]:
        pictures = [Image.fromarray(preprocess(picture, self.image).pixels[0]) for picture in case.images]
        ids: list[int] = []
        for token in self.tokens.encode(case):
            ids += [token] * (self.plan.units if token == self.image_token else 1)
        inputs = {"input_ids": torch.tensor([ids])}
        if pictures:
            seen = self.processor(pictures, return_tensors="pt", do_resize=False)
            inputs |= {name: _as(value, next(self.model.parameters()).dtype) for name, value in seen.items()}
        if "mm_token_type_ids" in inspect.signature(self.model.forward).parameters:
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == self.image_token).int()
        return inputs


def _as(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _array(values: Tensor) -> NDArray[np.float32]:
    return values.float().numpy()
