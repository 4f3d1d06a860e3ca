"""``luvc-export batch`` killed at random moments: in the end every row is there once, as Session answers it.

    python benchmarks/scale/batch_kills.py --kills 20 --seed 1

Most are kill -9, some SIGTERM. Where it is done before it was killed often enough, it begins anew elsewhere. Then, with
``--full FOLDER``, a folder on a small disk: the batch that does not fit says so, and what is written is whole.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from common import PLAN, bundle, png, questions, session, write_cases

ROWS, SHARD = 400, 8


def words(folder: Path, source: Path, out: Path) -> list[str]:
    """The command."""
    command = [sys.executable, "-m", "luvc_export", "batch", str(folder), "--input", str(source), "-o", str(out)]
    return [
        *command,
        "--plan",
        PLAN,
        "--backend",
        "cpu",
        "--workers",
        "2",
        "--shard",
        str(SHARD),
        "--rows",
        "2",
        "--json",
    ]


def written(out: Path) -> list[dict[str, Any]]:
    """Rows of all shards; each shard must be whole."""
    rows = []
    for path in sorted(out.glob("part-*")):
        some = [json.loads(line) for line in path.read_text().splitlines()]
        first = int(path.stem[5:]) * SHARD
        assert [row["row"] for row in some] == [*range(first, min(first + SHARD, ROWS))], path
        rows += some
    return rows


def killed(command: list[str], out: Path, after: float, number: int, working: bool) -> bool:
    """Run it, and end it after so many seconds, since its first shard if ``working``; whether it was running then."""
    before = len([*out.glob("part-*")])
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while working and process.poll() is None and len([*out.glob("part-*")]) == before:
            time.sleep(0.01)
        try:
            _, err = process.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            process.communicate()
            return True
        assert process.returncode == 0, err
    return False


def main() -> None:
    """Exit code 1 if a row is lost, there twice or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=12.0, help="seconds from the start to a kill, at most")
    parser.add_argument("--full", type=Path, help="a folder on a disk with room for some shards alone")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    dice, kills, rounds, faults = random.Random(options.seed), Counter[str](), 0, 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        root = Path(scratch)
        folder = bundle(root)
        write_cases(root, ROWS)
        own = session(folder)
        texts = [own.generate([*map(png, case.images)], case.prompt).text for case in questions(ROWS)]
        while kills.total() < options.kills:
            command, rounds = words(folder, root / "cases.jsonl", root / f"out-{rounds}"), rounds + 1
            out, running = Path(command[command.index("-o") + 1]), True
            while running and kills.total() < options.kills:
                number = dice.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
                working = dice.random() < 0.7
                moment = dice.uniform(0, 4 if working else options.longest)
                running = killed(command, out, moment, number, working)
                kills[number.name] += running
                since = "its first shard" if working else "its start"
                print(f"{number.name} {moment:.1f} s after {since}, {len(written(out))} of {ROWS} rows", flush=True)
                time.sleep(0.2)
            assert not killed(command, out, 3600, signal.SIGKILL, False)
            rows = written(out)
            once = Counter(row["row"] for row in rows) == Counter(range(ROWS))
            right = sum(row["text"] == text for row, text in zip(rows, texts, strict=True)) if once else 0
            faults += not once or right != ROWS
            print(f"round {rounds}: {len(rows)} rows, each once: {once}, {right} as Session", flush=True)
        if options.full:
            faults += not full(words(folder, root / "cases.jsonl", options.full / "out"), options.full / "out")
    print(f"{dict(kills)}, {rounds} rounds, {faults} faults")
    sys.exit(bool(faults))


def full(command: list[str], out: Path) -> bool:
    """Whether a batch on a disk that is full ends as it should."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    rows = written(out)
    left = [path.name for path in out.iterdir() if path.name.startswith(".")]
    print(
        f"exit code {done.returncode}: {error['what']}, {error['where']}; "
        f"{len(rows)} rows in whole shards, left: {left}"
    )
    return done.returncode == 2 and "space" in error["what"] and 0 < len(rows) < ROWS and not left


if __name__ == "__main__":
    main()
