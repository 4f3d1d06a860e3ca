"""Types of configs that are no family's: what is suggested leads somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from luvc_export.errors import CheckpointError
from luvc_export.export import families
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.families._refused import REFUSED
from luvc_export.export.model_types import check_model_type, halves_of, nearest, parts_of


def refusal_of(**config: Any) -> str:
    """The error of a config."""
    with pytest.raises(CheckpointError) as error:
        check_model_type(config, "config.json")
    return str(error.value)


@pytest.mark.parametrize(
    "other", ["mllama", "pixtral", "gemma3n", "idefics2", "qwen3_vl_moe", "qwen3_5_moe", "vipllava", "no_such"]
)
def test_another_model_is_not_taken_for_a_family(other: str) -> None:
    refusal = refusal_of(model_type=other)
    assert (
        f"got: {other!r}, " in refusal
        and "\n  expected: known: cosmos3_edge" in refusal
        and "docs/adding-a-family.md" in refusal
    )


@pytest.mark.parametrize(
    ("config", "halves", "nearest"),
    [
        (
            {"model_type": "aya_vision"},
            "vision tower siglip_vision_model (SiglipVisionModel), text model cohere2 (Cohere2Model)",
            "the same vision tower, its text model is ",
        ),
        (
            {"model_type": "vipllava"},
            "vision tower clip_vision_model (CLIPVisionModel), text model llama (LlamaModel)",
            "nearest is 'llava': the same vision tower, the same text model",
        ),
        (
            {
                "model_type": "mistral4",
                "vision_config": {"model_type": "pixtral"},
                "text_config": {"model_type": "cohere"},
            },
            "vision tower pixtral (PixtralVisionModel), text model cohere (CohereModel)",
            "nearest is 'mistral3': the same vision tower, its text model is "
            "llama or mistral or qwen2 or qwen3 or ministral3, this one cohere",
        ),
        (
            {"model_type": "qwen3_vl_moe"},
            "text model qwen3_vl_moe_text (Qwen3VLMoeTextModel)",
            "nearest is 'qwen3_vl': its vision tower is qwen3_vl_vision, this one qwen3_vl_moe_vision, its text model",
        ),
        (
            {"model_type": "new", "vision_config": {"model_type": "a_b"}, "text_config": {"model_type": "c_d"}},
            "vision tower a_b, text model c_d",
            "no family has this tower or this text model, so both halves would be new",
        ),
        ({"model_type": "llama"}, "no vision tower that its config names", "this is no vision-language model"),
        (
            {"vision_config": [], "text_config": {"model_type": 3}},
            "got: 'None', no vision tower",
            "without a vision_config",
        ),
        (
            {"model_type": "new", "vision_config": {"model_type": "x\ny"}},
            "no vision tower that",
            "without a vision_config",
        ),
    ],
)
def test_the_nearest_family_is_told_by_what_the_checkpoint_is_made_of(
    config: dict[str, Any], halves: str, nearest: str
) -> None:
    refusal = refusal_of(**config)
    assert halves in refusal and nearest in refusal


def test_every_family_is_nearest_to_its_own_halves() -> None:
    for name in families.built_in():
        family = families.find(name, "test")
        halves = halves_of(family.tiny_config().to_dict())
        towers, texts = parts_of(family)
        assert halves.tower in towers and halves.text in texts
        nearby = nearest("unheard_of_" + name, halves)
        assert nearby is not None and halves.tower in parts_of(nearby)[0] and halves.text in parts_of(nearby)[1]


@pytest.mark.parametrize(("written", "meant"), [("qwen2_5vl", "qwen2_5_vl"), ("Qwen2.5-VL", "qwen2_5_vl")])
def test_another_spelling_is(written: str, meant: str) -> None:
    with pytest.raises(CheckpointError, match=f"did you mean '{meant}'"):
        check_model_type({"model_type": written}, "config.json")


@pytest.mark.parametrize("original", ["internvl_chat", "llava_qwen"])
def test_original_repositories_lead_to_converted_ones(original: str) -> None:
    with pytest.raises(CheckpointError, match=r"not in transformers' own format(.|\n)*-hf"):
        check_model_type({"model_type": original}, "config.json")


def test_families_pass() -> None:
    for name in families.names():
        check_model_type({"model_type": name}, "config.json")


@pytest.mark.parametrize("side", [None, [], [64, "64"]])
@pytest.mark.parametrize("family", ["llava", "idefics3"])
def test_a_tower_s_size_that_is_no_number_is_refused(tmp_path: Path, family: str, side: object) -> None:
    """It was a TypeError where the grid is counted."""
    config = families.find(family, "test").tiny_config().to_dict()
    config["vision_config"]["image_size"] = side
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(str(tmp_path), weights=False)


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_be_right_is_refused_by_name(name: str) -> None:
    """transformers has it, no family is called so, and the reason is in the error."""
    assert name in CONFIG_MAPPING_NAMES and name not in families.names()
    with pytest.raises(CheckpointError, match=f"is known, and is not exported(.|\n)*{re.escape(REFUSED[name])}"):
        check_model_type({"model_type": name}, "config.json")
