"""What a bundle is made for, one task a file, found by its name as scores are; ``luvc.json`` names it.

A task is a file of this folder with ``TASK``. A bundle that names none generates, as every bundle did before there were
tasks; one that names a task that is not here is refused by that name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from luvc_export.errors import BundleError

if TYPE_CHECKING:
    from luvc_export.registry import Registry

ENTRY_POINTS = "luvc_export.tasks"

Pooling = Literal["last", "mean", "every"]


@dataclass(frozen=True)
class Task:
    """What bundles of a task are asked for.

    Args:
        name: In ``luvc.json``.
        asked_by: What asks such a bundle, for whoever used another verb.
        output: What its decoder gives of the rows that are asked for (``core.graph_io``).
        decodes: Tokens follow a prompt: there are steps, caches that they read, and a head over the vocabulary. Without
            them prompts are all that runs.
        pooling: Which rows are read where nothing is decoded (``Embedding.pooling``); ``mean`` may be in the place of
            ``last``.
        pairs: A prompt holds a query and a document (``Embedding.pair``).
    """

    name: str
    asked_by: str
    output: str
    decodes: bool
    pooling: Pooling = "last"
    pairs: bool = False


@dataclass(frozen=True)
class PairPrompt:
    """How a query and a document stand in one prompt, for a model that judges whether they belong together.

    Args:
        system: The system's message.
        instruction: What stands before the instruction, with which the user's message begins.
        query: What stands before the query.
        document: What stands before the document.
        nothing: What a document is that has neither text nor picture.
    """

    system: str
    instruction: str
    query: str
    document: str
    nothing: str


@dataclass(frozen=True)
class Embedding:
    """How the rows behind the last norm become vectors, or a score.

    Args:
        pooling: Which rows they are: ``last``, that of the prompt's last token, ``mean``, the mean of all tokens' with
            images' as many as there were units, or ``every``, those of all tokens, an image's first.
        normalise: The graph divides it by its length.
        prompts: Instructions by name, of which one stands before an input, as the system's message.
        default_prompt: Name of the one that is taken where nobody names one; None for none.
        generation_prompt: The chat template ends with the opening of an answer.
        sizes: Numbers that a vector may be cut to (Matryoshka), ascending; none where the model was not trained so.
        width: Numbers that a head behind the norm makes of a row; None where there is no head, and a row is the vector.
        pair: The prompt of a query and a document; None where there is one input.
        merged: Rows and columns of an image's tokens whose vectors become one; (1, 1) merges none.
        labels: Tokens whose rows of the head are taken, the second's less the first's (no, yes); None for none.
    """

    pooling: Pooling = "last"
    normalise: bool = True
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    generation_prompt: bool = True
    sizes: tuple[int, ...] = ()
    width: int | None = None
    pair: PairPrompt | None = None
    labels: tuple[int, int] | None = None
    merged: tuple[int, int] = (1, 1)

    def image_vectors(self, tokens: int, grid: tuple[int, int]) -> int:
        """Vectors of an image of so many tokens, which are ``grid`` (rows, columns) where some merge."""
        if self.merged == (1, 1):
            return tokens
        rows, columns = (-(-side // size) for side, size in zip(grid, self.merged, strict=True))
        return rows * columns


def _misfit(name: str, task: Any) -> str | None:
    return None if isinstance(task, Task) and task.name == name else f"a Task called {name!r}"


@cache
def _registry() -> Registry[Task]:
    from luvc_export.registry import Registry  # which no session needs before a bundle is read

    where, fix = "luvc.json: task", "pip install --upgrade luvc-export"
    return Registry("task", __name__, ENTRY_POINTS, "TASK", _misfit, BundleError, True, where, fix)


def names() -> list[str]:
    """Every task there is, sorted."""
    return _registry().names()


def find(name: str) -> Task:
    """The task of a name.

    Raises:
        BundleError: There is none.
    """
    return _registry().find(name)
