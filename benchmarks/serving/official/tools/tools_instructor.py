"""instructor: typed answers about a picture, by tools."""

from __future__ import annotations

from typing import Literal

import instructor
from common import facts, picture
from openai import OpenAI
from pydantic import BaseModel


class Side(BaseModel, extra="forbid"):
    """A side of the picture."""

    side: Literal["left", "right"]


class Row(BaseModel, extra="forbid"):
    """A row of the picture."""

    row: Literal[1, 2, 3]


if __name__ == "__main__":
    known = facts()
    plain = OpenAI(base_url=known["url"], api_key="none", timeout=120)
    for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT):
        client = instructor.from_openai(plain, mode=mode)
        for kind in (Side, Row):
            answer = client.chat.completions.create(
                model=known["model"], messages=picture(known), response_model=kind, max_retries=0
            )
            assert isinstance(answer, kind), answer
