"""schemathesis: requests drawn from OpenAI's types, to the paths that are served; answers are of OpenAI's types too.

The description is made of what openai-python says of requests and answers, which is made of OpenAI's own file. Half of
the requests may have all of its fields, half ask one question and have fields that the server honours
(``/v1/fields``): more of them are answered. The types say no ranges, so many of both halves are a 400.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

import schemathesis
from common import Facts, facts, report
from hypothesis import HealthCheck, Phase, given, seed, settings
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParams as ChatParams
from openai.types.completion_create_params import CompletionCreateParams
from openai.types.responses import Response
from openai.types.responses.response_create_params import ResponseCreateParams
from pydantic import TypeAdapter
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

#: Of each path what is asked, what bounds an answer, and what is answered.
ASKED: dict[str, tuple[Any, str, Any]] = {
    "/completions": (CompletionCreateParams, "max_tokens", Completion),
    "/chat/completions": (ChatParams, "max_completion_tokens", ChatCompletion),
    "/responses": (ResponseCreateParams, "max_output_tokens", Response),
}
QUESTION = {"messages": {"const": [{"role": "user", "content": "Hello"}]}, "prompt": {"const": "Hello"}}
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


def described(facts: Facts, honoured: dict[str, set[str]]) -> dict[str, Any]:
    """OpenAPI of the paths; with ``honoured``, of those fields alone."""
    schemas: dict[str, Any] = {}

    def schema(kind: Any, prefix: str) -> dict[str, Any]:
        whole = TypeAdapter(kind).json_schema(ref_template=f"#/components/schemas/{prefix}{{model}}")
        schemas.update({prefix + name: one for name, one in whole.pop("$defs", {}).items()})
        return dict(whole)

    def answers(kind: Any, prefix: str) -> dict[str, Any]:
        content = {"application/json": {"schema": schema(kind, prefix)}, "text/event-stream": {}}
        return {
            "200": {"description": "", "content": content},
            "4XX": {"description": "", "content": {"application/json": {"schema": ERROR}}},
        }

    paths: dict[str, Any] = {"/models": {"get": {"responses": answers(dict[str, Any], "list")}}}
    where = {"name": "model", "in": "path", "required": True, "schema": {"enum": [facts["model"], "gone"]}}
    paths["/models/{model}"] = {"get": {"parameters": [where], "responses": answers(Model, "model")}}
    for path, (kind, bound, answer) in ASKED.items():
        prefix = path.strip("/").replace("/", "_")
        body = schema(kind, f"{prefix}_in_")
        for one in [*schemas.values(), body]:
            if "model" in one.get("properties", {}) and bound in one["properties"]:
                one["properties"] |= {"model": {"const": facts["model"]}, bound: {"type": "integer", "enum": [1, 4]}}
                one["required"] = sorted(
                    {*one.get("required", ()), *({"input"} & {*one["properties"]}), "model", bound}
                )
                if honoured:
                    of = {**one["properties"], **QUESTION}
                    one["properties"] = {name: of[name] for name in one["properties"] if name in honoured[path]}
        content = {"required": True, "content": {"application/json": {"schema": body}}}
        paths[path] = {"post": {"requestBody": content, "responses": answers(answer, f"{prefix}_out_")}}
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
        path: {row["name"] for row in rows if row["path"] == f"/v1{path}" and row["is"] == "honoured"} for path in ASKED
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
    report("requests drawn from OpenAI's types by schemathesis", f"{statuses[200]} of {statuses.total()} are answered")
    print(dict(statuses))


if __name__ == "__main__":
    main(facts(), int(sys.argv[1]) if len(sys.argv) > 1 else EXAMPLES)
