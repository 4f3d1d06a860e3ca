"""Cosmos-Reason2 is Qwen3-VL by another name: its config, made small, is read and computed as transformers does."""

from __future__ import annotations

import copy

import family_harness as harness
from family_harness import TOLERANCE, build
from transformers import AutoConfig

from luvc_export.export import families
from luvc_export.export.synthetic.presets import PRESETS

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 256,
}
VISION = {
    "deepstack_visual_indexes": [0, 2],
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "num_position_embeddings": 36,
    "out_hidden_size": 64,
}


def test_a_checkpoint_of_its_form_is_transformers() -> None:
    """Sections of M-RoPE, head size, patches, tied head and activation are those of the 2B model."""
    config = copy.deepcopy(PRESETS["cosmos-reason2-2b"].config)
    config["text_config"] |= TEXT | {"eos_token_id": 2, "bos_token_id": 1}
    config["vision_config"] |= VISION
    config |= {"image_token_id": 250, "video_token_id": 251, "vision_start_token_id": 252, "vision_end_token_id": 253}
    family = families.find(config.pop("model_type"), "test")
    assert "Cosmos-Reason2" in family.also
    tiny = build(family, AutoConfig.for_model(family.model_type, **config))
    images, ids = tiny.images(2), tiny.prompt(2)
    expected = harness.reference_logits(tiny, harness.reference(tiny, ids, images))
    run = harness.lay_out(tiny, tiny.plan, ids, *harness.encode_images(tiny, tiny.plan, images)[:2])
    decoder = tiny.family.decoder(tiny.model, tiny.plan)
    assert expected.std() >= 1 and decoder.planes == 2 and tiny.model.lm_head.weight is decoder.embed_tokens.weight
    assert harness.difference(harness.logits(tiny, decoder, run), expected) < TOLERANCE
