"""Tokenizers, chat templates and processors of every family, small: what a chat needs beside the tiny models."""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from family_harness import Case
from family_processors import Lfm2VlPictures, image_processor, sized
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.lfm2_vl.processing_lfm2_vl import Lfm2VlProcessor
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor
from transformers.models.paddleocr_vl.processing_paddleocr_vl import PaddleOCRVLProcessor
from transformers.models.paligemma.processing_paligemma import PaliGemmaProcessor
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.smolvlm import processing_smolvlm

from luvc_export.export.families.base import ReferencePrompt

LABELS = {f"<row_{row}_col_{column}>": 230 + 2 * row + column for row in (1, 2) for column in (1, 2)}
SPLIT = {"<image>": 250, "<fake_token_around_image>": 251, "<global-img>": 252, **LABELS}
TILES = {f"<|img_row_{row}_col_{column}|>": 230 + 2 * row + column for row in (1, 2) for column in (1, 2)}
TILES |= {"<|img_thumbnail|>": 254}
QWEN = {"<|image_pad|>": 250, "<|video_pad|>": 251, "<|vision_start|>": 252, "<|vision_end|>": 253}

#: Special tokens of each family, and what the templates of its repositories write for a picture.
SPECIAL: dict[str, tuple[dict[str, int], str]] = {
    "fast_vlm": ({"<image>": 250}, "<image>\n"),
    "gemma3": (
        {"<image_soft_token>": 250, "<start_of_image>": 252, "<end_of_image>": 253, "<bos>": 254},
        "<start_of_image>",
    ),
    "gemma4": (
        {"<|image|>": 250, "<|video|>": 251, "<|image>": 252, "<image|>": 253, "<|audio|>": 254, "<bos>": 255},
        "<|image|>",
    ),
    "idefics3": (SPLIT, "<image>"),
    "internvl": ({"<IMG_CONTEXT>": 250, "<video>": 251, "<img>": 252, "</img>": 253}, "<IMG_CONTEXT>\n"),
    "lfm2_vl": ({"<image>": 250, "<|image_start|>": 252, "<|image_end|>": 253} | TILES, "<image>"),
    "llava": ({"<image>": 250}, "<image>\n"),
    "llava_next": ({"<image>": 250}, "<image>\n"),
    "llava_onevision": ({"<image>": 250, "<video>": 251}, "<image>\n"),
    "mistral3": ({"[IMG]": 250, "[IMG_BREAK]": 251, "[IMG_END]": 252}, "[IMG]"),
    "paddleocr_vl": (
        {"<|IMAGE_PLACEHOLDER|>": 250, "<|video_pad|>": 251, "<|IMAGE_START|>": 252, "<|IMAGE_END|>": 253},
        "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
    ),
    "paligemma": ({"<image>": 250, "<bos>": 251}, "<image>"),
    "qwen2_5_vl": (QWEN, "<|vision_start|><|image_pad|><|vision_end|>"),
    "qwen2_vl": (QWEN, "<|vision_start|><|image_pad|><|vision_end|>"),
    "qwen3_5": (QWEN, "<|vision_start|><|image_pad|><|vision_end|>"),
    "qwen3_vl": (QWEN, "<|vision_start|><|image_pad|><|vision_end|>"),
    "smolvlm": (SPLIT, "<image>"),
}
#: What the tokenizer of a family must know by name for its processor.
NAMED = {
    "gemma3": {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    },
    "gemma4": {
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        **dict.fromkeys(("audio_token", "boa_token", "eoa_token"), "<|audio|>"),
    },
    "paddleocr_vl": {"image_token": "<|IMAGE_PLACEHOLDER|>"},
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    "paligemma": {"image_token": "<image>"},
}
#: What the templates of repositories other than Qwen's write for a video.
VIDEO = {"gemma4": "<|video|>", "internvl": "<video>\n", "llava_onevision": "<video>\n", "smolvlm": "<video>"}
BOS = ("gemma3", "gemma4", "paligemma")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}PICTURE{% elif c.type == 'video' %}"
    "VIDEO{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}"
)


class Still:
    """Stands for processors of what is not asked about: for videos transformers has them with torchvision alone."""

    temporal_patch_size, merge_size, num_frames, fps = 2, 2, None, None


def still(kind: type[Any]) -> type[Any]:
    """``kind`` without the checks of those."""

    def check(self: Any, name: str, part: Any) -> Any:
        return (
            None
            if name in ("video_processor", "feature_extractor") or isinstance(part, Lfm2VlPictures)
            else kind.check_argument_for_proper_class(self, name, part)
        )

    return type(kind.__name__, (kind,), {"check_argument_for_proper_class": check, "__init__": kind.__init__})


def beside_pillow(module: str, kind: str) -> Any:
    """The processor class ``kind``, whose module asks one of torchvision for what the one of Pillow has too."""
    models = f"transformers.models.{module}"
    pillow = importlib.import_module(f"{models}.image_processing_pil_{module}")
    with mock.patch.dict(sys.modules, {f"{models}.image_processing_{module}": pillow}):
        return getattr(importlib.import_module(f"{models}.processing_{module}"), kind)


def tokenizer(name: str) -> Tokenizer:
    """Printable characters, runs of line ends as one token each (they join across a picture's marks), specials."""
    words = dict(enumerate(["\n", *map(chr, range(32, 127)), "\n\n", "\n\n\n", "\n\n\n\n"], 3))
    words |= {id_: token for token, id_ in SPECIAL[name][0].items()}
    vocabulary = {words.get(index, f"<t{index}>"): index for index in range(256)}
    joined = [("\n", "\n"), ("\n\n", "\n"), ("\n\n", "\n\n")]
    if name == "qwen3_5":  # transformers makes its tokenizer anew, of bytes
        vocabulary = {_bytes(token): index for token, index in vocabulary.items()}
        fast = Tokenizer(models.BPE(vocabulary, [(_bytes(one), _bytes(other)) for one, other in joined]))
        fast.decoder, fast.pre_tokenizer = decoders.ByteLevel(), pre_tokenizers.ByteLevel(False, use_regex=False)
    else:
        fast = Tokenizer(models.BPE(vocabulary, joined, unk_token="<t0>"))
        fast.decoder = decoders.Fuse()
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL[name][0]])
    return fast


def _bytes(token: str) -> str:
    """A token as vocabularies of bytes write it."""
    return token.replace(" ", "Ġ").replace("\n", "Ċ")


def template(name: str) -> str:
    video = VIDEO.get(name, "<|vision_start|><|video_pad|><|vision_end|>")
    return TEMPLATE.replace("PICTURE", f"{{{{ {SPECIAL[name][1]!r} }}}}").replace("VIDEO", video)


def processor(tiny: Case, **images: Any) -> Any:
    """Hugging Face's own processor; ``images`` are arguments of its image processor beside those of the family."""
    name = str(tiny)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(name),
        bos_token="<bos>" if name in BOS else None,
        pad_token="<t0>" if name == "gemma4" else None,
        extra_special_tokens=NAMED.get(name, {}),
    )
    parts = {"image_processor": image_processor(name, **images), "tokenizer": fast, "chat_template": template(name)}
    tokens = tiny.plan.units
    if name == "gemma3":
        return Gemma3Processor(**parts, image_seq_length=tokens)
    if name == "idefics3":
        return Idefics3Processor(**parts, image_seq_len=tokens)
    if name == "lfm2_vl":
        return still(Lfm2VlProcessor)(**parts | {"image_processor": Lfm2VlPictures(parts["image_processor"])})
    if name == "llava":
        return LlavaProcessor(
            **parts, patch_size=12, vision_feature_select_strategy="default", num_additional_image_tokens=1
        )
    if name == "llava_next":
        return LlavaNextProcessor(
            **parts, patch_size=12, vision_feature_select_strategy="default", num_additional_image_tokens=1
        )
    if name == "fast_vlm":
        unit = tiny.family.unit_pixels(tiny.config)
        return LlavaProcessor(**parts, patch_size=unit, vision_feature_select_strategy="full")
    if name == "paddleocr_vl":
        return PaddleOCRVLProcessor(**parts)
    if name == "paligemma":
        parts["image_processor"].image_seq_length = tokens
        return PaliGemmaProcessor(**parts)
    if name == "mistral3":
        return beside_pillow("pixtral", "PixtralProcessor")(**parts, patch_size=8, spatial_merge_size=2)
    parts["video_processor"] = Still()
    if name == "gemma4":
        return still(beside_pillow("gemma4", "Gemma4Processor"))(**parts, feature_extractor=Still())
    if name == "internvl":
        return still(InternVLProcessor)(**parts, image_seq_length=tokens)
    if name == "smolvlm":
        with mock.patch.object(processing_smolvlm, "num2words", str):  # writes numbers of video frames
            return still(processing_smolvlm.SmolVLMProcessor)(**parts, image_seq_len=tokens)
    if name == "llava_onevision":
        return still(LlavaOnevisionProcessor)(**parts, num_image_tokens=tokens, vision_feature_select_strategy="full")
    kinds = {"qwen2_vl": Qwen2VLProcessor, "qwen2_5_vl": Qwen2_5_VLProcessor, "qwen3_vl": Qwen3VLProcessor}
    kinds["qwen3_5"] = Qwen3VLProcessor
    return still(kinds[name])(**parts)


def ask(tiny: Case, processor: Any, messages: list[Any], pictures: list[Any]) -> dict[str, Any]:
    """What ``processor`` turns a chat into, as ``generate`` takes it."""
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    nested = [pictures] if str(tiny) == "llava_onevision" else pictures  # one prompt's pictures, so that it counts them
    with warnings.catch_warnings():  # PaliGemma's makes an array of a tensor in a way that numpy will not take
        warnings.simplefilter("ignore", DeprecationWarning)
        inputs = dict(processor(images=nested if pictures else None, text=[text], return_tensors="pt"))
    inputs.pop("labels", None)
    return inputs


def expanded(tiny: Case, token_ids: Sequence[int]) -> list[int]:
    """Our ids as transformers writes them: every placeholder as often as there are units, a newline as a picture's."""
    image, newline = tiny.family.image_token_id(tiny.config), tiny.family.decoder_shape(tiny.config).vocab
    if tiny.family.cuts(tiny.config)[0].row_ends:
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
    name, vision = str(tiny), tiny.config.vision_config
    if name in ("fast_vlm", "mistral3"):
        own = {}
    elif tiny.family.image_size(tiny.config) is None:
        own = {"patch_size": vision.patch_size}
        own |= {} if name in ("gemma4", "lfm2_vl") else {"merge_size": vision.spatial_merge_size}
    else:
        own = sized(name, tiny.size[0])
    image_processor(name, **own | changes).save_pretrained(folder)
    return folder / "preprocessor_config.json"


def save(tiny: Case, folder: Path) -> Path:
    """The tiny model as a checkpoint folder with everything a chat needs."""
    name = str(tiny)
    tiny.model.save_pretrained(folder)
    save_image_processor(tiny, folder)
    (folder / "tokenizer.json").write_text(tokenizer(name).to_str(), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template(name), encoding="utf-8")
    bos = {"tokenizer_class": "PreTrainedTokenizerFast"} | ({"bos_token": "<bos>"} if name in BOS else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(bos), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": []}), encoding="utf-8")
    return folder
