"""A byte-level tokenizer, special tokens at their published ids: any text goes in, what comes out means nothing."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from luvc_export.export.synthetic.presets import Preset

_TURN = "<|im_start|>"


def write(preset: Preset, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json (with the chat template) and generation_config.json."""
    end = preset.end
    make(preset).save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end or None,
        "pad_token": end or None,
        "clean_up_tokenization_spaces": False,
        "chat_template": template(preset),
    }
    _json(folder / "tokenizer_config.json", {name: value for name, value in settings.items() if value is not None})
    (folder / "chat_template.jinja").write_text(template(preset), encoding="utf-8")
    ends = [number for number, text in preset.tokens.items() if text == end]
    _json(folder / "generation_config.json", {"eos_token_id": ends[0], "do_sample": False} if ends else {})


def make(preset: Preset) -> Tokenizer:
    """Bytes at the lowest free ids, special tokens at theirs, fillers between, up to the last special token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    free = iter(number for number in range(len(alphabet) + len(preset.tokens)) if number not in preset.tokens)
    vocabulary = {letter: next(free) for letter in alphabet} | {text: n for n, text in preset.tokens.items()}
    taken = set(vocabulary.values())
    vocabulary |= {f"<|unused{n}|>": n for n in range(max(preset.tokens)) if n not in taken}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True) for text in preset.tokens.values()])
    return made


def template(preset: Preset) -> str:
    """A chat template in the form these models share."""
    turn = _TURN if _TURN in preset.tokens.values() else ""
    return (
        "{% for m in messages %}{{ '" + turn + "' + m['role'] + '\n' }}"
        "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}{{ '" + preset.image + "' }}"
        "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
        "{{ '" + preset.end + "\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '" + turn + "assistant\n' }}{% endif %}"
    ).replace("\n", "\\n")


def _json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
