"""What gemma4 checkpoints have beside their weights."""

from __future__ import annotations

import random
from typing import Any

from family_processors import Still, beside_pillow, still

from family_checkpoints import FamilyCheckpoint, Json, Parts


def _processor(tiny: Any, parts: Parts) -> Any:
    kind = still(beside_pillow("gemma4", "Gemma4Processor"))
    return kind(**parts, video_processor=Still(), feature_extractor=Still())


#: Of layers, in turn.
KINDS = ["sliding_attention", "full_attention"]


def _small(config: Any) -> Any:
    """A layer of each kind, and one that reads the second one's cache; two blocks."""
    config.vision_config.num_hidden_layers = 2
    fields = config.to_dict()
    text = {**fields["text_config"], "num_hidden_layers": 3, "layer_types": [*KINDS, KINDS[1]]}
    text |= {"num_kv_shared_layers": 1, "global_head_dim": 32}
    text.pop("per_layer_config", None)
    return type(config)(**{**fields, "text_config": text})


def _narrow(config: Json) -> Json:
    """Two consumers of three kinds of heads, embeddings of every layer."""
    heads = {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 24, "global_head_dim": 36}
    sizes = {"hidden_size": 72, "intermediate_size": 100, "vocab_size": 307, "vocab_size_per_layer_input": 307}
    text = {**config["text_config"], **heads, **sizes, "tie_word_embeddings": False}
    vision = {**config["vision_config"], "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8}
    text.pop("per_layer_config", None)
    return {**config, "text_config": text, "vision_config": vision, "tie_word_embeddings": False}


def _deep(config: Json) -> Json:
    """As 12B and larger: no layer shares, none has embeddings of its own, values are keys, pictures are causal too."""
    layers = {"num_hidden_layers": 5, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0}
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    heads = {"num_key_value_heads": 4, "num_global_key_value_heads": 2, "attention_k_eq_v": True}
    other = {"intermediate_size": 130, "tie_word_embeddings": True, "use_bidirectional_attention": None}
    text = {**config["text_config"], **layers, **heads, **other, "layer_types": kinds, "global_head_dim": 32}
    vision = {**config["vision_config"], "use_clipped_linears": False, "standardize": False}
    text.pop("per_layer_config", None)
    return {**config, "text_config": text, "vision_config": vision, "tie_word_embeddings": True}


def _drawn(draw: random.Random, config: Any) -> tuple[Any, Json]:
    """The sizes that its two kinds of layers have of their own, and what its layers may have or lack."""
    layers, kv, wide_kv = draw.randint(2, 6), draw.choice([1, 2, 3]), draw.choice([None, 1, 2])
    heads = max(kv, wide_kv or 1) * draw.choice([1, 2]) if wide_kv in (None, 1, kv) or kv == 1 else 2 * kv * wide_kv
    kinds = draw.choice([["sliding_attention"], ["sliding_attention", "full_attention"], ["full_attention"]])
    text = {
        "num_hidden_layers": layers,
        "layer_types": [kinds[layer % len(kinds)] for layer in range(layers - 1)] + ["full_attention"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "num_global_key_value_heads": wide_kv,
        "head_dim": draw.choice([8, 16, 24]),
        "global_head_dim": draw.choice([16, 32, 40]),
        "attention_k_eq_v": draw.random() < 0.4,
        "num_kv_shared_layers": draw.choice([0, 0, 1, 2]),
        "use_double_wide_mlp": draw.random() < 0.5,
        "hidden_size_per_layer_input": draw.choice([0, 8, 12]),
        "hidden_size": draw.choice([48, 64, 72]),
        "intermediate_size": draw.choice([40, 96, 130]),
        "final_logit_softcapping": draw.choice([None, 10.0, 30.0]),
        "use_bidirectional_attention": draw.choice([None, "vision"]),
        "hidden_activation": draw.choice(["gelu_pytorch_tanh", "silu", "gelu"]),
        "rms_norm_eps": draw.choice([1e-5, 1e-6]),
        "sliding_window": draw.choice([16, 128, 512]),
    }
    across = draw.choice([1, 2, 4])
    vision = {
        "num_hidden_layers": draw.randint(1, 4),
        "num_attention_heads": across,
        "num_key_value_heads": across,
        "head_dim": draw.choice([8, 16]),
        "intermediate_size": draw.choice([40, 64]),
        "use_clipped_linears": draw.random() < 0.5,
        "standardize": draw.random() < 0.5,
    }
    whole, tied = config.to_dict(), draw.random() < 0.5
    for part in ("text_config", "vision_config"):
        whole[part].pop("per_layer_config", None)
    whole["text_config"] |= text | {"tie_word_embeddings": tied}
    whole["vision_config"] |= vision
    changed = {f"text.{name}": value for name, value in text.items()}
    changed |= {f"vision.{name}": value for name, value in vision.items()} | {"tie_word_embeddings": tied}
    return whole | {"tie_word_embeddings": tied}, changed


CHECKPOINT = FamilyCheckpoint(
    tokens={"<|image|>": 250, "<|video|>": 251, "<|image>": 252, "<image|>": 253, "<|audio|>": 254, "<bos>": 255},
    picture="<|image|>",
    images="gemma4",
    processor=_processor,
    settings={"patch_size": 4, "max_soft_tokens": 70, "do_resize": False},
    video="<|video|>",
    bos=True,
    named={
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio|>",
        "eoa_token": "<|audio|>",
        "pad_token": "<t0>",
    },
    fitted=lambda tiny: {"patch_size": tiny.config.vision_config.patch_size},
    odd=lambda config, kind, usual: type(config)(**{"narrow": _narrow, "deep": _deep}[kind](config.to_dict())),
    small=_small,
    sliding={"global_head_dim": 32, "num_hidden_layers": 4, "layer_types": KINDS * 2, "num_kv_shared_layers": 2},
    drawn=_drawn,
    quick=False,
    on_openvino=True,
)
