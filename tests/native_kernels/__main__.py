"""Say which native library was found, or time its kernels on this machine's GPU."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from luvc_export.errors import LuvcError
from native_kernels.kernels import Native
from native_kernels.library import BENCH_NAME, LIBRARY_NAME, find


def main(arguments: Sequence[str] | None = None) -> int:
    """Say what was found, or run the benchmark; the exit codes are the command line's."""
    parser = argparse.ArgumentParser(prog="python -m native_kernels", description=__doc__)
    parser.add_argument("--bench", action="store_true", help="time the kernels on this GPU, JSON lines on stdout")
    parser.add_argument("--library", type=Path, help=f"path of {LIBRARY_NAME}")
    options = parser.parse_args(arguments)
    try:
        if options.bench:
            beside = options.library.with_name(BENCH_NAME) if options.library else None
            return subprocess.run([find(BENCH_NAME, beside)], check=False).returncode
        native = Native(options.library)
        print(f"{native.path}\nCUDA kernels: {'yes' if native.has_cuda else 'no'}")
    except LuvcError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
