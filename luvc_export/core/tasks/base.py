"""What every task says of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """What bundles of a task are asked for.

    Args:
        name: In ``luvc.json``.
        asked_by: What asks such a bundle, for whoever used another verb.
        output: What its decoder gives of the rows that are asked for (``core.graph_io``).
        decodes: Tokens follow a prompt: there are steps, caches that they read, and a head over the vocabulary. Without
            them prompts are all that runs.
    """

    name: str
    asked_by: str
    output: str
    decodes: bool
