"""The test checkpoint of every family, a file each, found by the family's name.

It says what a repository of the family has beside its weights: special tokens, what its chat template writes for a
picture, settings of its image processor, and which processor of Hugging Face's puts a chat together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from luvc_export.errors import UsageError
from luvc_export.registry import Registry

#: Parts of a processor by its arguments: ``image_processor``, ``tokenizer``, ``chat_template``.
Parts = dict[str, Any]


def fitted(tiny: Any) -> dict[str, Any]:
    """Settings of a processor that makes pictures of the tiny model's size: a square, or its patches."""
    if tiny.family.image_size(tiny.config) is not None:
        return {"size": dict.fromkeys(("height", "width"), tiny.size[0])}
    vision = tiny.config.vision_config
    return {"patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size}


@dataclass(frozen=True)
class FamilyCheckpoint:
    """What stands beside the weights of one family's checkpoints.

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


_CHECKPOINTS: Registry[FamilyCheckpoint] = Registry(
    "test checkpoint", __name__, "luvc_export.none", "CHECKPOINT", lambda name, one: None, UsageError
)
#: Names of all, and the one of a family.
names, find = _CHECKPOINTS.built_in, _CHECKPOINTS.find
