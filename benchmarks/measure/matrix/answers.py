"""What is asked of every plan, and how answers of two back-ends are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from family_harness import Case
from family_questions import scenery

from luvc_export.errors import LuvcError
from luvc_export.runtime.generation.result import Generation
from luvc_export.runtime.session import Session

#: fp32: largest difference of the log probabilities of the 20 likeliest tokens, at every token of an answer.
LIMIT = 1e-3
TOKENS, FPS = 8, 0.8
#: The first answer of a chat is of letters: what a random model says otherwise is not read back as the ids it was.
LETTERS = {"logit_bias": {4 + ord(letter) - 32: 100 for letter in "abcdefghijklmnopqrstuvwxyz"}, "max_new_tokens": 3}
Message = dict[str, Any]


def user(*parts: Any) -> Message:
    """What a user says: texts, pictures (arrays), or videos (lists of them)."""
    content: list[Any] = []
    for part in parts:
        kind = "text" if isinstance(part, str) else "video" if isinstance(part, list) else "image"
        content.append({"type": kind, kind: part} | ({"fps": FPS} if kind == "video" else {}))
    return {"role": "user", "content": content}


@dataclass(frozen=True)
class Questions:
    """Chats of one turn, the last without pictures; and what a second turn adds to the first."""

    alone: tuple[list[Message], ...]
    more: Message

    @classmethod
    def of(cls, tiny: Case, shared: str) -> Questions:
        """About padded and whole pictures; or videos, or tiled pictures, where a plan takes nothing else."""
        still: list[Any] = [image[0].numpy() for image in tiny.images(8)]
        texts: tuple[list[Message], ...] = ([user("2 + 2?")],)
        if shared == "clip":
            shown: list[Any] = [still[:4], still[4:8]]
        elif shared == "tiles":
            shown = [scenery(tiny, 1, 2), 255 - scenery(tiny, 1, 2)]
        else:
            shown = [still[0][:, : tiny.size[1] // 2], still[1]]
        more = user("and this?") if shared else user("and this?", still[2])
        return cls(([user(shown[0], "Hi")], [user("What is", shown[1], "to be seen?")], *texts), more)


def ask(session: Session, messages: list[Message], after: Generation | None = None, **how: Any) -> Generation:
    """One answer, greedy, with log probabilities."""
    how = {"max_new_tokens": TOKENS, "logprobs": 20, "greedy": True, **how}
    return session.generate(messages=messages, after=after, **how)


def answers(session: Session, asked: Questions) -> Iterator[tuple[str, Callable[[], list[Generation]]]]:
    """Each way of asking by its name, not asked yet."""
    yield "first", lambda: [ask(session, chat) for chat in asked.alone[:-1]]
    yield "turn", lambda: [_second(session, asked, cached=True)]
    rows = [{"messages": chat} for chat in asked.alone]
    yield "batch", lambda: session.generate_batch(rows, max_new_tokens=TOKENS, logprobs=20, greedy=True)
    yield "text", lambda: [ask(session, asked.alone[-1])]


def expected(torch: Session, asked: Questions, reads_text: bool) -> dict[str, list[Generation] | LuvcError]:
    """Torch's answers: of chats run whole, and of rows one by one; or why it refuses.

    With a score that ``reads_text`` a second turn meets what the first question left, and not what the last one would
    have: it is from the caches here too (docs/families.md, several turns).
    """
    answers: dict[str, list[Generation] | LuvcError] = {}
    ways: dict[str, Callable[[], list[Generation]]] = {
        "first": lambda: [ask(torch, chat) for chat in asked.alone[:-1]],
        "turn": lambda: [_second(torch, asked, cached=reads_text)],
        "batch": lambda: [ask(torch, chat) for chat in asked.alone],
        "text": lambda: [ask(torch, asked.alone[-1])],
    }
    for way, answer in ways.items():
        try:
            answers[way] = answer()
        except LuvcError as error:
            answers[way] = error
    return answers


def _second(session: Session, asked: Questions, cached: bool) -> Generation:
    chat = asked.alone[0]
    first = ask(session, chat, **LETTERS)
    answered = {"role": "assistant", "content": [{"type": "text", "text": first.text}]}
    answer = ask(session, [*chat, answered, asked.more], first if cached else None)
    if cached and not answer.reused:
        raise AssertionError("the second turn was not read from the caches")
    return answer


def apart(mine: Generation, other: Generation) -> tuple[str | None, float]:
    """What differs between two answers, or None; and how far their log probabilities are apart.

    A second turn shows the pictures that are new in it: they are the last of those of a whole chat.
    """
    worst = 0.0
    for one, two in zip(mine.logprobs or (), other.logprobs or (), strict=False):
        theirs = dict(two.top)
        worst = max([worst, *(abs(value - theirs[token]) for token, value in one.top if token in theirs)])
    if mine.token_ids != other.token_ids:
        return f"tokens {mine.token_ids}, not {other.token_ids}", worst
    if mine.visual_tokens != other.visual_tokens:
        return f"visual tokens {mine.visual_tokens}, not {other.visual_tokens}", worst
    for layer, kept in other.selection.kept.items():
        own = mine.selection.kept[layer]
        if not np.array_equal(np.sort(own), np.sort(kept[len(kept) - len(own) :])):
            return f"kept sets before layer {layer}", worst
    return (f"log probabilities by {worst:.1e}" if worst > LIMIT else None), worst
