"""Published sizes of models by short name, as ``config.json`` holds them.

Each is ``https://huggingface.co/<id>/blob/main/config.json`` with the fields that decide shapes and arithmetic:
Qwen/Qwen2.5-VL-3B-Instruct, Qwen/Qwen2.5-VL-7B-Instruct, OpenGVLab/InternVL3-1B-hf, OpenGVLab/InternVL3-2B-hf,
HuggingFaceTB/SmolVLM-256M-Instruct, mistralai/Ministral-3-3B-Instruct-2512-BF16, nvidia/Cosmos-Reason2-2B (which has
Qwen3-VL-2B's sizes); LLaVA's and Gemma's kin are in ``llava_sizes`` and ``gemma_sizes``, those of layers with states
in ``hybrid_sizes``.
"""

from __future__ import annotations

from typing import Any

from luvc_export.export.synthetic import gemma_sizes, hybrid_sizes, llava_sizes
from luvc_export.export.synthetic.preset import CLIP, HALF, Preset, sizes


def _qwen(source: str, text: dict[str, Any], tied: bool) -> Preset:
    tokens = {
        151643: "<|endoftext|>",
        151644: "<|im_start|>",
        151645: "<|im_end|>",
        151652: "<|vision_start|>",
        151653: "<|vision_end|>",
        151655: "<|image_pad|>",
        151656: "<|video_pad|>",
    }
    shared = {
        "model_type": "qwen2_5_vl_text",
        "hidden_act": "silu",
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "use_sliding_window": False,
        "tie_word_embeddings": tied,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    }
    vision = {
        "model_type": "qwen2_5_vl",
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_channels": 3,
        "out_hidden_size": text["hidden_size"],
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "tie_word_embeddings": tied,
        "text_config": shared | text,
        "vision_config": vision,
    }
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "min_pixels": 3136,
        "max_pixels": 12845056,
        **CLIP,
    }
    around = "<|vision_start|>{}<|vision_end|>".format
    return Preset(source, config, tokens, around("<|image_pad|>"), "<|im_end|>", processor, around("<|video_pad|>"))


def _internvl(source: str, text: dict[str, Any]) -> Preset:
    tokens = {
        151643: "<|endoftext|>",
        151644: "<|im_start|>",
        151645: "<|im_end|>",
        151665: "<img>",
        151666: "</img>",
        151667: "<IMG_CONTEXT>",
    }
    shared = {
        "model_type": "qwen2",
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "vocab_size": 151674,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    }
    vision = sizes(1024, 4096, 24, 16) | {
        "model_type": "internvl_vision",
        "hidden_act": "gelu",
        "attention_bias": True,
        "image_size": [448, 448],
        "patch_size": [14, 14],
        "layer_norm_eps": 1e-06,
        "layer_scale_init_value": 0.1,
        "norm_type": "layer_norm",
        "use_absolute_position_embeddings": True,
        "use_mean_pooling": True,
        "use_qk_norm": False,
    }
    config = {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "downsample_ratio": 0.5,
        "image_seq_length": 256,
        "image_token_id": 151667,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": False,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "text_config": shared | text,
        "vision_config": vision,
    }
    processor = {
        "image_processor_type": "GotOcr2ImageProcessor",
        "processor_class": "InternVLProcessor",
        "size": {"height": 448, "width": 448},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    return Preset(source, config, tokens, "<IMG_CONTEXT>", "<|im_end|>", processor, "<video>")


def _smolvlm() -> Preset:
    tokens = {
        0: "<|endoftext|>",
        1: "<|im_start|>",
        2: "<|im_end|>",
        49152: "<global-img>",
        49189: "<fake_token_around_image>",
        49190: "<image>",
        49279: "<end_of_utterance>",
    }
    text = sizes(576, 1536, 30, 9, 3) | {
        "model_type": "llama",
        "head_dim": 64,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-05,
        "rope_theta": 100000,
        "tie_word_embeddings": False,
        "vocab_size": 49280,
        "bos_token_id": 1,
        "eos_token_id": 49279,
        "pad_token_id": 2,
    }
    vision = sizes(768, 3072, 12, 12) | {
        "model_type": "idefics3_vision",
        "image_size": 512,
        "patch_size": 16,
        "layer_norm_eps": 1e-06,
    }
    config = {
        "architectures": ["Idefics3ForConditionalGeneration"],
        "model_type": "idefics3",
        "image_token_id": 49190,
        "scale_factor": 4,
        "tie_word_embeddings": False,
        "text_config": text,
        "vision_config": vision,
    }
    processor = {
        "image_processor_type": "Idefics3ImageProcessor",
        "processor_class": "Idefics3Processor",
        "do_image_splitting": False,
        "max_image_size": {"longest_edge": 512},
        "size": {"longest_edge": 512},
        **HALF,
    }
    return Preset("HuggingFaceTB/SmolVLM-256M-Instruct", config, tokens, "<image>", "<end_of_utterance>", processor)


def _ministral() -> Preset:
    tokens = {1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 10: "[IMG]", 12: "[IMG_BREAK]", 13: "[IMG_END]"}
    rope = {
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 16384,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    }
    text = sizes(3072, 9216, 26, 32, 8, vocab_size=131072) | {
        "model_type": "ministral3",
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-05,
        "rope_parameters": rope,
        "sliding_window": None,
        "tie_word_embeddings": True,
    }
    vision = sizes(1024, 4096, 24, 16) | {
        "model_type": "pixtral",
        "hidden_act": "silu",
        "head_dim": 64,
        "image_size": 1540,
        "patch_size": 14,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    }
    config = {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "model_type": "mistral3",
        "image_token_index": 10,
        "multimodal_projector_bias": False,
        "projector_hidden_act": "gelu",
        "spatial_merge_size": 2,
        "vision_feature_layer": -1,
        "tie_word_embeddings": True,
        "text_config": text,
        "vision_config": vision,
    }
    processor = {
        "image_processor_type": "PixtralImageProcessor",
        "processor_class": "PixtralProcessor",
        "patch_size": 14,
        "size": {"longest_edge": 1540},
        **CLIP,
    }
    return Preset("mistralai/Ministral-3-3B-Instruct-2512-BF16", config, tokens, "[IMG]", "</s>", processor)


def _cosmos() -> Preset:
    """Post-trained from Qwen3-VL-2B-Instruct, whose sizes it has."""
    shared = _qwen("", sizes(2048, 6144, 28, 16, 8, vocab_size=151936), tied=True)
    rope = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]}
    text = shared.config["text_config"] | {
        "model_type": "qwen3_vl_text",
        "attention_bias": False,
        "head_dim": 128,
        "max_position_embeddings": 262144,
        "rope_theta": 5000000,
        "rope_scaling": rope,
    }
    vision = {
        "model_type": "qwen3_vl",
        "deepstack_visual_indexes": [5, 11, 17],
        "depth": 24,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 1024,
        "in_channels": 3,
        "intermediate_size": 4096,
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "out_hidden_size": 2048,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = shared.config | {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
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
    return Preset("nvidia/Cosmos-Reason2-2B", config, shared.tokens, shared.image, shared.end, processor, shared.video)


def _paddleocr() -> Preset:
    """What transformers' ``PaddleOCRVLConfig`` has by itself, sections of its rotation and an untied head beside it."""
    config = {
        "architectures": ["PaddleOCRVLForConditionalGeneration"],
        "model_type": "paddleocr_vl",
        "image_token_id": 100295,
        "video_token_id": 100296,
        "vision_start_token_id": 101305,
        "vision_end_token_id": 101306,
        "tie_word_embeddings": False,
        "text_config": sizes(1024, 3072, 18, 16, 2, vocab_size=103424)
        | {
            "model_type": "paddleocr_vl_text",
            "tie_word_embeddings": False,
            "head_dim": 128,
            "max_position_embeddings": 131072,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0, "mrope_section": [16, 24, 24]},
        },
        "vision_config": sizes(1152, 4304, 27, 16)
        | {
            "model_type": "paddleocr_vl_vision",
            "image_size": 384,
            "patch_size": 14,
            "spatial_merge_size": 2,
        },
    }
    processor = {
        "image_processor_type": "PaddleOCRVLImageProcessor",
        "processor_class": "PaddleOCRVLProcessor",
        "patch_size": 14,
        "temporal_patch_size": 1,
        "merge_size": 2,
        "size": {"shortest_edge": 147384, "longest_edge": 2822400},
        **HALF,
    }
    tokens = {1: "<s>", 2: "</s>", 100295: "<|IMAGE_PLACEHOLDER|>"}
    tokens |= {101305: "<|IMAGE_START|>", 101306: "<|IMAGE_END|>"}
    image = "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"
    return Preset("PaddlePaddle/PaddleOCR-VL", config, tokens, image, "</s>", processor)


PRESETS: dict[str, Preset] = {
    "qwen2.5-vl-3b": _qwen("Qwen/Qwen2.5-VL-3B-Instruct", sizes(2048, 11008, 36, 16, 2, vocab_size=151936), tied=True),
    "qwen2.5-vl-7b": _qwen("Qwen/Qwen2.5-VL-7B-Instruct", sizes(3584, 18944, 28, 28, 4, vocab_size=152064), tied=False),
    "internvl3-1b": _internvl("OpenGVLab/InternVL3-1B-hf", sizes(896, 4864, 24, 14, 2)),
    "internvl3-2b": _internvl("OpenGVLab/InternVL3-2B-hf", sizes(1536, 8960, 28, 12, 2)),
    "smolvlm-256m": _smolvlm(),
    "ministral3-3b": _ministral(),
    "cosmos-reason2-2b": _cosmos(),
    "paddleocr-vl-0.9b": _paddleocr(),
    **llava_sizes.PRESETS,
    **gemma_sizes.PRESETS,
    **hybrid_sizes.PRESETS,
}
