"""The test checkpoint of every family, a file each, found by the family's name.

It says what a repository of the family has beside its weights: special tokens, what its chat template writes for a
picture, settings of its image processor, and which processor of Hugging Face's puts a chat together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from luvc_export.errors import UsageError
from luvc_export.registry import Registry

#: Parts of a processor by its arguments: ``image_processor``, ``tokenizer``, ``chat_template``.
Parts = dict[str, Any]
#: A config as JSON has it.
Json = dict[str, Any]
#: What changes one in place.
Change = Callable[[Json], None]


def fitted(tiny: Any) -> dict[str, Any]:
    """Settings of a processor that makes pictures of the tiny model's size: a square, or its patches."""
    if tiny.family.image_size(tiny.config) is not None:
        return {"size": dict.fromkeys(("height", "width"), tiny.size[0])}
    vision = tiny.config.vision_config
    return {"patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size}


def few_blocks(config: Any) -> Any:
    """As many blocks as layers, and two at least: one that merges, one before it."""
    config.vision_config.num_hidden_layers = max(2, config.get_text_config().num_hidden_layers)
    return config


def plain_rope(config: Json) -> None:
    """RoPE as transformers 4 wrote it: the base alone."""
    config["text_config"]["rope_theta"] = config["text_config"]["rope_parameters"]["rope_theta"]


def scaled_rope(config: Json) -> None:
    """Beside the base what scales it."""
    plain_rope(config)
    text = config["text_config"]
    text["rope_scaling"] = {key: value for key, value in text["rope_parameters"].items() if key != "rope_theta"}


def mrope(config: Json) -> None:
    """Beside the base the sections of its axes."""
    plain_rope(config)
    text = config["text_config"]
    text["rope_scaling"] = {"type": "mrope", "mrope_section": text["rope_parameters"]["mrope_section"]}


def no_kinds(config: Json) -> None:
    """Layers of one kind need no list of kinds."""
    config["text_config"].pop("layer_types", None)


def token_index(config: Json) -> None:
    """The picture's token by the name it had."""
    token = config.pop("image_token_id", None)
    config["image_token_index"] = config.get("image_token_index", token)


def text_at_the_top(config: Json) -> None:
    """The text model's fields are the config's own."""
    text, vision = config.pop("text_config"), config["vision_config"]
    for part in (text, vision):
        part.pop("model_type")
    vision["in_chans"], vision["spatial_patch_size"] = vision.pop("in_channels"), vision["patch_size"]
    config |= text


@dataclass(frozen=True)
class FamilyCheckpoint:
    """What stands beside the weights of one family's checkpoints, and what tests of all families must know of it.

    Attributes:
        tokens: Special tokens and their ids, below 256.
        picture: What the chat templates of its repositories write for a picture.
        images: Module of transformers whose image processor it has.
        processor: Hugging Face's processor of its parts, for a tiny model (``family_harness.Case``).
        settings: What its checkpoints say of pictures otherwise than that class.
        repository: Whose form its config of transformers 4 has; None where it was published since transformers 5.
        video: What the templates write for a video.
        bos: Its prompts begin with a token.
        named: What its tokenizer must know by name.
        fitted: Settings of pictures for the tiny model's size.
        two_tiles: What its processor must be told to cut a picture into two tiles; None where it cuts none.
        cuts_always: Its processor cuts whatever it is told: the ``only`` picture of a prompt, or ``every`` one.
        needs_picture: Its processor takes no prompt without a picture.
        nested: Its processor counts a prompt's pictures where they are nested.
        of_bytes: Its tokenizer is one of bytes, which transformers makes anew.
        needs: A package that its model cannot be made without.
        runs: Whether the installed transformers runs the tiny model.
        old_rope: RoPE as transformers 4 wrote it, beside ``rope_parameters``, which go then.
        old: What else its configs of transformers 4 have otherwise, in turn.
        odd: A config of ``family_odd.odd``, from the tiny one, the kind and what makes it of most.
        small: What else a config of ``family_questions.small`` has otherwise, from one of as few layers.
        sliding: Fields of the text model whose windows are short, beside their length; None where it has none.
        asked: What its card asks a page for, and the prompts, as docs/families.md has them.
        drawn: A random config and what of it differs, for ``config_sweep.py``.
        quick: Whether every run of the tests exports its graphs and asks it all; else make slow does, of what costs.
        on_openvino: Whether OpenVINO runs these: one operator no other family has, or another order of them.
    """

    tokens: Mapping[str, int]
    picture: str
    images: str
    processor: Callable[[Any, Parts], Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    repository: str | None = None
    video: str = "<|vision_start|><|video_pad|><|vision_end|>"
    bos: bool = False
    named: Mapping[str, str] = field(default_factory=dict)
    fitted: Callable[[Any], dict[str, Any]] = fitted
    two_tiles: Mapping[str, Any] | None = None
    cuts_always: Literal["", "only", "every"] = ""
    needs_picture: bool = False
    nested: bool = False
    of_bytes: bool = False
    needs: str | None = None
    runs: Callable[[], bool] = lambda: True
    old_rope: Change = plain_rope
    old: tuple[Change, ...] = (no_kinds,)
    odd: Callable[[Any, str, Callable[[Any, str], Any]], Any] | None = None
    small: Callable[[Any], Any] | None = None
    sliding: Mapping[str, Any] | None = None
    asked: tuple[str, str] | None = None
    drawn: Callable[[Any, Any], tuple[Any, Json]] | None = None
    quick: bool = True
    on_openvino: bool = False


_CHECKPOINTS: Registry[FamilyCheckpoint] = Registry(
    "test checkpoint", __name__, "luvc_export.none", "CHECKPOINT", lambda name, one: None, UsageError
)
#: Names of all, and the one of a family.
names, find = _CHECKPOINTS.built_in, _CHECKPOINTS.find


def quick() -> list[str]:
    """Families that every run of the tests asks everything."""
    return [name for name in names() if find(name).quick]
