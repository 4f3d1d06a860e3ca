"""Cut out of OpenAI's own description of its interface what the served paths ask and answer.

``openai_cut.py CLONE``, of github.com/openai/openai-openapi, writes ``openai_cut.json``, a schema a line, and the
licence beside it. Texts for readers are left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

METHODS = dict.fromkeys(("/completions", "/chat/completions", "/responses"), "post")
METHODS |= {"/models": "get", "/models/{model}": "get"}
TEXTS = ("description", "example", "examples", "title")
REFERENCE = "#/components/schemas/"


def bare(node: Any, named: bool = False) -> Any:
    """A schema without texts for readers; of ``named`` ones, which are properties, each stays."""
    if isinstance(node, list):
        return [bare(each) for each in node]
    if not isinstance(node, dict):
        return node
    kept = {name: each for name, each in node.items() if named or not (name in TEXTS or name.startswith("x-"))}
    return {name: bare(each, name == "properties" and not named) for name, each in kept.items()}


def cut(whole: dict[str, Any]) -> dict[str, Any]:
    """Of a description: ``_paths``, of each its request and answer, and all schemas that they reach, by name."""
    paths = {}
    for path, method in METHODS.items():
        operation = whole["paths"][path][method]
        bodies = {"request": operation.get("requestBody"), "answer": operation["responses"]["200"]}
        contents = {name: body["content"]["application/json"] for name, body in bodies.items() if body}
        paths[path] = {name: bare(content["schema"]) for name, content in contents.items()}
    record: dict[str, Any] = {"_paths": paths}
    texts = [json.dumps(paths)]
    while texts:
        for part in texts.pop().split(f'"{REFERENCE}')[1:]:
            name = part[: part.index('"')]
            if name not in record:
                record[name] = bare(whole["components"]["schemas"][name])
                texts.append(json.dumps(record[name]))
    return record


if __name__ == "__main__":
    commit, text, licence = (
        subprocess.run(["git", "-C", sys.argv[1], *words], check=True, capture_output=True, text=True).stdout
        for words in (("rev-parse", "HEAD"), ("show", "HEAD:openapi.json"), ("show", "HEAD:LICENSE"))
    )
    source = f"openapi.json of github.com/openai/openai-openapi at {commit.strip()}, MIT (openai_cut.LICENSE)"
    record = {"_source": source, **cut(json.loads(text))}
    rows = (f"{json.dumps(name)}: {json.dumps(record[name], sort_keys=True)}" for name in sorted(record))
    file = Path(__file__)
    file.with_suffix(".json").write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
    file.with_suffix(".LICENSE").write_text(licence, encoding="utf-8")
