"""``PYTHONPATH=.:tests python -m checked_cuda --seed 1 --sequences 1000``: exit code 1 and the seed where one fails."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import demo_cache

from checked_cuda import sequences

CACHE = Path(__file__).resolve().parents[2] / "build" / "checked-cuda"


def main() -> int:
    """0 where nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m checked_cuda", description=sequences.__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sequences", type=int, default=1000)
    chosen = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    try:
        counts = sequences.run(demo_cache.demo_bundle(CACHE), chosen.seed, chosen.sequences)
    except AssertionError as error:
        print(error, file=sys.stderr)
        return 1
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(counts.kinds.items()))
    print(
        f"seed {chosen.seed}: {counts.sequences} sequences ({kinds}), {counts.calls} calls of the driver,"
        f" {time.monotonic() - begun:.0f} s: nothing found"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
