"""What paligemma checkpoints have beside their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers.models.paligemma.processing_paligemma import PaliGemmaProcessor

from family_checkpoints import FamilyCheckpoint, Json, Parts


def _processor(tiny: Any, parts: Parts) -> Any:
    parts["image_processor"].image_seq_length = tiny.plan.units
    return PaliGemmaProcessor(**parts)


def _odd(config: Any, kind: str, usual: Callable[[Any, str], Any]) -> Any:
    """``deep`` has PaliGemma 2's text model."""
    if kind == "narrow":
        config.projection_dim = config.vision_config.projection_dim = 72
        return usual(config, kind)
    config = usual(config, kind)
    return type(config)(**config.to_dict() | {"text_config": _gemma_2(config.text_config.to_dict())})


def _gemma_2(text: Json) -> Json:
    """Of the same sizes: capped scores and logits, another scale, layers of two kinds."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim", "vocab_size")
    caps = {"query_pre_attn_scalar": 24, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 6.0}
    kept = {name: text[name] for name in (*names, "max_position_embeddings", "tie_word_embeddings")}
    return {"model_type": "gemma2", **kept, **caps, "num_key_value_heads": 2, "sliding_window": 512}


CHECKPOINT = FamilyCheckpoint(
    tokens={"<image>": 250, "<bos>": 251},
    picture="<image>",
    images="siglip",
    processor=_processor,
    settings={"size": {"height": 48, "width": 48}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
    repository="google/paligemma-3b-pt-224",
    bos=True,
    named={"image_token": "<image>"},
    odd=_odd,
    needs_picture=True,
    on_openvino=True,
    quick=False,
)
