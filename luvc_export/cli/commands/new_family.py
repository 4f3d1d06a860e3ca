"""``luvc-export new-family``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from luvc_export.cli import options
from luvc_export.errors import UsageError


def new_family(
    model_type: Annotated[str, typer.Argument(metavar="MODEL_TYPE", help="As a checkpoint's config.json names it.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the two files: MODEL_TYPE.py, MODEL_TYPE_checkpoint.py.")
    ] = Path(),
    as_json: options.Json = False,
) -> None:
    """Write the skeleton of a family's file for a model of transformers, and list what it does not say.

    [dim]luvc-export new-family glm4v -o .[/dim]
    """
    from luvc_export.core.files.safe_files import write_whole
    from luvc_export.export.new_family.facts import facts_of
    from luvc_export.export.new_family.text import skeleton

    facts = facts_of(model_type)
    written = skeleton(facts)
    paths = output / f"{model_type}.py", output / f"{model_type}_checkpoint.py"
    for path in paths:
        if path.exists():
            raise UsageError("this file is there already", where="--output", got=str(path), fix="name another folder")
    for path, text in zip(paths, (written.family, written.checkpoint), strict=True):
        write_whole(path, text)
    kin = None if facts.kin is None else facts.kin.model_type
    if as_json:
        files = [str(path) for path in paths]
        print(json.dumps({"files": files, "like": kin, "open_questions": written.questions}))
        return
    print(f"wrote {paths[0]}, made from {kin or 'no family: none has such a tower'}; {paths[1]} for its tests")
    print("\n".join(["what transformers does not say:", *(f"- {question}" for question in written.questions)]))
    print("answer each, take its line away, and test: docs/adding-a-family.md")
