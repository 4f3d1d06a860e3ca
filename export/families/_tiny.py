"""Sizes that tiny configurations share: small enough for tests, unlike one another where a mistake would hide."""

from __future__ import annotations

from typing import Any

#: Beginning, end and padding of a text.
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
#: Placeholders and marks of the Qwen-VL families.
QWEN_TOKENS = {
    f"{name}_token_id": 250 + place for place, name in enumerate(("image", "video", "vision_start", "vision_end"))
}
#: Those of Gemma 4.
GEMMA_TOKENS = {f"{name}_token_id": 250 + at for at, name in enumerate(("image", "video", "boi", "eoi", "audio"))}


def vision(**own: Any) -> dict[str, Any]:
    """A tower of three blocks, two heads of 16, and what is the family's ``own``."""
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        **own,
    }


def qwen_vision(**own: Any) -> dict[str, Any]:
    """``vision`` by the names of the Qwen-VL families, for an LLM of 64."""
    return {"depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64, **own}


def mrope(*section: int, **own: Any) -> dict[str, Any]:
    """Rotary parameters with frequencies for (t, h, w), and what is the family's ``own``."""
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [*section], **own}


def siglip(**own: Any) -> dict[str, Any]:
    """``vision`` of SigLIP without its head."""
    return vision(model_type="siglip_vision_model", vision_use_head=False, **own)


def text(**own: Any) -> dict[str, Any]:
    """A text model of three layers, two queries a key, 256 tokens, and what is the family's ``own``."""
    return {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 256,
        "max_position_embeddings": 2048,
        **own,
    }
