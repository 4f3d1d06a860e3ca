"""``luvc-export new-family``."""

from __future__ import annotations

from pathlib import Path

from luvc_export.cli import options
from luvc_export.cli.options import grouped
from luvc_export.cli.tables.console import write
from luvc_export.core.options import option
from luvc_export.errors import UsageError


@grouped
def new_family(
    *,
    model_type: str = option(..., "As a checkpoint's config.json names it.", argument=True, metavar="MODEL_TYPE"),
    output: Path = option(
        Path(), "Folder of the two files: MODEL_TYPE.py, MODEL_TYPE_checkpoint.py.", "-o", "--output"
    ),
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
    write(
        as_json,
        {"files": [str(path) for path in paths], "like": kin, "open_questions": written.questions},
        f"wrote {paths[0]}, made from {kin or 'no family: none has such a tower'}; {paths[1]} for its tests",
        "what transformers does not say:",
        *(f"- {question}" for question in written.questions),
        "answer each, take its line away, and test: docs/adding-a-family.md",
    )
