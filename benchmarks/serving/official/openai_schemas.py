"""schemathesis: requests drawn from OpenAI's own schemas, to the paths that are served; answers are of its schemas too.

The schemas are of the file that ``openai_cut.py`` cuts out. Half of the requests may have all fields, half ask one
question and have fields that the server honours (``/v1/fields``): more of them are answered. Streams are not checked.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import schemathesis
from common import Facts, facts, report
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

#: Of each path that answers, what bounds an answer.
BOUNDS = {
    "/completions": "max_tokens",
    "/chat/completions": "max_completion_tokens",
    "/responses": "max_output_tokens",
}
CUT = Path(__file__).with_name("openai_cut.json")
REFERENCE = "#/components/schemas/"
HELLO = {"const": "Hello"}
QUESTION = {"messages": {"const": [{"role": "user", "content": "Hello"}]}, "prompt": HELLO, "input": HELLO}
ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {name: {"type": ["string", "null"]} for name in ("message", "type", "param", "code")},
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
#: No status but 200 and 4XX, and both of their types.
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
#: Requests of each path and half; or the first argument.
EXAMPLES = 15


def fields(schema: dict[str, Any], schemas: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """Properties of an object and which are required, those of all objects it is made of."""
    if reference := schema.get("$ref"):
        return fields(schemas[reference.removeprefix(REFERENCE)], schemas)
    properties, required = dict(schema.get("properties", {})), set(schema.get("required", ()))
    for part in schema.get("allOf", ()):
        more, needed = fields(part, schemas)
        properties |= more
        required |= needed
    return properties, required


def described(facts: Facts, honoured: dict[str, set[str]]) -> dict[str, Any]:
    """OpenAPI of the paths; with ``honoured``, of those fields alone."""
    schemas = json.loads(CUT.read_text(encoding="utf-8"))
    paths: dict[str, Any] = {}
    for path, bodies in {key: schemas.pop(key) for key in ("_source", "_paths")}["_paths"].items():
        answers = {"application/json": {"schema": bodies["answer"]}, "text/event-stream": {}}
        replies = {"200": answers, "4XX": {"application/json": {"schema": ERROR}}}
        operation: dict[str, Any] = {
            "responses": {status: {"description": "", "content": content} for status, content in replies.items()}
        }
        if bound := BOUNDS.get(path):
            properties, required = fields(bodies["request"], schemas)
            properties |= {"model": {"const": facts["model"]}, bound: {"enum": [1, 4]}}
            required |= {"model", bound} | ({"input"} & properties.keys())
            if honoured:
                of = {**properties, **QUESTION}
                properties = {name: of[name] for name in properties if name in honoured[path]}
            body = {"type": "object", "properties": properties, "required": sorted(required)}
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
        elif "{model}" in path:
            where = {"name": "model", "in": "path", "required": True, "schema": {"enum": [facts["model"], "gone"]}}
            operation["parameters"] = [where]
        paths[path] = {"post" if bound else "get": operation}
    return {
        "openapi": "3.1.0",
        "info": {"title": "", "version": ""},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def honoured(facts: Facts) -> dict[str, set[str]]:
    """Names of fields by path."""
    with urllib.request.urlopen(facts["url"] + "/fields") as reply:
        rows = json.load(reply)["data"]
    return {
        path: {row["name"] for row in rows if row["path"] == f"/v1{path}" and row["is"] == "honoured"}
        for path in BOUNDS
    }


def operations(facts: Facts) -> Iterator[Any]:
    """Of both halves."""
    for fields in ({}, honoured(facts)):
        for result in schemathesis.openapi.from_dict(described(facts, fields)).get_all_operations():
            yield result.ok()


def counted(operation: Any, url: str, examples: int) -> Counter[int]:
    """Ask, and check each answer; how many had which status."""
    statuses = Counter[int]()
    how = {"deadline": None, "database": None, "phases": [Phase.generate], "suppress_health_check": list(HealthCheck)}

    @seed(59)
    @settings(max_examples=examples, **how)
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        reply = case.call_and_validate(
            base_url=url, headers={"authorization": "Bearer none"}, checks=CHECKS, timeout=120
        )
        statuses[reply.status_code] += 1

    ask()
    return statuses


def main(facts: Facts, examples: int) -> None:
    """Ask of all."""
    statuses = sum((counted(operation, facts["url"], examples) for operation in operations(facts)), Counter[int]())
    outcome = f"{statuses[200]} of {statuses.total()} are answered"
    report("requests drawn from OpenAI's schemas by schemathesis", outcome)
    print(dict(statuses))


if __name__ == "__main__":
    main(facts(), int(sys.argv[1]) if len(sys.argv) > 1 else EXAMPLES)
