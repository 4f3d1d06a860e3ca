"""An answer split while it comes: the thought, the text, and calls."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from luvc_export.runtime.generation.detokenise import MARKS
from luvc_export.serve.tools.call_form import CallForm, Schemas
from luvc_export.serve.tools.detection import Thought
from luvc_export.serve.tools.letters import Cut, Delta, Letters, Malformed, Reading


@dataclass(frozen=True)
class AnswerShape:
    """What answers of a request are made of.

    Args:
        ids: Tokens that are marks, by mark; other marks are letters.
        calls: How calls are written; None where there can be none.
        thought: What is around a thought; None where the model writes none.
        opened: The template has written the mark before it.
        schemas: Of tools that may be called.
        named: The request names the tool to call.
    """

    ids: Mapping[str, int] = field(default_factory=dict)
    calls: CallForm | None = None
    thought: Thought | None = None
    opened: bool = False
    schemas: Schemas = field(default_factory=dict)
    named: bool = False

    @property
    def marks(self) -> dict[int, str]:
        """What stands for tokens in the text, see ``TextStream``."""
        return dict(zip(self.ids.values(), MARKS, strict=False))

    @property
    def spelled(self) -> dict[str, str]:
        """The same by mark."""
        return dict(zip(self.ids, MARKS, strict=False))


class AnswerReader:
    """Reads one answer. What it gives does not depend on where the text was cut.

    Args:
        shape: What it is made of.
    """

    def __init__(self, shape: AnswerShape) -> None:
        self._shape, self._letters = shape, Letters(shape.spelled)
        self._reading, self._held, self._drops = self._answer(), "", False
        self._ended = self._begun = False
        #: It is within a thought.
        self.thinking = shape.thought is not None and shape.opened
        next(self._reading)

    @property
    def calls(self) -> int:
        """Calls so far."""
        return self._letters.calls

    def push(self, text: str) -> list[Delta]:
        """What more of the answer's text says."""
        for letter in text:
            self._reading.send(letter)
        return self._letters.take()

    def finish(self) -> list[Delta]:
        """What was held back: the answer has ended."""
        if not self._ended:
            self._ended = True
            with contextlib.suppress(StopIteration):
                self._reading.send("")
        return self._letters.take()

    def _answer(self) -> Reading[None]:
        letters, shape = self._letters, self._shape
        try:
            if shape.thought is not None:
                yield from self._thought(shape.thought)
            while True:
                yield from self._text()
        except Cut:
            for letter in letters.rest() if not self._drops or not letters.calls else "":
                self._say("text", letter)
            if not self._drops:
                self._flush("text")

    def _thought(self, thought: Thought) -> Reading[None]:
        """The thought, if there is one: its text without blanks around it."""
        letters = self._letters
        if not self._shape.opened:
            blanks = ""
            while True:
                if (yield from letters.at(letters.mark(thought.begin))):
                    break
                letter = yield from letters.next()
                if not letter.isspace():
                    letters.put_back(blanks + letter)
                    return
                blanks += letter
            self.thinking = True
            yield from letters.at(thought.head)
        self._drops = True
        try:
            yield from letters.until(letters.mark(thought.end), tell=lambda letter: self._say("thought", letter))
        finally:
            self._held, self._drops, self.thinking = "", True, False

    def _text(self) -> Reading[None]:
        """Text up to calls, and those; the blanks between are neither's."""
        letters, form = self._letters, self._shape.calls
        if form is not None and form.begin:
            mark = letters.mark(form.begin)
            yield from letters.until(mark, tell=lambda letter: self._say("text", letter), all_told=True)
            yield from self._calls(form, mark)
            return
        while not self._begun:  # what begins with a brace is a call
            letter = yield from letters.next()
            if letter == "{" and form is not None:
                letters.put_back(letter)
                blanks, self._held = self._held, ""
                yield from self._calls(form, blanks)
            else:
                self._say("text", letter)
        while True:
            self._say("text", (yield from letters.next()))

    def _calls(self, form: CallForm, mark: str) -> Reading[None]:
        """Calls; where they are none, they are text."""
        letters, before = self._letters, self._letters.calls
        letters.raw.clear()
        try:
            yield from form.read(letters, self._shape.schemas)
        except Malformed:
            if letters.calls > before:
                self._held, self._drops = "", True
                return
            self._as_text(mark)
        except Cut:
            if letters.calls == before:
                self._as_text(mark)
                raise
            self._held, self._drops = "", True
            raise
        else:
            self._held, self._drops = "", True

    def _as_text(self, mark: str) -> None:
        for letter in self._letters.plain(mark + "".join(self._letters.raw)):
            self._say("text", letter)

    def _say(self, kind: str, letter: str) -> None:
        """Give out a letter of a text or thought; blanks wait for what follows them."""
        if letter.isspace():
            self._held += letter
            return
        if self._drops:
            self._held, self._drops = "", False
        self._flush(kind)
        self._begun = self._begun or kind == "text"
        self._letters.tell(kind, self._letters.plain(letter))

    def _flush(self, kind: str) -> None:
        if self._held:
            self._letters.tell(kind, self._held)
        self._held = ""
