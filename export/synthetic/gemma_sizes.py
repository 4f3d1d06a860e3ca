"""Published sizes of models with Gemma's text: google/paligemma-3b-pt-224, google/gemma-4-E2B-it."""

from __future__ import annotations

from luvc_export.export.synthetic.preset import HALF, Preset, sizes


def _paligemma() -> Preset:
    """Text-free fields of the config are transformers' own defaults, as in the repository."""
    text = sizes(2048, 16384, 18, 8, 1, model_type="gemma", vocab_size=257216)
    vision = sizes(1152, 4304, 27, 16) | {
        "model_type": "siglip_vision_model",
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
        **HALF,
    }
    tokens = {0: "<pad>", 1: "<eos>", 2: "<bos>", 257152: "<image>"}
    return Preset("google/paligemma-3b-pt-224", config, tokens, "", "<eos>", processor)


def _gemma_4_e2b() -> Preset:
    """Without the audio tower, which exports leave out."""
    text = sizes(1536, 6144, 35, 8, 1) | {
        "model_type": "gemma4_text",
        "head_dim": 256,
        "global_head_dim": 512,
        "num_kv_shared_layers": 20,
        "use_double_wide_mlp": True,
        "hidden_size_per_layer_input": 256,
        "vocab_size": 262144,
        "vocab_size_per_layer_input": 262144,
        "max_position_embeddings": 131072,
        "sliding_window": 512,
        "final_logit_softcapping": 30.0,
        "layer_types": [*["sliding_attention"] * 4, "full_attention"] * 7,
        "tie_word_embeddings": True,
    }
    vision = sizes(768, 3072, 16, 12, 12) | {
        "model_type": "gemma4_vision",
        "head_dim": 64,
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "position_embedding_size": 10240,
        "use_clipped_linears": True,
    }
    config = {
        "architectures": ["Gemma4ForConditionalGeneration"],
        "model_type": "gemma4",
        "image_token_id": 258880,
        "audio_token_id": 258881,
        "video_token_id": 258884,
        "boi_token_id": 255999,
        "eoi_token_id": 258882,
        "audio_config": None,
        "tie_word_embeddings": True,
        "text_config": text,
        "vision_config": vision,
    }
    processor = {
        "image_processor_type": "Gemma4ImageProcessor",
        "processor_class": "Gemma4Processor",
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "max_soft_tokens": 280,
    }
    tokens = {0: "<pad>", 1: "<eos>", 2: "<bos>", 255999: "<|image>", 258880: "<|image|>", 258882: "<image|>"}
    tokens |= {258884: "<|video|>"}
    return Preset("google/gemma-4-E2B-it", config, tokens, "<|image|>", "<eos>", processor, "<|video|>")


PRESETS = {"paligemma-3b": _paligemma(), "gemma4-e2b": _gemma_4_e2b()}
