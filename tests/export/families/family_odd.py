"""Two odd-shaped checkpoints of every family: head sizes, depths, vocabularies that no tiny model has; sharded, tied.

``python tests/export/families/family_odd.py`` compares all of them with transformers, in every fit, and says how far
they are apart; ``test_family_odd.py`` does a share of it.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import family_chat
import torch
from family_harness import Case, build
from family_questions import questions

from luvc_export.bundle.manifest import Fit
from luvc_export.calibration import runners
from luvc_export.calibration.parity.result import ParityResult
from luvc_export.calibration.parity.run import parity
from luvc_export.calibration.runners.canvas import canvas, uncompressed
from luvc_export.export import families
from luvc_export.export.checkpoint import open_checkpoint

FITS: tuple[Fit, ...] = ("pad", "crop", "stretch")
ODD = ("narrow", "deep")
#: Greedy tokens that must be equal.
GREEDY = 24


def odd(name: str, kind: str) -> Case:
    """``narrow``: one key head for three query heads of 20 or 24, a vocabulary of 307; ``deep``: five layers, tied."""
    family = families.find(name, "test")
    config: Any = family.tiny_config()
    text, vision = config.get_text_config(), config.vision_config
    if kind == "narrow":
        text.num_attention_heads, text.num_key_value_heads = 3, 1
        text.hidden_size, text.intermediate_size, text.vocab_size = 72, 100, 307
        text.head_dim = 24
        rope = getattr(text, "rope_parameters", None) or {}
        if "mrope_section" in rope:
            text.rope_parameters = rope | {"mrope_section": [4, 4, 4]}
        if hasattr(vision, "out_hidden_size"):
            vision.out_hidden_size = 72
        if name == "qwen2_vl":
            vision.hidden_size = 72
    else:
        text.num_hidden_layers, text.intermediate_size = 5, 130
        if getattr(text, "layer_types", None):
            text.layer_types = [text.layer_types[index % len(text.layer_types)] for index in range(5)]
    tied = kind == "deep"
    config.tie_word_embeddings = text.tie_word_embeddings = tied
    made = build(family, type(config)(**config.to_dict()), seed=3)
    return replace(made)


def save(tiny: Case, folder: Path, kind: str) -> Path:
    """The checkpoint, in several shards where ``kind`` is deep, with everything a chat needs."""
    family_chat.save(tiny, folder)
    if kind == "deep":
        (folder / "model.safetensors").unlink()
        tiny.model.save_pretrained(folder, max_shard_size="100KB")
        assert len([*folder.glob("model-*.safetensors")]) > 1
    return folder


def compared(name: str, kind: str, folder: Path, fits: tuple[Fit, ...] = FITS) -> dict[Fit, ParityResult]:
    """Plan ``none`` against transformers on pictures of other shapes, two to a prompt, and on text alone."""
    tiny = odd(name, kind)
    checkpoint = open_checkpoint(str(save(tiny, folder, kind)))
    asked, found = questions(name, "pictures"), {}
    for fit in fits:
        image = canvas(checkpoint, tiny.size, fit)
        left = runners.open_huggingface(checkpoint, image)
        right = runners.open_torch(checkpoint, uncompressed(checkpoint, tiny.size), image)
        found[fit] = parity(left, right, asked, observe=len(asked), longest=GREEDY)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("| family | checkpoint | fit | relative L2 at worst | same tokens |\n|---|---|---|---|---|")
    for each in families.built_in():
        for shape in ODD:
            with tempfile.TemporaryDirectory() as scratch:
                for fit, made in compared(each, shape, Path(scratch)).items():
                    worst = max(step.rel_l2 for step in made.steps)
                    same = sum(item.diverged is None for item in made.comparison.answered)
                    count = len(made.comparison.answered)
                    passed = "" if made.passed else ", FAILED"
                    print(f"| `{each}` | {shape} | {fit} | {worst:.1e} | {same} of {count}{passed} |", flush=True)
