"""What is asked: messages with pictures and videos, as the runtime takes them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from luvc_export.errors import UsageError
from luvc_export.runtime.media.pictures import Opened, Picture
from luvc_export.runtime.media.video import DEFAULT_FPS, DEFAULT_FRAMES, Sampled, VideoSource, check_fps, open_video
from luvc_export.runtime.prompt.request_fields import check_messages
from luvc_export.runtime.prompt.template import Message

if TYPE_CHECKING:
    from luvc_export.bundle.adapters.peft_folder import Adapter


@dataclass(frozen=True)
class VideoClip:
    """Frames of a video, in order, and how many of them make a second.

    ``times`` are seconds from the start at which each is shown, where that is known better than by ``fps``. ``of`` is
    how many frames there were where these were taken from more; None where they are all.
    """

    frames: tuple[Picture, ...]
    fps: float
    times: tuple[float, ...] | None = None
    of: int | None = None


@dataclass(frozen=True)
class Question:
    """Messages in Hugging Face's content-list form, and what their image and video parts stand for, in order.

    ``image_tokens`` is the most visual tokens that a picture, or a moment of a video, may become before compression;
    None for no ceiling. ``adapter`` is what is beside the weights for the answer; None for the base model.
    ``values`` are the chat template's beside its own; ``continues`` has the answer go on with the last message.
    ``tools`` is what the model may call, in OpenAI's form. ``token_ids`` are the prompt as it is, without pictures.
    """

    messages: tuple[Message, ...]
    media: tuple[Picture | VideoClip, ...]
    plain: str | None = None
    image_tokens: int | None = None
    adapter: Adapter | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    continues: bool = False
    tools: Sequence[Mapping[str, Any]] = ()
    token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class OpenedClip(VideoClip):
    """A clip whose frames are opened."""

    frames: tuple[Opened, ...]


@dataclass(frozen=True)
class OpenedQuestion(Question):
    """A question whose media are opened: what is made ready for a plan."""

    media: tuple[Opened | OpenedClip, ...]

    @property
    def pictures(self) -> tuple[Opened, ...]:
        """The media that are no videos."""
        return tuple(item for item in self.media if not isinstance(item, OpenedClip))


def question(
    image: Picture | Sequence[Picture] | None,
    prompt: str | None,
    messages: Sequence[Message] | None,
    video: VideoSource | None = None,
    fps: float | None = None,
    frames: int = DEFAULT_FRAMES,
) -> Question:
    """Bring the ways of asking into one form. With ``prompt``, the pictures come first, then the video, then the text.

    Image parts of ``messages`` may carry their picture (``{"type": "image", "image": ...}``; ``path``, ``url``);
    if none does, they stand for ``image`` in order. A video part may carry its frames or its file (``{"type": "video",
    "video": [...], "fps": 2}``) or stand for ``video``. Of a file at most ``frames`` frames are taken.

    Raises:
        UsageError: Neither or both of ``prompt`` and ``messages``, or pictures given in two ways.
    """
    shown = _pictures(image)
    clip = _clip(video, fps, frames) if video is not None else None
    if (prompt is None) == (messages is None):
        raise UsageError(
            "give a prompt or messages",
            where="generate",
            got="both" if prompt is not None else "neither",
            expected="prompt='...' or messages=[{'role': 'user', 'content': ...}]",
        )
    if prompt is not None:
        if not isinstance(prompt, str):
            raise UsageError("the prompt is not text", where="prompt", got=type(prompt).__name__)
        _check_text(prompt)
        kinds = ["image"] * len(shown) + ["video"] * (clip is not None)
        content: list[Message] = [*({"type": kind} for kind in kinds)]
        media = shown if clip is None else (*shown, clip)
        return Question(({"role": "user", "content": [*content, {"type": "text", "text": prompt}]},), media, prompt)
    listed = tuple(messages or ())
    _check_text(listed)
    for index, message in enumerate(listed):
        if not isinstance(message, dict) or "role" not in message:
            raise UsageError("a message is a dict with a role", where=f"messages[{index}]", got=repr(message)[:80])
    check_messages(listed)
    parts = _media_parts(listed)
    carried = [part.get("image", part.get("path", part.get("url"))) for part in parts if part["type"] == "image"]
    inside = [picture for picture in carried if picture is not None]
    if inside and (shown or len(inside) < len(carried)):
        raise UsageError(
            "pictures are given in two ways",
            where="messages",
            got=f"{len(inside)} of {len(carried)} image parts carry one, image= gives {len(shown)}",
            expected="all of them in the messages, or all of them as image=",
        )
    pictures = iter(inside or shown)
    ordered: list[Picture | VideoClip] = []
    for part in parts:
        if part["type"] == "image":
            ordered += islice(pictures, 1)
        elif "video" in part:
            ordered.append(_clip(part["video"], part.get("fps", fps), frames))
        elif clip is not None:
            ordered.append(clip)
    return Question(listed, (*ordered, *pictures))


#: Fields of a part that carry a picture or name its file, whose name may be no text.
_CARRIED = frozenset(("image", "path", "url", "video"))


def _check_text(prompt: Any) -> None:
    """Refuse text with half a character (a lone surrogate), which no tokenizer takes; pictures are not looked into.

    Raises:
        UsageError: There is one.
    """
    waiting = [prompt]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            try:
                one.encode()
            except UnicodeEncodeError as error:
                raise UsageError(
                    "the prompt holds half a character",
                    where="prompt",
                    got=repr(one[error.start : error.end][:8]),
                    expected="Unicode text",
                    fix="read the text as UTF-8",
                ) from error
        elif isinstance(one, dict):
            waiting += [value for name, value in one.items() if name not in _CARRIED]
        elif isinstance(one, list | tuple):
            waiting += one


def _pictures(image: Any) -> tuple[Picture, ...]:
    if image is None:
        return ()
    return tuple(image) if isinstance(image, list | tuple) else (image,)


def _media_parts(messages: Sequence[Message]) -> list[Message]:
    contents = [message.get("content") for message in messages]
    parts = [part for content in contents if isinstance(content, list | tuple) for part in content]
    return [part for part in parts if isinstance(part, dict) and part.get("type") in ("image", "video")]


def _clip(video: Any, fps: Any, frames: int) -> VideoClip:
    if isinstance(video, str | os.PathLike | bytes):
        video = open_video(video, frames, fps)
    if isinstance(video, Sampled):
        return VideoClip(video.frames, video.fps, video.times, video.of)
    if not isinstance(video, list | tuple) or not video:
        raise UsageError(
            "a video is a file, a folder, or a list of frames",
            where="video",
            got="an empty list" if isinstance(video, list | tuple) else type(video).__name__,
            expected="a path, a file's bytes, or [picture, picture, ...]",
        )
    check_fps(fps := DEFAULT_FPS if fps is None else fps)
    return VideoClip(tuple(video), float(fps))
