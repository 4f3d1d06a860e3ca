"""Published sizes of models with Gemma's text, as ``published``: google/paligemma-3b-pt-224."""

from __future__ import annotations

from luvc_export.export.synthetic.preset import Preset


def _paligemma() -> Preset:
    """Text-free fields of the config are transformers' own defaults, as in the repository."""
    text = {
        "model_type": "gemma",
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "num_hidden_layers": 18,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "vocab_size": 257216,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "projection_dim": 2048,
        "vision_use_head": False,
    }
    config = {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "model_type": "paligemma",
        "image_token_index": 257152,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "projection_dim": 2048,
        "text_config": text,
        "vision_config": vision,
    }
    processor = {
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "PaliGemmaProcessor",
        "size": {"height": 224, "width": 224},
        "resample": 3,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    tokens = {0: "<pad>", 1: "<eos>", 2: "<bos>", 257152: "<image>"}
    return Preset("google/paligemma-3b-pt-224", config, tokens, "", "<eos>", processor)


PRESETS = {"paligemma-3b": _paligemma()}
