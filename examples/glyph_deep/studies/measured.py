"""What the pages of measurements share: options of their commands, the command as recorded, and the two files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from glyph_deep.data.splits import GROUNDS
from luvc_export.calibration.ablation.store import weights_hash
from luvc_export.calibration.ablation.study import plain

from .evaluate import lines_of

_UNSAID = ("output", "checkpoint", "threads")


def parser_of(
    about: str | None, count: int, counted: str, grounds: tuple[str, ...] = GROUNDS
) -> argparse.ArgumentParser:
    """Return a parser of what every such command takes; `count` questions by default, of which `counted` tells more."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the page and its measurements")
    parser.add_argument("--checkpoint", type=Path, default=Path(__file__).parents[1] / "checkpoint")
    parser.add_argument("--count", type=int, default=count, help=counted)
    parser.add_argument("--grounds", nargs="*", choices=grounds, default=list(grounds))
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    return parser


def read(parser: argparse.ArgumentParser, arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the command line, read; torch computes with as many threads as it says."""
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    return args


def command(module: str, parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """Return the command that measures the same: every option that is not as it is by default, but for its places."""
    parts = [f"python -m glyph_deep.studies.{module} -o ../docs/results"]
    for name, value in vars(args).items():
        if name not in _UNSAID and value != parser.get_default(name):
            words = value if isinstance(value, list) else [f"{value}" if isinstance(value, Path) else f"{value:g}"]
            parts.append(" ".join([f"--{name}", *words]))
    return " ".join(parts)


def write(
    name: str,
    module: str,
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    figures: dict[str, Any],
    page: Callable[[dict[str, Any], dict[str, Any]], str],
    **about: Any,
) -> None:
    """Write `NAME.json` and `NAME.md`, which `page` makes of what was found and of how it was measured."""
    head = {"command": command(module, parser, args), "weights": weights_hash(args.checkpoint), **about}
    (args.output / f"{name}.json").write_text(lines_of({"about": head, **plain(figures)}))
    (args.output / f"{name}.md").write_text(page(figures, head), encoding="utf-8")
