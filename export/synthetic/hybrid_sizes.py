"""Published sizes of models whose layers keep states: LiquidAI/LFM2-VL-450M and Qwen/Qwen3.5-0.8B."""

from __future__ import annotations

from itertools import product

from luvc_export.export.synthetic.preset import HALF, Preset, sizes


def _lfm2_vl() -> Preset:
    """Ten layers of convolution, six of attention; the MLP's width is made of the one given (``block_ff_dim``)."""
    attention = (2, 5, 8, 10, 12, 14)
    text = sizes(1024, 6656, 16, 16, 8) | {
        "model_type": "lfm2",
        "vocab_size": 65536,
        "max_position_embeddings": 128000,
        "norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "conv_L_cache": 3,
        "conv_bias": False,
        "block_auto_adjust_ff_dim": True,
        "block_ffn_dim_multiplier": 1.0,
        "block_multiple_of": 256,
        "layer_types": ["full_attention" if layer in attention else "conv" for layer in range(16)],
    }
    vision = sizes(768, 3072, 12, 12) | {
        "model_type": "siglip2_vision_model",
        "num_patches": 256,
        "patch_size": 16,
        "vision_use_head": False,
    }
    config = {
        "architectures": ["Lfm2VlForConditionalGeneration"],
        "model_type": "lfm2_vl",
        "image_token_id": 396,
        "downsample_factor": 2,
        "projector_hidden_size": 2560,
        "projector_bias": True,
        "projector_use_layernorm": True,
        "tie_word_embeddings": True,
        "text_config": text,
        "vision_config": vision,
    }
    processor = {
        "image_processor_type": "Lfm2VlImageProcessor",
        "processor_class": "Lfm2VlProcessor",
        "encoder_patch_size": 16,
        "downsample_factor": 2,
        "do_image_splitting": True,
        "min_tiles": 2,
        "max_tiles": 10,
        "tile_size": 512,
        "use_thumbnail": True,
        "min_image_tokens": 64,
        "max_image_tokens": 256,
        "max_pixels_tolerance": 2.0,
        "resample": 2,
        **HALF,
    }
    tokens = {0: "<|pad|>", 1: "<|startoftext|>", 6: "<|im_start|>", 7: "<|im_end|>", 396: "<image>"}
    tokens |= {
        397 + 10 * row + column: f"<|img_row_{row + 1}_col_{column + 1}|>"
        for row, column in product(range(10), repeat=2)
    }
    tokens |= {497: "<|img_thumbnail|>", 498: "<|image_start|>", 499: "<|image_end|>"}
    return Preset("LiquidAI/LFM2-VL-450M", config, tokens, "<image>", "<|im_end|>", processor)


def _qwen3_5() -> Preset:
    """Every fourth layer has attention."""
    text = sizes(1024, 3584, 24, 8, 2) | {
        "model_type": "qwen3_5_text",
        "head_dim": 256,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 16,
        "vocab_size": 248320,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "layer_types": ["full_attention" if layer % 4 == 3 else "linear_attention" for layer in range(24)],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000000.0,
            "partial_rotary_factor": 0.25,
            "mrope_section": [11, 11, 10],
            "mrope_interleaved": True,
        },
    }
    vision = {
        "model_type": "qwen3_5_vision",
        "depth": 12,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_heads": 12,
        "num_position_embeddings": 2304,
        "out_hidden_size": 1024,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        "image_token_id": 248056,
        "video_token_id": 248057,
        "vision_start_token_id": 248053,
        "vision_end_token_id": 248054,
        "tie_word_embeddings": True,
        "text_config": text,
        "vision_config": vision,
    }
    processor = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"longest_edge": 16777216, "shortest_edge": 65536},
        **HALF,
    }
    tokens = {248045: "<|im_start|>", 248046: "<|im_end|>", 248053: "<|vision_start|>", 248054: "<|vision_end|>"}
    tokens |= {248056: "<|image_pad|>", 248057: "<|video_pad|>"}
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    return Preset("Qwen/Qwen3.5-0.8B", config, tokens, image, "<|im_end|>", processor)


PRESETS = {"lfm2-vl-450m": _lfm2_vl(), "qwen3.5-0.8b": _qwen3_5()}
