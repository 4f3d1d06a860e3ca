"""One vector of a text, a picture or both, for retrieval: nothing is decoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from luvc_export.core import graph_io
from luvc_export.core.tasks.base import Task

TASK = Task(
    name="embed",
    asked_by="luvc-export embed BUNDLE, Session.embed, POST /v1/embeddings",
    output=graph_io.VECTORS,
    decodes=False,
)


@dataclass(frozen=True)
class Embedding:
    """How the rows behind the last norm become one vector.

    Args:
        pooling: Which row it is: ``last``, that of the prompt's last token.
        normalise: The graph divides it by its length.
        prompts: Instructions by name, of which one stands before an input, as the system's message.
        default_prompt: Name of the one that is taken where nobody names one; None for none.
        generation_prompt: The chat template ends with the opening of an answer.
        sizes: Numbers that a vector may be cut to (Matryoshka), ascending; none where the model was not trained so.
    """

    pooling: Literal["last"] = "last"
    normalise: bool = True
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    generation_prompt: bool = True
    sizes: tuple[int, ...] = ()
