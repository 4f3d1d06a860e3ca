"""``PYTHONPATH=.:tests python -m checked_cuda --seed 1 --sequences 1000``: exit code 1 and the seed where one fails.

``--bundle FOLDER`` takes another bundle than the demo's, and the plan it runs by default: one with states, say.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import demo_cache

from checked_cuda import sequences
from luvc_export.bundle.folder import load

CACHE = Path(__file__).resolve().parents[2] / "build" / "checked-cuda"


def main() -> int:
    """0 where nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m checked_cuda", description=sequences.__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--bundle", type=Path)
    chosen = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    if chosen.bundle is None:
        bundle, plan = demo_cache.demo_bundle(CACHE), sequences.PLAN
    else:
        bundle = load(chosen.bundle)
        plan = bundle.manifest.default_plan
    try:
        counts = sequences.run(bundle, chosen.seed, chosen.sequences, plan=plan)
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
