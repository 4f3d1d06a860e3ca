"""Models by short name or by their ``config.json``, and shorter ones made of them.

A short name is a file of ``published``: the fields of https://huggingface.co/<source>/blob/main/config.json that decide
shapes and arithmetic, and what a tokenizer and an image processor of the model need.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luvc_export.core.files.json_file import read_json
from luvc_export.errors import UsageError, did_you_mean
from luvc_export.export import families
from luvc_export.export.families.base import Family

PUBLISHED = Path(__file__).with_name("published")


@dataclass(frozen=True)
class Preset:
    """A published model.

    Args:
        source: Hub id its config was read from.
        config: Content of ``config.json``.
        tokens: Special tokens by id.
        image: What the chat template writes for an image; empty where the model has no chat template.
        end: Token that ends a turn.
        processor: Content of ``preprocessor_config.json``.
        video: What the chat template writes for a video; empty where it has none.
        about: Where ``config`` is not the whole of the published one, or has another source: what it has.
    """

    source: str
    config: dict[str, Any]
    tokens: dict[int, str]
    image: str
    end: str
    processor: dict[str, Any]
    video: str = ""
    about: str = ""


def _published(path: Path) -> Preset:
    preset = Preset(**json.loads(path.read_text(encoding="utf-8")))
    return replace(preset, tokens={int(number): text for number, text in preset.tokens.items()})


#: Published models by short name.
PRESETS = {path.stem: _published(path) for path in sorted(PUBLISHED.glob("*.json"))}


def find(name: str) -> Preset:
    """The preset of that name, or one made of a ``config.json`` (or a folder that holds one).

    Raises:
        UsageError: Neither, or no JSON object with ``model_type`` and ``image_token_id``.
    """
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name) / "config.json" if Path(name).is_dir() else Path(name)
    if not path.is_file():
        known = did_you_mean(name, PRESETS)
        raise UsageError("no such model and no such config file", where="CONFIG", got=repr(name), expected=known)
    try:
        config = read_json(path, 2**20, UsageError, "the config")
        image = int(config["image_token_id"] if "image_token_id" in config else config["image_token_index"])
        _ = config["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            "this is not the config of a vision-language model",
            where=str(path),
            got=f"{type(error).__name__}: {error}",
            expected="a JSON object with model_type and image_token_id",
        ) from error
    return Preset(str(path), config, {image: "<image>"}, "<image>", "", _processor_beside(path, config))


def _processor_beside(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The picture settings that lie beside a config; where there are none, its family's, in the config's sizes."""
    beside = path.with_name("preprocessor_config.json")
    if beside.is_file():
        return dict(read_json(beside, 2**20, UsageError, "the processor's file"))
    kind = config["model_type"]
    family = families.find(kind, str(path))
    settings = {
        "do_rescale": True,
        "rescale_factor": family.pixels.rescale,
        "do_normalize": True,
        "image_mean": list(family.pixels.mean),
        "image_std": list(family.pixels.std),
    }
    square, edge = {"height": 0, "width": 0}, {"longest_edge": 0}
    like: dict[str, Any] = {"size": square, "crop_size": square, "max_image_size": edge}
    like = next((preset.processor for preset in PRESETS.values() if preset.config["model_type"] == kind), like)
    return settings | like | _sizes(family, config, like)


def _sizes(family: Family, config: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """The sizes that a processor and a config must agree on, under the names that the settings ``like`` have."""
    from transformers import AutoConfig

    opened = AutoConfig.for_model(**config)
    if fixed := family.image_size(opened):
        sides = (name for name in ("size", "crop_size", "max_image_size") if name in like)
        return {name: dict.fromkeys(like[name], fixed[0]) for name in sides}
    names = {
        "patch_size": "patch_size",
        "temporal_patch_size": "temporal_patch_size",
        "merge_size": "spatial_merge_size",
    }
    vision = opened.vision_config
    return {name: getattr(vision, theirs) for name, theirs in names.items() if hasattr(vision, theirs)}


def resized(preset: Preset, layers: int | None, encoder_blocks: int | None) -> Preset:
    """The first layers only. An encoder cut before its first full-attention block gets one at its end.

    Raises:
        UsageError: Less than one, or more than published.
    """
    config = copy.deepcopy(preset.config)
    text, vision = config.get("text_config", config), config.get("vision_config", {})
    depth = "depth" if "depth" in vision else "num_hidden_layers"
    for flag, part, field, wanted in (
        ("--layers", text, "num_hidden_layers", layers),
        ("--encoder-blocks", vision, depth, encoder_blocks),
    ):
        if wanted is None:
            continue
        most = int(part.get(field, wanted))
        if not 1 <= wanted <= most:
            raise UsageError("no such number of layers", where=flag, got=wanted, expected=f"1 to {most}")
        part[field] = wanted
        if "layer_types" in part:
            part["layer_types"] = part["layer_types"][:wanted]
        if shared := part.get("num_kv_shared_layers"):
            kinds = [*part["layer_types"], "full_attention"]  # a layer of each kind keeps a cache
            part["num_kv_shared_layers"] = max(
                0, min(shared * wanted // most, wanted - kinds.index("full_attention") - 1)
            )
        if full := part.get("fullatt_block_indexes"):
            part["fullatt_block_indexes"] = [block for block in full if block < wanted] or [wanted - 1]
        if tapped := part.get("deepstack_visual_indexes"):
            part["deepstack_visual_indexes"] = [block for block in tapped if block < wanted] or [wanted - 1]
    return replace(preset, config=config)
