"""Training writes what slots take, and the page is made of its figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("peft", reason="pip install 'luvc-export[lora]'")

from answer_styles import study, train

from luvc_export.bundle.adapters.peft_config import read_config

RESULTS = Path(train.__file__).parents[2] / "docs/results"


def test_a_step_writes_an_adapter_of_the_llm_alone(tmp_path: Path) -> None:
    """Of every layer, and of nothing in the encoder."""
    from safetensors import safe_open

    train.train("agreed", tmp_path, steps=2, pictures=1, rank=2)
    assert read_config(tmp_path).scale_of("model.language_model.layers.0.self_attn.q_proj") == 2
    with safe_open(str(tmp_path / "adapter_model.safetensors"), "np") as file:
        names = list(file.keys())
    assert len(names) == 2 * 7 * 6 and all(".language_model.layers." in name for name in names)


def test_styles() -> None:
    """What is said around an answer."""
    assert train.styled("sentence", "red 5") == "red 5 it is" and train.styled("agreed", "3") == "3 is right"


def test_the_page_is_its_figures() -> None:
    """And another figure makes another page."""
    rows = json.loads((RESULTS / "adapters.json").read_text(encoding="utf-8"))["rows"]
    assert study.page(rows) == (RESULTS / "adapters.md").read_text(encoding="utf-8")
    rows[0]["batch_differ"] += 1
    assert study.page(rows) != (RESULTS / "adapters.md").read_text(encoding="utf-8")
