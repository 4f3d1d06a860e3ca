"""A question (or chat messages) and pictures -> token ids with one placeholder per image the pictures are cut to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import Prompt
from luvc_export.core.tiling import Tiling
from luvc_export.errors import BundleError, UsageError
from luvc_export.runtime.prompt.question import Question, VideoClip
from luvc_export.runtime.prompt.template import ChatTemplate, Message, load_template
from luvc_export.runtime.prompt.tokenizer_rules import check_tokenizer

TOKENIZER = "tokenizer.json"
#: Within a mark that is text: half of a surrogate pair, which no text has. The prompt's tokens are those of what is
#: before and behind it.
BREAK = "\udcff"


class PromptEncoder:
    """The bundle's tokenizer and chat template. ``tokenizer`` is a ``tokenizers.Tokenizer``.

    Args:
        bundle: Has both.
        template: File of a chat template in the place of the bundle's.

    Raises:
        BundleError: A file cannot be read, or the tokenizer does not know the image token.
        UsageError: ``template`` cannot be read.
    """

    def __init__(self, bundle: Bundle, template: Path | None = None) -> None:
        prompt = bundle.manifest.prompt
        self.tokenizer, self._longest = _load_tokenizer(bundle)
        self._capacity = min(prompt.text_capacity, bundle.manifest.decoder.context)
        self.template: ChatTemplate | None = load_template(bundle, template)
        if self.template is not None:
            self.template.prepare()
        self._where = str(bundle.folder)
        image_token = self.tokenizer.id_to_token(prompt.image_token_id)
        if image_token is None:
            raise BundleError(
                "the tokenizer does not know the image token", where=self._where, got=f"id {prompt.image_token_id}"
            )
        self._marks(prompt, str(image_token))
        for end in {end for cut in self.cuts for end in cut.row_ends or () if isinstance(end, str)}:
            if self.tokenizer.token_to_id(end) is None:
                raise BundleError(
                    "the tokenizer does not know what ends a row of a picture",
                    where=self._where,
                    got=repr(end),
                    expected="one token",
                    fix="export with the tokenizer.json of the model's own repository",
                )

        if self.prefix is not None and self.tokenizer.token_to_id(self.prefix.after_pictures) is None:
            raise BundleError(
                "the tokenizer does not know what stands after the pictures",
                where=self._where,
                got=repr(self.prefix.after_pictures),
                expected="one token",
                fix="export with the tokenizer.json of the model's own repository",
            )
        added = [token.content for token in self.tokenizer.get_added_tokens_decoder().values()]
        #: Tokens that stand for pictures, or for videos until they are written.
        self.visual_ids = {self.image_token_id} | {
            one for one in map(self.tokenizer.token_to_id, self._written) if one is not None
        }
        longest_first = sorted({*added, *self._written}, key=len, reverse=True)
        self._tokens = re.compile("|".join(re.escape(token) for token in longest_first if len(token) > 1) or "(?!)")

    def _marks(self, prompt: Prompt, image_token: str) -> None:
        """Where pictures and videos stand in the rendered text, and what tokens stand for a picture."""
        self.image_token_id, self.prefix = prompt.image_token_id, prompt.prefix
        self.cuts = prompt.cuts or (Tiling((self.image_token_id,)),)
        self._image_token, self.video = image_token, prompt.video
        self.marker = prompt.marker or self._image_token
        self._written = [self.marker, *([prompt.video.marker] if prompt.video else [])]
        self._markers = re.compile("|".join(re.escape(marker) for marker in self._written))

    def render(self, asked: Question) -> str:
        """The prompt as text. Without a template, markers of the pictures and then the plain prompt.

        Raises:
            UsageError: See ``ChatTemplate.render``; or more than one question for a bundle without a template.
        """
        if self.template is not None:
            other = self.template_of_videos(asked)
            template = self.template if other is None else replace(self.template, source=other)
            return template.render(asked.messages, asked.values, asked.continues, asked.tools)
        if asked.values or asked.continues or asked.tools:
            got = "an answer to go on with" if asked.continues else ", ".join(asked.values) or "tools"
            raise UsageError("this bundle has no chat template", where=self._where, got=got, fix="leave it out")
        return self._plainly(asked)

    def template_of_videos(self, asked: Question) -> str | None:
        """The template of chats with a video where the family's processor takes another one for them; else None."""
        shown = any(isinstance(item, VideoClip) for item in asked.media)
        return self.video.template if self.video is not None and shown else None

    def _plainly(self, asked: Question) -> str:
        """A prompt, or a chat of one question whose pictures come first, as the processor takes it.

        Raises:
            UsageError: Another chat.
        """
        text = _only_text(asked.messages) if asked.plain is None else asked.plain
        if text is None:
            raise UsageError(
                "this bundle has no chat template, so it takes one question at a time",
                where=self._where,
                got=", ".join(str(message["role"]) for message in asked.messages),
                expected="one message of the user: pictures first, then text",
                fix="pass prompt= (pictures first, then the text as it is)",
            )
        return "".join(self._marker_of(item) for item in asked.media) + text

    def _marker_of(self, item: Any) -> str:
        return self.video.marker if self.video is not None and isinstance(item, VideoClip) else self.marker

    def encode(self, asked: Question, written: Sequence[tuple[str | int, ...]] | None = None) -> list[int]:
        """Token ids of the prompt.

        ``written`` says what stands for each of ``asked.media``; None writes the bundle's first cut. Markers become
        text before the tokenizer sees it, as in transformers' processors, so that what stands around a picture may join
        with its surroundings. Special tokens of the tokenizer's own are added unless the template has written them
        (transformers' rule).

        Raises:
            UsageError: See ``render``; or another number of markers than of pictures and videos.
        """
        if asked.token_ids is not None:
            return list(asked.token_ids)
        rendered = self.render(asked)
        around = self._markers.split(rendered)
        chosen = [self.cuts[0].written] * len(asked.media) if written is None else list(written)
        if len(around) != len(chosen) + 1:
            raise self._miscounted(rendered, len(around) - 1, len(chosen))
        if self._markers.findall(rendered) != [self._marker_of(item) for item in asked.media]:
            raise UsageError(
                "the chat template writes pictures and videos in another order than the messages",
                where="messages",
                got=", ".join("video" if isinstance(item, VideoClip) else "picture" for item in asked.media),
                fix="put the pictures of a message before its videos, or ask about them in two messages",
            )
        if self.prefix is not None:
            around[-1] = f"{self.prefix.after_pictures}{around[-1]}{self.prefix.at_end}"
        text, runs = around[0], list[tuple[int, ...]]()
        for parts, after in zip(chosen, around[1:], strict=True):
            for is_id, run in groupby(parts, lambda part: isinstance(part, int)):
                if is_id:
                    runs.append(tuple(int(part) for part in run))
                    text += self._image_token
                else:
                    text += "".join(str(part) for part in run)
            text += after
        self.check_length(len(text), sum(len(run) for run in runs))
        ids = self._ids(text)
        if (count := ids.count(self.image_token_id)) != len(runs):
            raise self._miscounted(rendered, count - len(runs) + len(chosen), len(chosen))
        spelled = iter(runs)
        return [one for token in ids for one in (next(spelled) if token == self.image_token_id else (token,))]

    def broken(self, value: Any) -> Any:
        """``value`` with every mark in its texts broken: what a stranger wrote is read as text, not as a token."""
        if isinstance(value, str):
            return self._tokens.sub(lambda mark: f"{mark[0][0]}{BREAK}{mark[0][1:]}", value)
        if isinstance(value, Mapping):
            return {self.broken(name): self.broken(inside) for name, inside in value.items()}
        return [self.broken(inside) for inside in value] if isinstance(value, list | tuple) else value

    def check_length(self, letters: int, written: int = 0) -> None:
        """Refuse a text that cannot fit, whatever its tokens: splitting 3.9 MB of blanks takes 42 s.

        Raises:
            UsageError: It has more letters than the longest token for each place.
        """
        most = (self._capacity + written) * self._longest
        if letters > most:
            raise UsageError(
                "the prompt is longer than the bundle's text capacity",
                where="prompt",
                got=f"{letters:,} letters",
                expected=f"at most {self._capacity:,} tokens of at most {self._longest} letters",
                fix="ask less",
            )

    def _ids(self, text: str) -> list[int]:
        bos = self.template.special.get("bos_token") if self.template else None
        whole = self.prefix is not None or (bos and text.startswith(bos))
        first, *more = text.split(BREAK)
        try:
            ids = list(self.tokenizer.encode(first, add_special_tokens=not whole).ids)
            return ids + [one for part in more for one in self.tokenizer.encode(part, add_special_tokens=False).ids]
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # see _load_tokenizer
            raise BundleError("the tokenizer fails", where=self._where, got=str(error)[:300]) from error

    def _miscounted(self, text: str, places: int, pictures: int) -> UsageError:
        return UsageError(
            f"the prompt has places for {places} pictures, but {pictures} are given",
            where="prompt",
            got=repr(text[:200]),
            expected=f"one {self.marker} per picture",
            fix="give as many pictures as there are image parts, and do not write the placeholder in the text",
        )


def _load_tokenizer(bundle: Bundle) -> tuple[Tokenizer, int]:
    """The tokenizer, and letters of its longest token."""
    path = bundle.path(TOKENIZER)
    data = bundle.read(TOKENIZER)
    longest = check_tokenizer(data, str(path))
    try:
        tokenizer = Tokenizer.from_str(data.decode("utf-8"))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizers raises the bare Exception; its panics are not even that
        raise BundleError("the tokenizer cannot be read", where=str(path), got=str(error)[:300]) from error
    tokenizer.no_truncation()  # saved with some tokenizers, and would silently cut a long prompt
    tokenizer.no_padding()
    return tokenizer, longest


def _only_text(messages: Sequence[Message]) -> str | None:
    """The text of a chat that is one question with its pictures first; None for any other."""
    if len(messages) != 1 or messages[0]["role"] != "user":
        return None
    content = messages[0].get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list | tuple) else ()
    kinds = [part.get("type") if isinstance(part, dict) else None for part in parts]
    texts: list[Any] = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    first = len(kinds) - len(texts)
    pictures_first = all(kind in ("image", "video") for kind in kinds[:first])
    return "".join(texts) if parts and pictures_first and all(isinstance(text, str) for text in texts) else None
