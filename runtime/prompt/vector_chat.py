"""An input whose vector or score is asked for, as the chat that the model was trained to read it in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from luvc_export.core.tasks import Embedding
from luvc_export.errors import UsageError, did_you_mean
from luvc_export.runtime.media.pictures import Picture
from luvc_export.runtime.prompt.question import Question, question
from luvc_export.runtime.prompt.template import Message

Part = TypeVar("Part")


def template_values(how: Embedding) -> dict[str, bool]:
    """What the chat template is told."""
    return {"add_generation_prompt": how.generation_prompt}


def instruction_of(how: Embedding, prompt: str | None = None) -> str:
    """The instruction of a name, or the default one; empty where there is none.

    Raises:
        UsageError: The bundle has none of that name.
    """
    name = how.default_prompt if prompt is None else prompt
    if name is None:
        return ""
    if name not in how.prompts:
        expected = did_you_mean(name, how.prompts) if how.prompts else "no prompt: the bundle names none"
        raise UsageError("the bundle has no such prompt", where="prompt", got=repr(name)[:80], expected=expected)
    return how.prompts[name]


def input_chat(
    how: Embedding, pictures: Sequence[Picture], text: str | None, instruction: str, query: str | None = None
) -> Question:
    """Pictures, then the text, as the user's message; the instruction, if any, is the system's before it.

    Where the model judges pairs they are the document of ``query``, and all stands as ``Embedding.pair`` says.

    Raises:
        UsageError: Where every token has a vector, it is not one picture or one text.
    """
    if how.pooling == "every" and len(pictures) + (text is not None) != 1:
        raise UsageError(
            "this model reads a page or a query, each by itself",
            where="input",
            got=f"{len(pictures)} pictures and {'a' if text is not None else 'no'} text",
            expected="one picture, or a text",
        )
    content: list[Message] = [{"type": "image"} for _ in pictures]
    content += [_text(text)] if text is not None else []
    system = instruction
    if how.pair is not None:
        system = how.pair.system
        content = pair_parts([_text(one) for one in pair_marks(how, instruction)], [_text(query or "")], content)
    before = [{"role": "system", "content": [_text(system)]}] if system else []
    asked = question(list(pictures), None, [*before, {"role": "user", "content": content}])
    return replace(asked, values=template_values(how))


def pair_marks(how: Embedding, instruction: str) -> tuple[str, str, str]:
    """What stands before a query, before its document, and in the place of a document that is empty."""
    assert how.pair is not None
    return how.pair.instruction + instruction + how.pair.query, how.pair.document, how.pair.nothing


def pair_parts(marks: Sequence[Part], query: Sequence[Part], document: Sequence[Part]) -> list[Part]:
    """Parts of the user's message, with ``pair_marks`` as parts between those of the query and of the document."""
    return [marks[0], *query, marks[1], *(document or [marks[2]])]


def _text(text: str) -> Message:
    return {"type": "text", "text": text}
