"""What the first run in a helper process costs a start: the demo's bundle, in processes of their own.

    python benchmarks/measure/times/first_run.py --runs 7

A start is a Python process that opens the bundle on ``cpu``, loads its graphs and answers with one token; files are in
the page cache. In turns: the bundle taken as this user's own (no first run), a first start on this machine (an empty
cache folder), and a second one. Prints the medians, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

START = """
import sys
from PIL import Image
from luvc_export import load_bundle
session = load_bundle(sys.argv[1], "cpu", threads=1)
session.generate(Image.new("RGB", (64, 64)), "What?", max_new_tokens=1, greedy=True)
"""
HOW = ("taken as own", "first start", "second start")


def main() -> None:
    """Export, start in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--bundle", type=Path, help="default: the demo's, exported here")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="luvc-first-run-") as folder:
        bundle = asked.bundle or exported(Path(folder) / "bundle")
        cache = Path(folder) / "cache"
        spent: dict[str, list[float]] = {how: [] for how in HOW}
        for turn in range(asked.runs + 1):
            shutil.rmtree(cache, ignore_errors=True)
            for how in HOW:
                seconds = start(bundle, cache, own=how == HOW[0])
                if turn:  # the first reads the files
                    spent[how].append(seconds)
    for how, times in spent.items():
        figures = {"s": statistics.median(times), "from": min(times), "to": max(times)}
        print(json.dumps({"start": how} | {name: round(value, 2) for name, value in figures.items()}))


def exported(folder: Path) -> Path:
    """The demo's bundle, in another cache folder's eyes than that of the starts."""
    from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
    from luvc_export.pipeline import export_bundle

    os.environ["XDG_CACHE_HOME"] = str(folder.with_name("exporter"))
    export_bundle(str(CHECKPOINT), folder, "safe", image_size=IMAGE_SIZE, text_capacity=256)
    return folder


def start(bundle: Path, cache: Path, own: bool) -> float:
    """Seconds from the start of a process to its end."""
    environment = {name: value for name, value in os.environ.items() if name != "LUVC_TRUST_BUNDLES"}
    environment |= {"XDG_CACHE_HOME": str(cache)} | ({"LUVC_TRUST_BUNDLES": "1"} if own else {})
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", START, str(bundle.absolute())], env=environment, check=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
