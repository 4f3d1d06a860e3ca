"""Bundles of the task ``embed-many`` of tiny models for retrieval, and what transformers makes of the same inputs."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import family_chat
import family_harness as harness
import numpy as np
import torch
from family_processors import image_processor
from made_once import made_once
from numpy.typing import NDArray
from PIL import Image
from transformers import ColModernVBertProcessor, ColPaliProcessor, ColQwen2Processor, PreTrainedTokenizerFast

from luvc_export.export import families
from luvc_export.pipeline import export_bundle

#: By name of a bundle: its family, and cells of vectors that become one.
BUNDLES = {"every": ("colqwen2", (1, 1)), "quarters": ("colqwen2", (2, 2)), "colpali": ("colpali", (1, 1))}
BUNDLES |= {"newer": ("colqwen2.5", (1, 1)), "both ways": ("colmodernvbert", (1, 1))}
#: Units of a page: rows and columns that cells of 2 and 3 do not divide.
GRID = (5, 4)


@cache
def tiny(name: str = "colqwen2", seed: int = 0) -> harness.Case:
    """Two layers, so that a page is seen by what follows it; ``colqwen2.5`` is ColQwen2 of a Qwen2.5-VL."""
    family = families.find(name.removesuffix(".5"), "test")
    config = family.tiny_config()
    if name.endswith(".5"):
        config.vlm_config = families.find("qwen2_5_vl", "test").tiny_config()
    text = getattr(config.vlm_config, "text_config", config).get_text_config()
    text.num_hidden_layers = 2
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:2]
    unit = family.unit_pixels(config)
    return harness.build(family, config, seed, family.image_size(config) or (GRID[0] * unit, GRID[1] * unit))


def processor(name: str = "colqwen2") -> Any:
    """transformers' own."""
    vision = tiny(name).config.vlm_config.vision_config
    if name == "colpali":
        special = {"bos_token": "<bos>", "extra_special_tokens": {"image_token": "<image>"}}
        tokens = family_chat.tokenizer("paligemma")
        fast = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="<t0>", **special)
        shown = image_processor("paligemma")
        shown.image_seq_length = tiny(name).plan.units
        return ColPaliProcessor(shown, fast)
    if name == "colmodernvbert":
        fast = PreTrainedTokenizerFast(tokenizer_object=family_chat.tokenizer("idefics3"), pad_token="<t0>")
        shown = image_processor("idefics3")
        return ColModernVBertProcessor(shown, fast, image_seq_len=tiny(name).plan.units)
    fast = PreTrainedTokenizerFast(tokenizer_object=family_chat.tokenizer("qwen2_vl"), pad_token="<t0>")
    sizes = {"patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size}
    return ColQwen2Processor(image_processor("qwen2_vl", **sizes), fast)


def expected(inputs: dict[str, Any], name: str = "colqwen2") -> NDArray[np.float32]:
    """transformers' vectors of one input in the order of its tokens, float32 [n, D]."""
    with torch.no_grad():
        return np.asarray(tiny(name).model(**inputs).embeddings[0].numpy())


def page(picture: NDArray[np.uint8], name: str = "colqwen2") -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of its visual tokens, and of the text around them."""
    shown = Image.fromarray(picture) if name == "colmodernvbert" else torch.tensor(picture).permute(2, 0, 1)
    inputs = dict(processor(name).process_images([shown]))
    for unused in {"labels", "rows", "cols"} & {*inputs}:
        inputs.pop(unused)
    shown = inputs["input_ids"][0] == tiny(name).family.image_token_id(tiny(name).config)
    rows = expected(inputs, name)
    return rows[shown.numpy()], rows[~shown.numpy()]


def query(text: str, name: str = "colqwen2") -> NDArray[np.float32]:
    """Of a query's tokens."""
    return expected(dict(processor(name).process_queries([text])), name)


def kept(cache: Path, name: str) -> Path:
    """``checkpoint`` and ``bundle``, which nobody changes."""
    return made_once(cache, Path(__file__), partial(_export, name))


def _export(name: str, folder: Path) -> None:
    family, merged = BUNDLES[name]
    one = tiny(family)
    checkpoint = folder / "checkpoint"
    one.model.save_pretrained(checkpoint)
    own = processor(family)
    own.tokenizer.save_pretrained(checkpoint)
    own.image_processor.save_pretrained(checkpoint)
    options: dict[str, Any] = {"image_size": one.size, "text_capacity": 128, "merge_vectors": merged}
    export_bundle(str(checkpoint), folder / "bundle", {"none": one.plan}, **options)
