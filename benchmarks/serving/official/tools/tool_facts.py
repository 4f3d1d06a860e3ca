"""What the scripts about tools share: two tools, and the conversation about a picture in which both are called."""

from __future__ import annotations

from typing import Any

#: Names of tools, and what the schemas of their arguments hold.
SIDES, ROWS = ("left", "right"), (1, 2, 3)

LOOK: dict[str, Any] = {
    "type": "object",
    "properties": {"side": {"type": "string", "enum": list(SIDES)}},
    "required": ["side"],
    "additionalProperties": False,
}
COUNT: dict[str, Any] = {
    "type": "object",
    "properties": {"row": {"type": "integer", "enum": list(ROWS)}},
    "required": ["row"],
    "additionalProperties": False,
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "look", "parameters": LOOK, "strict": True}},
    {"type": "function", "function": {"name": "count", "parameters": COUNT, "strict": True}},
]


def check(name: str, arguments: dict[str, Any]) -> str:
    """What a tool says; its arguments are those that its schema allows."""
    if name == "look":
        assert arguments["side"] in SIDES and len(arguments) == 1, arguments
        return "seen"
    assert name == "count" and arguments["row"] in ROWS and len(arguments) == 1, (name, arguments)
    return "3"
