"""Tokenizers, chat templates and processors of every family, small: what a chat needs beside the tiny models."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from family_checkpoints import find
from family_harness import Case
from family_processors import image_processor
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from luvc_export.export.families.base import ReferencePrompt

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}PICTURE{% elif c.type == 'video' %}"
    "VIDEO{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}"
)


def tokenizer(name: str) -> Tokenizer:
    """Printable characters, runs of line ends as one token each (they join across a picture's marks), specials."""
    words = dict(enumerate(["\n", *map(chr, range(32, 127)), "\n\n", "\n\n\n", "\n\n\n\n"], 3))
    words |= {id_: token for token, id_ in find(name).tokens.items()}
    vocabulary = {words.get(index, f"<t{index}>"): index for index in range(256)}
    joined = [("\n", "\n"), ("\n\n", "\n"), ("\n\n", "\n\n")]
    if find(name).of_bytes:
        vocabulary = {_bytes(token): index for token, index in vocabulary.items()}
        fast = Tokenizer(models.BPE(vocabulary, [(_bytes(one), _bytes(other)) for one, other in joined]))
        fast.decoder, fast.pre_tokenizer = decoders.ByteLevel(), pre_tokenizers.ByteLevel(False, use_regex=False)
    else:
        fast = Tokenizer(models.BPE(vocabulary, joined, unk_token="<t0>"))
        fast.decoder = decoders.Fuse()
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in find(name).tokens])
    return fast


def _bytes(token: str) -> str:
    """A token as vocabularies of bytes write it."""
    return token.replace(" ", "Ġ").replace("\n", "Ċ")


def template(name: str) -> str:
    written = find(name)
    return TEMPLATE.replace("PICTURE", f"{{{{ {written.picture!r} }}}}").replace("VIDEO", written.video)


def processor(tiny: Case, **images: Any) -> Any:
    """Hugging Face's own processor; ``images`` are arguments of its image processor beside those of the family."""
    name = str(tiny)
    written = find(name)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(name),
        bos_token="<bos>" if written.bos else None,
        extra_special_tokens=dict(written.named),
    )
    parts = {"image_processor": image_processor(name, **images), "tokenizer": fast, "chat_template": template(name)}
    return written.processor(tiny, parts)


def ask(tiny: Case, processor: Any, messages: list[Any], pictures: list[Any]) -> dict[str, Any]:
    """What ``processor`` turns a chat into, as ``generate`` takes it."""
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    nested = [pictures] if find(str(tiny)).nested else pictures
    with warnings.catch_warnings():  # PaliGemma's makes an array of a tensor in a way that numpy will not take
        warnings.simplefilter("ignore", DeprecationWarning)
        inputs = dict(processor(images=nested if pictures else None, text=[text], return_tensors="pt"))
    inputs.pop("labels", None)
    return inputs


def expanded(tiny: Case, token_ids: Sequence[int]) -> list[int]:
    """Our ids as transformers writes them: every placeholder as often as there are units, a newline as a picture's."""
    image, newline = tiny.family.image_token_id(tiny.config), tiny.family.decoder_shape(tiny.config).vocab
    if tiny.family.cuts(tiny.config)[0].row_ends or max(token_ids) > newline:  # vectors of its own beside newlines
        images = torch.zeros(token_ids.count(image), 1, *tiny.size, 3)
        prompt = ReferencePrompt(images, [*token_ids])
        return tiny.family.reference_inputs(tiny.config, prompt)["input_ids"][0].tolist()
    return [
        one
        for token in token_ids
        for one in ([image] * tiny.plan.units if token == image else [image if token == newline else token])
    ]


def save_image_processor(tiny: Case, folder: Path, **changes: Any) -> Path:
    """The settings of pictures as transformers 4 wrote them, for the model's own sizes."""
    name = str(tiny)
    image_processor(name, **find(name).fitted(tiny) | changes).save_pretrained(folder)
    return folder / "preprocessor_config.json"


def save(tiny: Case, folder: Path) -> Path:
    """The tiny model as a checkpoint folder with everything a chat needs."""
    name = str(tiny)
    tiny.model.save_pretrained(folder)
    save_image_processor(tiny, folder)
    (folder / "tokenizer.json").write_text(tokenizer(name).to_str(), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template(name), encoding="utf-8")
    bos = {"tokenizer_class": "PreTrainedTokenizerFast"} | ({"bos_token": "<bos>"} if find(name).bos else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(bos), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": []}), encoding="utf-8")
    return folder
