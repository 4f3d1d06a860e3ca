"""Configs of peft: ranks, scales, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luvc_export.bundle.adapters.peft_config import PeftConfig, read_config
from luvc_export.errors import CheckpointError

PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none"}


def read(folder: Path, **changes: Any) -> PeftConfig:
    (folder / "adapter_config.json").write_text(json.dumps(PLAIN | changes))
    return read_config(folder)


def test_scales(tmp_path: Path) -> None:
    assert read(tmp_path).scale_of("model.layers.0.self_attn.q_proj") == 2
    assert read(tmp_path, use_rslora=True).scale_of("x") == 16 / 8**0.5
    config = read(tmp_path, rank_pattern={"v_proj": 4}, alpha_pattern={"layers.1.self_attn.v_proj": 2})
    assert [config.rank_of(f"model.layers.{n}.self_attn.v_proj") for n in (0, 1)] == [4, 4]
    assert [config.scale_of(f"model.layers.{n}.self_attn.v_proj") for n in (0, 1)] == [4, 0.5]
    assert config.rank_of("model.layers.0.self_attn.qv_proj") == 8, "a name begins after a dot"
    whole = read(tmp_path, rank_pattern={"^model.v_proj": 2})
    assert (whole.rank_of("model.v_proj"), whole.rank_of("a.model.v_proj")) == (2, 8)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"use_dora": True}, r"use_dora(.|\n)*DoRA scales each row"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save(.|\n)*whole modules"),
        ({"bias": "lora_only"}, r"bias(.|\n)*changes biases"),
        ({"init_lora_weights": "pissa"}, r"init_lora_weights(.|\n)*another base model"),
        ({"a_field_of_tomorrow": 3}, r"a_field_of_tomorrow(.|\n)*nobody here knows(.|\n)*--lora FOLDER"),
        ({"peft_type": "LOHA"}, r"no LoRA(.|\n)*LOHA"),
        ({"rank_pattern": {"(a+)+$": 4}}, r"regular expression"),
        ({"rank_pattern": {"v_proj": 2.5}}, r"whole number"),
        ({"rank_pattern": [1]}, r"patterns are an object"),
        ({"r": 0}, r"number of an adapter is none"),
        ({"r": True}, r"number of an adapter is none"),
        ({"lora_alpha": "16"}, r"number of an adapter is none"),
        ({"use_rslora": "no"}, r"true or false(.|\n)*use_rslora(.|\n)*got: 'no'"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: dict[str, Any], refusal: str) -> None:
    with pytest.raises(CheckpointError, match=refusal):
        read(tmp_path, **change)


def test_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not a LoRA adapter(.|\n)*adapter_config\.json"):
        read_config(tmp_path)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        read_config(tmp_path)
