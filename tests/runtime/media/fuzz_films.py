"""Corrupted films, by seed: frames or a clear error, in time, and no more memory than a helper may have.

    python tests/runtime/media/fuzz_films.py --count 300 --seed 0

Bytes are flipped, cut out, repeated, overwritten by those of other places or by large numbers, or the end is missing.
Prints how many gave frames, how many which error, the longest time and the largest helper.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
import film_files

from luvc_export.errors import UsageError
from luvc_export.runtime.media import film
from luvc_export.runtime.media.video import open_video

KINDS = (
    ("clip.mp4", "libx264", "yuv420p"),
    ("clip.mkv", "libx264", "yuv420p"),
    ("clip.webm", "libvpx", "yuv420p"),
    ("clip.avi", "mpeg4", "yuv420p"),
    ("clip.ts", "libx264", "yuv420p"),
    ("clip.mov", "mjpeg", "yuvj420p"),
)
SECONDS, BYTES = 20.0, 2**30


def corrupted(data: bytes, dice: random.Random) -> bytes:
    """``data`` with one to four things wrong."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at, length = dice.randrange(len(changed)), dice.choice((1, 4, 64, 1000))
        if dice.random() < 0.5:  # headers are small, and most is decided there
            at = dice.choice((dice.randrange(min(1200, len(changed))), max(0, len(changed) - dice.randrange(1, 1500))))
        kind = dice.randrange(6)
        if kind == 0:
            changed[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del changed[at : at + length]
        elif kind == 2:
            changed[at:at] = changed[at : at + length] * dice.choice((1, 3))
        elif kind == 3:
            other = dice.randrange(len(changed))
            changed[at : at + length] = changed[other : other + length]
        elif kind == 4:
            changed[at : at + 4] = dice.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0"))
        else:
            del changed[at:]
        if len(changed) < 16:
            break
    return bytes(changed)


def run(count: int, seed: int, originals: list[tuple[str, bytes]]) -> dict[str, object]:
    """Open so many; what happened.

    Raises:
        AssertionError: Another error than ours, or one that took too long.
    """
    dice, what, longest = random.Random(seed), Counter[str](), 0.0
    for number in range(count):
        name, data = originals[number % len(originals)]
        bad, started = corrupted(data, dice), time.monotonic()
        try:
            open_video(bad, dice.choice((1, 4, 16)))
            what["frames"] += 1
        except UsageError as error:
            what[error.what] += 1
        spent = time.monotonic() - started
        assert spent < SECONDS + 2, f"{name}, number {number} of seed {seed}: {spent:.0f} s"
        longest = max(longest, spent)
    return {"films": count, "seed": seed, "longest_s": round(longest, 2), "what": dict(what.most_common())}


def originals(folder: Path) -> list[tuple[str, bytes]]:
    """One film of each kind."""
    shown = film_files.noise(12, 64, 96)
    films = []
    for name, codec, layout in KINDS:
        options = {"g": "4", "b": "400000"}
        film_files.write_film(folder / name, shown, codec=codec, pixels=layout, options=options)
        films.append((name, (folder / name).read_bytes()))
    return films


def main() -> None:
    """Read the command line and open films."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(args.count, args.seed, originals(Path(folder)))
    film._helpers.close()
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert largest < BYTES, f"a helper took {largest / 2**20:.0f} MiB"
    print(json.dumps(outcomes | {"largest_helper_mib": round(largest / 2**20)}, indent=1))


if __name__ == "__main__":
    main()
