"""Types of configs that are no family's: what is suggested leads somewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luvc_export.errors import CheckpointError
from luvc_export.export import families
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.model_types import check_model_type


@pytest.mark.parametrize(
    "other", ["paligemma", "mllama", "pixtral", "gemma3n", "idefics2", "qwen3_vl_moe", "llava_next", "mistral3"]
)
def test_another_model_is_not_taken_for_a_family(other: str) -> None:
    with pytest.raises(CheckpointError, match=f"got: '{other}'\n  expected: known: gemma3"):
        check_model_type(other, "config.json")


@pytest.mark.parametrize(("written", "meant"), [("qwen2_5vl", "qwen2_5_vl"), ("Qwen2.5-VL", "qwen2_5_vl")])
def test_another_spelling_is(written: str, meant: str) -> None:
    with pytest.raises(CheckpointError, match=f"did you mean '{meant}'"):
        check_model_type(written, "config.json")


@pytest.mark.parametrize("original", ["internvl_chat", "llava_qwen"])
def test_original_repositories_lead_to_converted_ones(original: str) -> None:
    with pytest.raises(CheckpointError, match=r"not in transformers' own format(.|\n)*-hf"):
        check_model_type(original, "config.json")


def test_families_pass() -> None:
    for name in families.names():
        check_model_type(name, "config.json")


@pytest.mark.parametrize("side", [None, [], [64, "64"]])
@pytest.mark.parametrize("family", ["llava", "idefics3"])
def test_a_tower_s_size_that_is_no_number_is_refused(tmp_path: Path, family: str, side: object) -> None:
    """It was a TypeError where the grid is counted."""
    config = families.find(family, "test").tiny_config().to_dict()
    config["vision_config"]["image_size"] = side
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(str(tmp_path), weights=False)
