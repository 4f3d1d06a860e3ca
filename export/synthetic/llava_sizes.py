"""Published sizes of LLaVA's kin, as ``published``: llava-hf/llava-v1.6-mistral-7b-hf, KamilaMila/FastVLM-0.5B."""

from __future__ import annotations

from luvc_export.export.synthetic.preset import CLIP, Preset, sizes


def _llava_next() -> Preset:
    text = sizes(4096, 14336, 32, 32, 8, vocab_size=32064) | {
        "model_type": "mistral",
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
    }
    vision = sizes(1024, 4096, 24, 16) | {
        "model_type": "clip_vision_model",
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    }
    grids = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    config = {
        "architectures": ["LlavaNextForConditionalGeneration"],
        "model_type": "llava_next",
        "image_token_index": 32000,
        "image_grid_pinpoints": grids,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "text_config": text,
        "vision_config": vision,
    }
    processor = {
        "image_processor_type": "LlavaNextImageProcessor",
        "processor_class": "LlavaNextProcessor",
        "size": {"shortest_edge": 336},
        "crop_size": {"height": 336, "width": 336},
        "image_grid_pinpoints": grids,
        **CLIP,
    }
    tokens = {1: "<s>", 2: "</s>", 32000: "<image>"}
    return Preset("llava-hf/llava-v1.6-mistral-7b-hf", config, tokens, "<image>", "</s>", processor)


def _fast_vlm() -> Preset:
    """The tower and ids that transformers' ``FastVlmConfig`` has by itself, and Qwen2-0.5B's text."""
    config = {
        "architectures": ["FastVlmForConditionalGeneration"],
        "model_type": "fast_vlm",
        "image_token_index": 151646,
        "tie_word_embeddings": True,
        "text_config": sizes(896, 4864, 24, 14, 2)
        | {
            "model_type": "qwen2",
            "vocab_size": 152128,
            "max_position_embeddings": 32768,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
        },
        "vision_config": {
            "model_type": "timm_wrapper",
            "architecture": "fastvit_mci3",
            "do_pooling": True,
            "global_pool": "avg",
            "hidden_size": 3072,
            "model_args": {"inference_mode": True},
        },
    }
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "size": {"shortest_edge": 1024},
        "crop_size": {"height": 1024, "width": 1024},
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
    }
    tokens = {151643: "<|endoftext|>", 151644: "<|im_start|>", 151645: "<|im_end|>", 151646: "<image>"}
    return Preset("KamilaMila/FastVLM-0.5B", config, tokens, "<image>", "<|im_end|>", processor)


PRESETS = {"llava-next-7b": _llava_next(), "fastvlm-0.5b": _fast_vlm()}
