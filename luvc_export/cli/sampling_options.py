"""How answers are drawn and what they may look like: options of the verbs that make some."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from luvc_export.errors import UsageError

MaxNewTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", help="Longest answer; default: the model's own, else as many as fit.")
]
Temperature = Annotated[
    float | None, typer.Option("--temperature", help="0 takes the best token; default: as the model's makers meant it.")
]
Greedy = Annotated[
    bool, typer.Option("--greedy", help="The best token always, without the penalties the model's makers set.")
]
TopK = Annotated[int | None, typer.Option("--top-k", help="Sample among this many tokens.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Sample among this much probability.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="End before this string; repeat.")]
JsonSchema = Annotated[
    Path | None, typer.Option("--json-schema", metavar="FILE", help="Answers are JSON of this schema.")
]
Regex = Annotated[str | None, typer.Option("--regex", metavar="PATTERN", help="Answers match this regular expression.")]
ImageTokens = Annotated[
    str | None,
    typer.Option(
        "--image-tokens",
        metavar="N|auto",
        help="Most visual tokens of a picture: the bundle's sizes of more are not used. auto, the default: the "
        "smallest size that shows all of it.",
    ),
]
ChatTemplateKwargs = Annotated[
    str | None,
    typer.Option(
        "--chat-template-kwargs", metavar="JSON", help="Variables of the chat template: '{\"enable_thinking\": false}'."
    ),
]
MaxPixels = Annotated[
    int | None, typer.Option("--max-pixels", help="Pixels a picture may have; default: 32 Mi, a plain JPEG 128 Mi.")
]


def read_bias(texts: list[str] | None) -> dict[int, float] | None:
    """``ID=BIAS`` as numbers; None where nothing is given.

    Raises:
        UsageError: One is not of that form.
    """
    biases: dict[int, float] = {}
    for text in texts or ():
        token, _, value = text.partition("=")
        try:
            biases[int(token)] = float(value)
        except ValueError as error:
            expected = "a token id and a number, such as 13=-5"
            raise UsageError("this is no bias", where="--logit-bias", got=repr(text), expected=expected) from error
    return biases or None


def read_template_values(text: str | None) -> dict[str, Any] | None:
    """Variables of the chat template, from JSON; None where nothing is given.

    Raises:
        UsageError: It is no JSON object with names as keys.
    """
    from luvc_export.core.files.json_file import parse_json
    from luvc_export.runtime.prompt.template import template_values

    if text is None:
        return None
    data = text.encode(errors="surrogateescape")  # a shell's bytes need not be text
    return template_values(parse_json(data, "--chat-template-kwargs", UsageError, "the value"))


def read_schema(path: Path) -> dict[str, Any]:
    """A JSON schema from a file.

    Raises:
        UsageError: It cannot be read, or is no JSON object.
    """
    from luvc_export.core.files.json_file import read_json

    data = read_json(path, 2**20, UsageError, "the schema")
    if not isinstance(data, dict):
        raise UsageError("a schema is a JSON object", where=f"--json-schema {path}", got=type(data).__name__)
    return data
