"""Write a study's page and plots again from its figures: ``python -m luvc_export.calibration.ablation FOLDER``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from luvc_export.calibration.ablation.run import FIGURES, write_pages
from luvc_export.errors import LuvcError


def main(arguments: Sequence[str] | None = None) -> int:
    """Write them; the exit codes are the command line's."""
    parser = argparse.ArgumentParser(prog="python -m luvc_export.calibration.ablation", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/results"), help=f"folder with {FIGURES}")
    try:
        write_pages(parser.parse_args(arguments).folder)
    except LuvcError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
