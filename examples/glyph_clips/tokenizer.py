"""The bundled tokenizer's scheme with the words of this task, and a chat template that knows videos."""

from __future__ import annotations

import json
from pathlib import Path

from glyph_vqa.tokenizer import SPECIAL, WORDS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from luvc_export.demo.scene import NAMES

MORE = ("which", "came", "last", "moved", "times", "did", "change", "up", "down")
VOCABULARY = 512  # rows of the embedding; a multiple of 64, at least the tokens there are
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif part['type'] == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_tokenizer() -> Tokenizer:
    """Train the tokenizer until every word is one token. Deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = [*WORDS, *MORE, *NAMES, *map(str, range(19)), "user", "assistant", "system"]
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"{word} {word}" for word in words for _ in range(3)], trainer)
    return tokenizer


def write_tokenizer(folder: Path) -> Tokenizer:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja into `folder` and return the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return tokenizer
