"""The bundled task's tokenizer with the words of pages; tokens both know keep their text, not their ids."""

from __future__ import annotations

import json
from pathlib import Path

from glyph_vqa import tokenizer as bundled
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from luvc_export.demo.scene import NAMES

from .page import HEADS, KEYS, STEPS

VOCABULARY = 768  # rows of the embedding; a multiple of 64, at least the tokens there are
WORDS = (*bundled.WORDS, "figure", "line", "key", *HEADS, *STEPS)


def build_tokenizer() -> Tokenizer:
    """Train the tokenizer on the words of both tasks until each is one token. Deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = dict.fromkeys([*WORDS, *NAMES, *KEYS, *map(str, range(100)), "user", "assistant", "system"])
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=2,
        special_tokens=list(bundled.SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"{word} {word}" for word in words for _ in range(3)], trainer)
    return tokenizer


def write_tokenizer(folder: Path) -> Tokenizer:
    """Write the tokenizer's three files into `folder` and return it."""
    bundled.write_tokenizer(folder)  # its settings and chat template are the same
    tokenizer = build_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    return tokenizer
