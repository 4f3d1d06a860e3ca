"""The cut of OpenAI's description, which clients' requests are drawn from: whole, of its source, with its licence."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

OFFICIAL = Path(__file__).resolve().parents[2] / "benchmarks" / "serving" / "official"
CUT: dict[str, Any] = json.loads((OFFICIAL / "openai_cut.json").read_text(encoding="utf-8"))
SCRIPT = runpy.run_path(str(OFFICIAL / "openai_cut.py"))
REFERENCE = SCRIPT["REFERENCE"]


def whole(extra: dict[str, Any]) -> dict[str, Any]:
    """A description whose paths all ask and answer A, which refers to B; C is nobody's."""
    one = {"content": {"application/json": {"schema": {"$ref": f"{REFERENCE}A"}}}}
    operation = {"requestBody": one, "responses": {"200": {**one, "description": "OK"}}}
    inner = {"title": {"type": "string", "description": "a text"}, "next": {"$ref": f"{REFERENCE}B"}}
    schemas = {"A": {"x-more": 1, "properties": inner, "example": {}}, "B": {"items": {"title": "b"}}, "C": {}}
    paths = {path: {method: operation} for path, method in SCRIPT["METHODS"].items()}
    return {"paths": paths, "components": {"schemas": {**schemas, **extra}}}


def test_texts_go_and_what_is_reached_stays() -> None:
    record = SCRIPT["cut"](whole({}))
    assert record.pop("_paths")["/responses"] == {key: {"$ref": f"{REFERENCE}A"} for key in ("request", "answer")}
    properties = {"title": {"type": "string"}, "next": {"$ref": f"{REFERENCE}B"}}
    assert record == {"A": {"properties": properties}, "B": {"items": {}}}, "a property may be called title"
    with pytest.raises(KeyError, match="gone"):
        SCRIPT["cut"](whole({"B": {"$ref": f"{REFERENCE}gone"}}))


def test_the_committed_file_is_such_a_cut_with_its_source_and_licence() -> None:
    description: dict[str, Any] = {"paths": {}, "components": {"schemas": CUT}}
    for path, method in SCRIPT["METHODS"].items():
        bodies = {
            name: {"content": {"application/json": {"schema": schema}}} for name, schema in CUT["_paths"][path].items()
        }
        operation = {"responses": {"200": bodies.pop("answer")}, "requestBody": bodies.pop("request", None)}
        description["paths"][path] = {method: operation}
    assert {"_source": CUT["_source"], **SCRIPT["cut"](description)} == CUT
    assert re.search(r"github\.com/openai/openai-openapi at [0-9a-f]{40}, MIT \(openai_cut\.LICENSE\)", CUT["_source"])
    licence = (OFFICIAL / "openai_cut.LICENSE").read_text(encoding="utf-8")
    assert licence.startswith("The MIT License\n\nCopyright (c) OpenAI")


def test_it_is_a_schema_a_line_in_order() -> None:
    lines = (OFFICIAL / "openai_cut.json").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(CUT) + 2 and list(CUT) == sorted(CUT)
    assert [line.split(":")[0].strip('"') for line in lines[1:-1]] == list(CUT)
