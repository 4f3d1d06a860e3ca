"""An answer read letter by letter as it comes.

Readers are generators that are sent one letter at a time, so it cannot matter where a stream cuts a text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")
#: Lists and objects inside of each other that are read where a form writes no JSON.
DEEPEST = 64
#: A reader: it waits for letters, "" where the answer ends, and gives what it read.
Reading = Generator[None, str, T]
Tell = Callable[[str], None]


class Cut(Exception):  # noqa: N818
    """The answer ends within what is read."""


class Malformed(Exception):  # noqa: N818
    """What is read is no call."""


@dataclass(frozen=True)
class Delta:
    """What an answer grew by.

    Args:
        kind: ``text``, ``thought``, a ``call`` whose name ``text`` is, or more of its ``arguments`` as JSON.
        text: What came.
        call: Which call of the answer it is of, from 0 on.
    """

    kind: Literal["text", "thought", "call", "arguments"]
    text: str
    call: int = 0


class Letters:
    """Letters of one answer, and what was read of them.

    Args:
        spelled: How marks stand in the answer: a letter of ``detokenise.MARKS`` where one token is the mark.
    """

    def __init__(self, spelled: Mapping[str, str]) -> None:
        self._spelled = spelled
        self._plain = str.maketrans({letter: mark for mark, letter in spelled.items() if len(letter) == 1})
        self._back: list[str] = []
        self._deltas: list[tuple[str, str, int]] = []
        #: Letters that were read since this was last emptied.
        self.raw: list[str] = []
        #: Calls whose names were read.
        self.calls = 0
        self._bare = False

    def mark(self, mark: str) -> str:
        """A mark as it stands in the answer."""
        return self._spelled.get(mark, mark)

    def plain(self, text: str) -> str:
        """Text with marks as they are written."""
        return text.translate(self._plain)

    # what is read goes out

    def tell(self, kind: str, text: str) -> None:
        """Give out text, a thought or arguments."""
        if self._deltas and self._deltas[-1][0] == kind != "call":
            text = self._deltas.pop()[1] + text
        self._deltas.append((kind, text, max(0, self.calls - 1)))

    def begin_call(self, name: str) -> None:
        """Give out a call; its arguments follow."""
        if not name:
            raise Malformed
        self.calls, self._bare = self.calls + 1, True
        self.tell("call", self.plain(name))

    def argue(self, text: str) -> None:
        """Give out more of a call's arguments."""
        self._bare = False
        self.tell("arguments", self.plain(text))

    def argue_text(self, text: str) -> None:
        """Give out letters of a string within arguments."""
        self.argue(json.dumps(self.plain(text), ensure_ascii=False)[1:-1])

    def end_call(self) -> None:
        """A call's arguments are whole: none are an empty object."""
        if self._bare:
            self.argue("{}")

    def take(self) -> list[Delta]:
        """What went out since this was last asked."""
        deltas, self._deltas = self._deltas, []
        return [Delta(kind, text, call) for kind, text, call in deltas if text]  # type: ignore[arg-type]

    # letters come in

    def next(self) -> Reading[str]:
        """The next letter.

        Raises:
            Cut: There is none.
        """
        letter = self._back.pop() if self._back else (yield)
        if not letter:
            raise Cut
        self.raw.append(letter)
        return letter

    def put_back(self, text: str) -> None:
        """Have letters be read again."""
        if text:
            self._back += reversed(text)
            del self.raw[-len(text) :]

    def rest(self) -> str:
        """Letters that were put back, where the answer has ended."""
        rest, self._back = "".join(reversed(self._back)), []
        return rest

    def peek(self) -> Reading[str]:
        """The next letter, which stays."""
        letter = yield from self.next()
        self.put_back(letter)
        return letter

    def blanks(self) -> Reading[None]:
        """Whitespace, if any."""
        while (letter := (yield from self.next())).isspace():
            pass
        self.put_back(letter)

    def at(self, text: str) -> Reading[bool]:
        """Whether ``text`` follows, which is taken then."""
        read = ""
        while read != text:
            try:
                read += yield from self.next()
            except Cut:
                self.put_back(read)
                raise
            if not text.startswith(read):
                self.put_back(read)
                return False
        return True

    def expect(self, *texts: str) -> Reading[str]:
        """Which of ``texts`` follows.

        Raises:
            Malformed: None does.
        """
        for text in texts:
            if (yield from self.at(text)):
                return text
        raise Malformed

    def until(self, *marks: str, tell: Tell, all_told: bool = False) -> Reading[str]:
        """Which mark comes first; the letters before it are told once they cannot begin one.

        Raises:
            Cut: None comes; with ``all_told`` letters that could have begun one were told too.
        """
        held = ""
        try:
            while True:
                held += yield from self.next()
                while held and not any(mark.startswith(held) for mark in marks):
                    tell(held[0])
                    held = held[1:]
                if held in marks:
                    return held
        except Cut:
            for letter in held if all_told else "":
                tell(letter)
            raise

    def text_until(self, *marks: str) -> Reading[str]:
        """The text before the first of ``marks``, which is taken."""
        letters: list[str] = []
        yield from self.until(*marks, tell=letters.append)
        return "".join(letters)

    def below(self, depth: int) -> int:
        """The depth of what is inside.

        Raises:
            Malformed: It is deeper than is read.
        """
        if depth >= DEEPEST:
            raise Malformed
        return depth + 1

    # JSON

    def json_value(self, tell: Tell) -> Reading[None]:
        """One JSON value, told as it is written."""
        depth, quoted = 0, False
        letter = yield from self.next()
        if letter not in '{["':
            while letter not in ",}]" and not letter.isspace():
                tell(letter)
                letter = yield from self.next()
            self.put_back(letter)
            return
        while True:
            tell(letter)
            if quoted:
                if letter == "\\":
                    tell((yield from self.next()))
                quoted = letter != '"'
            elif letter == '"':
                quoted = True
            else:
                depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(letter, 0)
            if not depth and not quoted:
                return
            letter = yield from self.next()

    def json_string(self) -> Reading[str]:
        """A JSON string, read.

        Raises:
            Malformed: It is none.
        """
        letters: list[str] = []
        if (yield from self.peek()) != '"':
            raise Malformed
        yield from self.json_value(letters.append)
        try:
            return str(json.loads("".join(letters), strict=False))
        except ValueError as error:
            raise Malformed from error
