"""Token ids -> text, piece by piece: never half a character, never the beginning of a stop string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer

from luvc_export.errors import BundleError

_BROKEN = "\ufffd"  # what a decoder writes for bytes that are no character (yet)
#: Letters that stand for tokens: halves of surrogate pairs, which no decoder writes and no client may send.
MARKS = tuple(map(chr, range(0xDC00, 0xDC40)))


class TextStream:
    """Collects the tokens of one answer. The pieces it gives, joined, are ``text``.

    Args:
        tokenizer: Its decoder turns ids into text; special tokens are left out.
        stop: Strings that end the answer; the text ends before the first of them.
        shows_stop: It ends behind it.
        marks: Texts in the place of some tokens, which no other token's text is (``MARKS``).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        shows_stop: bool = False,
        marks: Mapping[int, str] | None = None,
    ) -> None:
        self._tokenizer, self._stop, self._shows_stop = tokenizer, tuple(stop), shows_stop
        self._marks = marks or {}
        self._ids: list[int] = []
        self._context, self._seen = 0, 0
        self._held = ""
        self._given: list[str] = []
        self.stopped = False

    @property
    def text(self) -> str:
        """What has been given so far."""
        return "".join(self._given)

    def push(self, token: int) -> str:
        """Add a token; return the text that is certain now (often empty). Sets ``stopped`` on a stop string."""
        if (mark := self._marks.get(token)) is not None:
            before = self._decode(final=True)
            self._ids, self._context, self._seen = [], 0, 0
            return self._release(before + mark, final=False)
        self._ids.append(token)
        return self._release(self._decode(final=False), final=False)

    def flush(self) -> str:
        """End the answer; return what was held back."""
        return self._release(self._decode(final=True), final=True)

    def _decode(self, final: bool) -> str:
        """New characters. Decoders look at neighbours, so a few earlier tokens are decoded again for context."""
        before = self._decoded(self._ids[self._context : self._seen])
        now = self._decoded(self._ids[self._context :])
        if not final and (now.endswith(_BROKEN) or len(now) <= len(before)):
            return ""
        self._context, self._seen = self._seen, len(self._ids)
        return now[len(before) :]

    def _decoded(self, ids: list[int]) -> str:
        return text_of(self._tokenizer, ids)

    def _release(self, new: str, final: bool) -> str:
        if self.stopped:
            return ""
        pending = self._held + new
        places = [(start, len(stop)) for stop in self._stop if (start := pending.find(stop)) >= 0]
        if places:
            self.stopped = True
            keep = sum(min(places)) if self._shows_stop else min(places)[0]
        else:
            keep = len(pending) - (0 if final else self._beginning(pending))
        self._held = pending[keep:]
        self._given.append(pending[:keep])
        return pending[:keep]

    def _beginning(self, text: str) -> int:
        """Length of the longest end of ``text`` that is the beginning of a stop string."""
        lengths = range(min(len(text), max(map(len, self._stop), default=1) - 1), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self._stop)), 0)


def text_of(tokenizer: Tokenizer, ids: Sequence[int], special: bool = False) -> str:
    """The library's text of ``ids``; special tokens are left out, or stand there by their names.

    Raises:
        BundleError: A rule of the tokenizer's decoder panics, such as one that strips more than there is.
    """
    try:
        return str(tokenizer.decode(list(ids), skip_special_tokens=not special))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic is no Exception
        raise BundleError("the tokenizer fails", where="tokenizer.json", got=str(error)[:300]) from error
