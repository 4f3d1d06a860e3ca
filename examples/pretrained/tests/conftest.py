"""Lets the tests import `pretrained` as `python -m` does from the folder `examples`; a base of two random layers."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

SIZES = {"num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 900}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A base of two random layers: its folder, the plain model and the merged one."""
    import torch
    from pretrained.base import ENCODER, SPECIAL, configuration, merge
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("base")
    rope = {"rope_theta": 100000.0, "rope_type": "default"}
    shape = {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "rms_norm_eps": 1e-5, **SIZES}
    llama = LlamaForCausalLM(LlamaConfig(**shape, rope_parameters=rope, tie_word_embeddings=True)).eval()
    config = configuration(904, {token: 900 + n for n, token in enumerate(SPECIAL)})
    for name in ("num_hidden_layers", "intermediate_size"):
        setattr(config.text_config, name, SIZES[name])
    config.text_config.layer_types = ["full_attention"] * 2
    with torch.no_grad():
        for weight in llama.parameters():
            weight.mul_(3.0 if weight.dim() > 1 else 1.0)
        model = merge(llama, config, AutoTokenizer.from_pretrained(ENCODER))
    model.save_pretrained(folder)
    shutil.copy(ENCODER / "tokenizer.json", folder)
    return folder, llama, model
