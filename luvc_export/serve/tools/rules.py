"""Rules of a grammar, in Lark's form as llguidance has it, that are written while calls are described."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from luvc_export.runtime.generation.json_schemas import resolved

#: Any text, one letter at least.
_TEXT = "/(?s:.+)/"
#: What combines schemas: such a one is held as it is.
_COMBINING = ("$ref", "allOf", "anyOf", "oneOf", "not", "if", "patternProperties", "unevaluatedProperties")


class Rules:
    """Rules by name, and the schemas that they name by number.

    Args:
        ids: Tokens that are marks, by mark.
        loose: Tools whose schemas may be given up where no grammar can be made of them.
    """

    def __init__(self, ids: Mapping[str, int], loose: Mapping[str, bool] | None = None) -> None:
        self._ids, self._loose = ids, loose or {}
        self._lines: dict[str, str] = {}
        #: Names of rules by notation, document and reference in it.
        self.references: dict[tuple[str, int, str], str] = {}
        #: See ``grammar_text.tools_grammar``.
        self.schemas: list[dict[str, Any]] = []

    def written(self, start: str) -> str:
        """All rules, of which ``start`` is the first."""
        return "\n".join([f"start: {start}", *(f"{head}: {body}" for head, body in self._lines.items())])

    def text(self, text: str) -> str:
        """Text as it is."""
        return json.dumps(text, ensure_ascii=False)

    def mark(self, mark: str) -> str:
        """A mark: a token, or its letters where it is none."""
        return f"<[{self._ids[mark]}]>" if mark in self._ids else self.text(mark)

    def after_blank(self, mark: str) -> str:
        """A mark in a new line."""
        return f'"\\n" {self.mark(mark)}' if mark in self._ids else self.text("\n" + mark)

    def terminal(self, name: str, pattern: str) -> str:
        """A regular expression by name."""
        self._lines[name] = pattern
        return name

    def rule(self, name: str, body: str) -> str:
        """A rule by name."""
        self._lines[name] = body
        return name

    def fresh(self, head: str, body: str) -> str:
        """A rule by a name of its own."""
        return self.rule(f"{head}_{len(self._lines)}", body)

    def has(self, name: str) -> bool:
        """Whether there is a rule of that name."""
        return name in self._lines

    def any_text(self, without: str = "") -> str:
        """Any text; one in which a mark made of letters is not."""
        if not without or without in self._ids:
            return self.terminal("TEXT", _TEXT)
        return self.terminal("TEXT_WITHOUT", f"{_TEXT} & ~/(?s:.*){_escaped(without)}(?s:.*)/")

    def until(self, mark: str) -> str:
        """Any text with the first mark behind it."""
        if mark in self._ids:
            return f"{self.any_text()}? {self.mark(mark)}"
        return self.lazy(mark)

    def lazy(self, end: str) -> str:
        """Any text with the first ``end`` behind it, which is made of letters."""
        pattern = f"/(?s:.*){_escaped(end)}/"
        known = next((head for head, body in self._lines.items() if body == pattern), None)
        return (known or self.rule(f"until_{len(self._lines)}[lazy]", pattern)).partition("[")[0]

    def json(self, tool: str, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> str:
        """JSON of a schema: of a tool's arguments, or with ``root``, theirs, of one of them."""
        where = {name: root[name] for name in ("$defs", "definitions") if root is not None and name in root}
        whole = {**where, **schema} if isinstance(schema, Mapping) else schema
        free: dict[str, Any] = {"type": "object"} if root is None else {}
        entry = {"tool": tool, "schema": narrowed(whole) if root is None else whole}
        self.schemas.append({**entry, "free": free if self._loose.get(tool) else None})
        return f"%json \0{len(self.schemas) - 1}\0"  # no text of a rule holds that letter: ``text`` escapes it


def narrowed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A tool's schema without arguments that it does not name, where it does not say that there may be any."""
    held = {"type": "object", **schema}
    if "properties" in held and "additionalProperties" not in held and not any(name in held for name in _COMBINING):
        held["additionalProperties"] = False
    return held


def ordered(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    """Properties of a schema: name, schema, and whether it must be there."""
    properties, required = schema.get("properties"), schema.get("required")
    needed = required if isinstance(required, list) else []
    for name, inside in properties.items() if isinstance(properties, Mapping) else ():
        yield name, inside if isinstance(resolved(inside, schema), Mapping) else {}, name in needed


def _escaped(text: str) -> str:
    return re.escape(text).replace("/", r"\/").replace("\\\n", r"\n").replace("\n", r"\n")
