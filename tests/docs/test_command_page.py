"""docs/cli.md says what the commands take, on every machine."""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from luvc_export.cli import app

DOCS = Path(__file__).resolve().parents[2] / "docs"
AGAIN = "python docs/command_page.py"
sys.path.insert(0, str(DOCS))

import command_page  # noqa: E402
import keywords_page  # noqa: E402


def with_option(command: Callable[..., Any], name: str, kind: object, default: object) -> Callable[..., Any]:
    """``command`` with one option more."""
    parameter = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
    plain = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def more(**arguments: Any) -> None:
        raise NotImplementedError

    more.__signature__ = plain.replace(parameters=[*plain.parameters.values(), parameter])  # type: ignore[attr-defined]
    more.__annotations__ = command.__annotations__ | {name: kind}
    return more


def test_the_page_is_fresh() -> None:
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == command_page.page(), AGAIN


def test_the_page_of_keywords_is_fresh() -> None:
    page = keywords_page.page()
    assert (DOCS / "keywords.md").read_text(encoding="utf-8") == page, "python docs/keywords_page.py"
    assert "| `encoder_prune` |  | `--encoder-keep` | Share of units" in page and page.count("`--threads`") == 1


@pytest.mark.parametrize("index", range(0, len(app.registered_commands), 7))
def test_one_more_option_makes_it_stale(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    command, before = app.registered_commands[index], command_page.page()
    assert command.callback is not None
    kind = Annotated[int, typer.Option("--turns", min=2, help="Turns.")]
    monkeypatch.setattr(command, "callback", with_option(command.callback, "turns", kind, 3))
    added = set(command_page.page().splitlines()) - set(before.splitlines())
    assert added == {"| `--turns` | integer, at least 2 | `3` | Turns. |"} and command_page.page() != before


def test_every_name_that_the_parser_takes_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    parser: Any = typer.main.get_command(app)
    shown = parser.commands
    assert list(shown) == [command.name for command in app.registered_commands]
    for name, command in shown.items():
        section = command_page.page().split(f"\n## luvc-export {name}\n")[1].split("\n## ")[0]
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        names = {word.strip("`") for row in rows for word in row.split(" | ")[0][2:].split() if "`-" in word}
        assert names == {opt for each in command.params for opt in each.opts if opt.startswith("-")}, name
        assert len(rows) == len(command.params), name


def test_another_machine_writes_the_same(tmp_path: Path) -> None:
    """Another home, folder, terminal and number of cores."""
    code = (
        "import os, sys, tempfile\n"
        "os.cpu_count = lambda: 77\n"
        "os.sched_getaffinity = lambda pid: set(range(77))\n"
        "import command_page\n"
        "sys.stdout.buffer.write(command_page.page().encode())\n"
    )
    elsewhere = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "COLUMNS": "40", "TMPDIR": str(tmp_path)}
    elsewhere["PYTHONPATH"] = os.pathsep.join(map(str, (DOCS, DOCS.parent)))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=elsewhere, capture_output=True, check=True)
    assert done.stdout.decode() == (DOCS / "cli.md").read_text(encoding="utf-8")


def test_rendering() -> None:
    small = typer.Typer(name="tool", help="A tool.", epilog="Exit codes: 0 ok.")

    @small.command("join")
    def join(
        context: typer.Context,
        parts: Annotated[str, typer.Argument(metavar="A_OR_B", help=r"Either: \[a|b].")],
        rest: Annotated[Path | None, typer.Argument(help="The\nrest.")] = None,
        glue: Annotated[list[str] | None, typer.Option("-g", "--glue", help="<glue>")] = None,
        hidden: Annotated[bool, typer.Option("--hidden", hidden=True)] = False,
        rate: Annotated[float, typer.Option("--rate", min=0, max=1, metavar="R")] = 0.5,
    ) -> None:
        """Join parts.

        A second paragraph.

        [dim]tool join a
        tool join b --rate 1[/dim]

        [dim]tool join c[/dim]
        """

    assert command_page.page(small).endswith(
        r"""
## tool join

`tool join [OPTIONS] A_OR_B [REST]`

Join parts.

A second paragraph.

```sh
tool join a
tool join b --rate 1
tool join c
```

| option | value | default | meaning |
|---|---|---|---|
| `A_OR_B` | text | required | Either: [a\|b]. |
| `[REST]` | path |  | The rest. |
| `-g` `--glue` | text, repeatable |  | &lt;glue> |
| `--rate` | R, at least 0, at most 1 | `0.5` |  |
"""
    )


@pytest.mark.parametrize(
    ("kind", "default", "refusal"),
    [
        (Annotated[Path, typer.Option("--folder")], Path.home(), "depends on the machine"),
        (Annotated[str, typer.Option("--folder")], str(Path.home() / "models"), "depends on the machine"),
        (Annotated[Path, typer.Option("--folder")], Path.home, "depends on the machine"),
        (Annotated[complex, typer.Option("--folder")], 1j, "no word for"),
    ],
)
def test_what_cannot_be_said_is_refused(
    monkeypatch: pytest.MonkeyPatch, kind: object, default: object, refusal: str
) -> None:
    command = app.registered_commands[0]
    assert command.callback is not None
    monkeypatch.setattr(command, "callback", with_option(command.callback, "folder", kind, default))
    with pytest.raises(ValueError, match=refusal):
        command_page.page()
