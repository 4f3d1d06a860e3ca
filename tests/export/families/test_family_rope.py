"""Every RoPE variant in every kind of layer gives transformers' logits, or is refused with its name."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import family_harness as harness
import pytest
import torch

from luvc_export.errors import CheckpointError
from luvc_export.export import families

HALF = 8
ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.0},
    "llama3": {
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "yarn-told": {"factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 0.7, "beta_fast": 16.0},
    "dynamic": {"factor": 2.0},
    "longrope": {
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "short_factor": [1.0] * HALF,
        "long_factor": [2.0] * HALF,
    },
    "partial": {"partial_rotary_factor": 0.5},
}
REFUSED = ("dynamic", "longrope", "partial")
_KINDS = {"yarn-told": "yarn", "partial": "default"}


def stated(name: str, theta: float = 10000.0) -> dict[str, Any]:
    return {"rope_type": _KINDS.get(name, name), "rope_theta": theta, **ROPES[name]}


def differs(family: str, change: Any) -> float:
    """How far logits of a prompt with a picture are from transformers'."""
    own = families.find(family, "test")
    config = copy.deepcopy(own.tiny_config())
    change(config.get_text_config())
    tiny = harness.build(own, config)
    decoder = own.decoder(tiny.model, tiny.plan)
    ids, images = tiny.prompt(1), tiny.images(1)
    embeds, positions, _ = harness.encode_images(tiny, tiny.plan, images)
    run = harness.lay_out(tiny, tiny.plan, ids, embeds, positions)
    wanted = harness.reference_logits(tiny, harness.reference(tiny, ids, images))
    return harness.difference(harness.logits(tiny, decoder, run), wanted)


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "qwen3_vl"])
def test_one_kind_of_layer(family: str, rope: str) -> None:
    def change(text: Any) -> None:
        text.rope_parameters = {**text.rope_parameters, **stated(rope)}

    if rope in REFUSED:
        with pytest.raises(CheckpointError, match=r"RoPE type|turned in part"):
            differs(family, change)
    else:
        assert differs(family, change) < harness.TOLERANCE


@pytest.mark.parametrize(("full", "sliding"), [*product(("default", "yarn"), ROPES), *product(ROPES, ("linear",))])
def test_two_kinds_of_layer(full: str, sliding: str) -> None:
    def change(text: Any) -> None:
        text.rope_parameters = {"full_attention": stated(full), "sliding_attention": stated(sliding, 100.0)}

    if {full, sliding} & {*REFUSED}:
        with pytest.raises(CheckpointError, match=r"RoPE type|turned in part"):
            differs("gemma3", change)
    else:
        assert differs("gemma3", change) < harness.TOLERANCE


@pytest.mark.parametrize("kind", ["full_attention", "sliding_attention"])
def test_layers_of_one_of_two_kinds_alone(kind: str) -> None:
    def change(text: Any) -> None:
        text.layer_types = [kind] * text.num_hidden_layers
        text.rope_parameters = {kind: stated("yarn")}

    assert differs("gemma3", change) < harness.TOLERANCE


@pytest.mark.parametrize(
    ("family", "section", "fits"),
    [
        ("qwen2_5_vl", [2, 3, 3], True),
        ("qwen2_5_vl", [8, 0, 0], True),
        ("qwen2_5_vl", [1, 3, 3], False),
        ("qwen2_5_vl", [2, 2, 2, 2], False),
        ("qwen3_vl", [4, 2, 2], True),
        ("qwen3_vl", [2, 1, 1], True),
        ("qwen3_vl", [2, 3, 2], True),
        ("qwen3_vl", [1, 1, 9], False),
        ("qwen2_5_vl", 0.5, False),
        ("qwen2_5_vl", "xyz", False),
        ("qwen2_5_vl", [2.0, 3, 3], False),
        ("qwen3_vl", [2**40, -1, 1], False),
    ],
)
def test_sections_of_mrope(family: str, section: Any, fits: bool) -> None:
    """Qwen3-VL's may be shorter than the frequencies: what is left turns with time."""

    def change(text: Any) -> None:
        text.rope_parameters = {**text.rope_parameters, "mrope_section": section}

    if not fits:
        with pytest.raises(CheckpointError, match="the sections of M-RoPE do not fit the heads"):
            differs(family, change)
    else:
        assert differs(family, change) < harness.TOLERANCE


def test_a_wrong_factor_would_be_seen() -> None:
    """The sabotage: one layer kind with the other's attention scaling."""
    own = families.find("gemma3", "test")
    config = copy.deepcopy(own.tiny_config())
    config.text_config.rope_parameters = {"full_attention": stated("yarn"), "sliding_attention": stated("default")}
    tiny = harness.build(own, config)
    decoder = own.decoder(tiny.model, tiny.plan)
    assert isinstance(decoder.rope.scaling, torch.Tensor)
    decoder.rope.scaling = float(decoder.rope.scaling[0])
    ids, images = tiny.prompt(1), tiny.images(1)
    embeds, positions, _ = harness.encode_images(tiny, tiny.plan, images)
    run = harness.lay_out(tiny, tiny.plan, ids, embeds, positions)
    wanted = harness.reference_logits(tiny, harness.reference(tiny, ids, images))
    assert harness.difference(harness.logits(tiny, decoder, run), wanted) > harness.SABOTAGE
