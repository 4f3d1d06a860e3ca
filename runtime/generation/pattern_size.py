"""How long the shortest text is that a regular expression matches: what repetitions inside repetitions multiply to."""

from __future__ import annotations

import re

_REPEAT = re.compile(r"\{(\d{1,18})(?:,\d{0,18})?\}")
#: No escape, class or group is longer than one letter, but for these.
_ESCAPE = re.compile(r"\\(?:[pPxuU]\{[^}]*\}|x[0-9A-Fa-f]{2}|.)", re.DOTALL)
_GROUP = re.compile(r"\((?:\?(?:P?<[^>=!]*>|[a-zA-Z-]*:))?")
#: Above, the number is not followed further.
_ENOUGH = 10**12


def shortest_match(pattern: str) -> int:
    """Letters of the shortest text that ``pattern`` (Rust's syntax) matches, up to 10^12.

    A lower bound: what is not understood counts nothing, and whether the pattern is right is for its compiler to say.
    """
    alternatives, length, last = [list[int]()], [0], 0  # of each open group; the atom that a repetition would repeat
    at = 0
    while at < len(pattern):
        letter = pattern[at]
        if letter == "(":
            group = _GROUP.match(pattern, at)
            alternatives.append([])
            length.append(0)
            last, at = 0, group.end() if group else at + 1
            continue
        if letter == ")" and len(length) > 1:
            last = min([*alternatives.pop(), length.pop()])
            length[-1], at = min(length[-1] + last, _ENOUGH), at + 1
            continue
        if letter == "|":
            alternatives[-1].append(length[-1])
            length[-1], last, at = 0, 0, at + 1
            continue
        repeat = _REPEAT.match(pattern, at)
        if repeat or letter in "*+?":
            times = int(repeat[1]) if repeat else int(letter == "+")
            length[-1] = min(length[-1] + last * (times - 1), _ENOUGH)
            last, at = last * times, repeat.end() if repeat else at + 1
            continue
        if letter == "\\" and (escape := _ESCAPE.match(pattern, at)):
            last, at = int(pattern[at + 1] not in "bBAzZ<>"), escape.end()
        elif letter == "[":
            last, at = 1, _class_end(pattern, at)
        else:
            last, at = int(letter not in "^$"), at + 1
        length[-1] += last
    while len(length) > 1:  # a group that was not closed
        inner = min([*alternatives.pop(), length.pop()])
        length[-1] += inner
    return min([*alternatives[0], length[0]])


def _class_end(pattern: str, at: int) -> int:
    """The place after the class of letters that begins at ``at``."""
    at = at + 2 if pattern.startswith("[^", at) else at + 1
    at += pattern.startswith("]", at)
    depth = 1
    while at < len(pattern) and depth:
        if pattern[at] == "\\":
            at += 2
            continue
        depth += {"[": 1, "]": -1}.get(pattern[at], 0)
        at += 1
    return at
