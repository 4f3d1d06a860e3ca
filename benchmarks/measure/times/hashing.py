"""What hashing costs at the first load and at later ones: a file of random bytes as a bundle's weights.

    python benchmarks/measure/times/hashing.py --gib 7

Prints seconds on the clock and of computing for the first hash, for a later load, and with ``--verify``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from luvc_export.bundle import hashing
from luvc_export.bundle.manifest import FileRecord


def main() -> None:
    """Write the file, hash it three times, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=7)
    size = int(parser.parse_args().gib * 2**30)
    with tempfile.TemporaryDirectory(prefix="luvc-hashing-") as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        path = Path(folder) / "weights"
        with path.open("wb") as file:
            block = os.urandom(2**24)
            while file.tell() < size:  # blocks differ in their first bytes: no file system shares them
                file.write(os.urandom(64) + block[64 : min(len(block), size - file.tell())])
        known = FileRecord(_digest(path), path.stat().st_size)
        timed("first load", lambda: hashing.verify(path, known))
        timed("later load", lambda: hashing.verify(path, known))
        timed("--verify", lambda: hashing.verify(path, known, full=True))


def _digest(path: Path) -> str:
    """By another way, so that nothing is remembered."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def timed(what: str, run: Callable[[], object]) -> None:
    """Run and print how long it took."""
    clock, computed = time.perf_counter(), time.process_time()
    run()
    print(f"{what}: {time.perf_counter() - clock:.4f} s, computing {time.process_time() - computed:.4f} s", flush=True)


if __name__ == "__main__":
    main()
