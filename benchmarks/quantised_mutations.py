"""Quantised checkpoints with one thing wrong: ``python benchmarks/quantised_mutations.py --seed 1 --count 2000``.

Each is a copy of one of the forms of ``tests/quantised_checkpoint.py``, cut short, with sizes that lie, parts gone,
other settings or other values. It must be refused with an error of this package, or be read to what it says. Exit code
1 where another error comes out, or something is read that the file does not say.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import mutated_quantised


def main() -> int:
    """Try them and print what they ended in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=2000)
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        whole = mutated_quantised.originals(Path(folder))
        meant = {name: mutated_quantised.meaning(path) for name, path in whole.items()}
        names = sorted(whole)
        for number in range(options.count):
            name = names[number % len(names)]
            ended = mutated_quantised.attempt(whole[name], meant[name], options.seed * 1_000_000 + number)
            counts[ended.partition(":")[0]] += 1
            if ended.startswith("WRONG"):
                print(f"{name}, seed {options.seed * 1_000_000 + number}: {ended}", flush=True)
    print(", ".join(f"{count} {ended}" for ended, count in sorted(counts.items())))
    return int(counts["WRONG"] > 0)


if __name__ == "__main__":
    sys.exit(main())
