"""Pages to search and the checkpoint that embeds them: `python -m glyph_search.write scans checkpoint --count 50`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from glyph_search.checkpoint import BASE, ONE, SMALL, write_checkpoint
from glyph_search.corpus import GROUNDS, sheet


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", type=Path, help="folder for pictures of pages, which must not be there")
    parser.add_argument("checkpoint", type=Path, help="folder for the checkpoint, likewise")
    parser.add_argument("--ground", choices=GROUNDS, default="textured")
    parser.add_argument(
        "--one", action="store_true", help="a checkpoint of one vector a page, for `export --task embed`"
    )
    parser.add_argument("--count", type=int, default=50)
    args = parser.parse_args(words)
    write_checkpoint(BASE, ONE if args.one else SMALL, args.checkpoint)
    args.pages.mkdir(parents=True)
    lines = []
    for number in range(args.count):
        pixels, shown = sheet("heldout", args.ground, 0, number)
        Image.fromarray(pixels).save(args.pages / f"{number:03}.png")
        lines.append(f"{number:03}.png: {', '.join(shown.facts)}\n")
    (args.pages / "facts.txt").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
