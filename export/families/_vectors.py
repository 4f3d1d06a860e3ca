"""What a family says of checkpoints that give vectors or scores; by default none of its own do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luvc_export.core.tasks import Embedding


class MakesVectors:
    """A part of ``Family``.

    Attributes:
        task: The one task of its bundles; None where they may have any.
    """

    task: str | None = None

    def embedding(self, config: Any, task: str) -> Embedding | None:
        """How checkpoints without sentence-transformers' files do a task that decodes nothing: as their card has it.

        Returns:
            None where none does here.
        """
        return None

    def prompts(self, folder: Path) -> str | None:
        """The chat template of a checkpoint whose processor writes prompts itself; None for the checkpoint's own.

        Raises:
            CheckpointError: The processor does not say what it writes.
        """
        return None
