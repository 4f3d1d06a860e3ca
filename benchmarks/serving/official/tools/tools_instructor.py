"""instructor: conversations about a picture with typed answers, which are calls; partial ones where it streams."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import instructor
from common import facts, picture
from openai import OpenAI
from tool_facts import KINDS, TOOLS, Call, Cell, Count, Look, asking, extra, hold

KNOWN = facts()
PLAIN = OpenAI(base_url=KNOWN["url"], api_key="none", timeout=120)
#: It asks for several with a choice of its own, auto, with which the bundled model need not call.
SEVERAL = {"response_model": Iterable[Look | Count]}


def ask(mode: instructor.Mode, messages: list[Any], choice: str, streamed: bool) -> list[tuple[str, Call]]:
    """An answer; ids are ours, as it gives none."""
    several = choice == "required"
    client = instructor.from_openai(PLAIN, mode=instructor.Mode.PARALLEL_TOOLS if several else mode)
    body = {**extra(KNOWN, choice), **({"tool_choice": choice} if several else {})}
    asked: dict[str, Any] = {"model": KNOWN["model"], "messages": messages, "extra_body": body}
    asked["max_retries"] = 0
    if choice == "none":
        answer = client.create(response_model=None, tools=TOOLS, tool_choice="none", stream=streamed, **asked)
        for piece in answer if streamed else ():
            assert not piece.choices or piece.choices[0].delta.tool_calls is None
        calls: list[Any] = []
    elif several:
        calls = list(client.create(**SEVERAL, stream=streamed, **asked))
    elif streamed:
        *_, last = client.create_partial(response_model=KINDS[choice], **asked)
        calls = [KINDS[choice](**last.model_dump())]
    else:
        calls = [client.create(response_model=KINDS[choice], **asked)]
    return [(f"call_{number}", call) for number, call in enumerate(calls)]


if __name__ == "__main__":
    reason = "stream=True is not supported when using PARALLEL_TOOLS mode"
    for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT):
        converse = asking(lambda *asked, of=mode: ask(of, *asked), picture(KNOWN))
        hold(f"instructor, {mode.name}", converse, {Cell(parallel=True, streamed=True): reason})
