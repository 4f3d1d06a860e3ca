"""Marks around what a model thinks before it answers, by template."""

from __future__ import annotations

from typing import NamedTuple


class Thought(NamedTuple):
    """Marks around a thought.

    Args:
        begin: Before it; the template may have written it.
        end: Behind it.
        head: What stands before its text.
    """

    begin: str
    end: str
    head: str = ""


#: In the order in which a template is looked at.
THOUGHTS = (
    Thought("<|channel>", "<channel|>", "thought\n"),
    Thought("<think>", "</think>"),
    Thought("[THINK]", "[/THINK]"),
    Thought("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    Thought("<seed:think>", "</seed:think>"),
)
