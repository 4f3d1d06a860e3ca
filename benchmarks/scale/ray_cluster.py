"""2,000 questions on a Ray cluster of this machine, a worker killed in the middle; Parquet in and out; HTTP.

Run by ``ray.sh``, which makes the environment that is given. ``--count`` asks fewer questions.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from common import PLAN, bundle, png, questions, session, write_cases

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2
#: Marks processes of this run, in their environment.
MARK = "LUVC_RAY_CHECK"
failed: list[str] = []


def check(name: str, good: bool, detail: object = "") -> None:
    """One line, and whether all is well so far."""
    print(f"{'ok' if good else 'FAILED'}: {name} {detail}".rstrip(), flush=True)
    if not good:
        failed.append(name)


def actors(mark: str) -> list[int]:
    """Processes of this run's actors that have loaded a bundle."""
    listed = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                words, variables = (place / "cmdline").read_bytes(), (place / "environ").read_bytes()
                if b"MapWorker(MapBatches(LineAnswerer))" in words and f"{MARK}={mark}".encode() in variables:
                    listed.append(int(place.name))
    return listed


def batch(python: Path, root: Path, folder: Path, rows: int) -> None:
    """The batch, and a kill when a quarter of it is written."""
    mark, out = secrets.token_hex(8), root / "answers"
    words = [str(python), "-m", "luvc_export", "batch", str(folder), "--input", str(root / "cases.jsonl")]
    words += ["-o", str(out), "--plan", PLAN, "--backend", "cpu", "--shard", "32", "--json"]
    words += ["--ray", "local", "--workers", str(WORKERS)]
    began, killed = time.monotonic(), None
    with subprocess.Popen(words, env={**os.environ, MARK: mark}, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            listed = actors(mark)
            if killed is None and len(list(out.glob("part-*"))) >= rows // 32 // 4 and len(listed) == WORKERS:
                killed = listed[0]
                os.kill(killed, signal.SIGKILL)
            time.sleep(0.2)
        assert process.stdout is not None
        printed = process.stdout.read()
    lines = printed.strip().splitlines()
    check("the batch ends well", process.returncode == 0 and json.loads(lines[0])["errors"] == 0, lines[0])
    check("it prints JSON alone", len(lines) == 1, lines[1:])
    check("a worker was killed in the middle", killed is not None, f"process {killed}")
    written = [json.loads(line) for path in sorted(out.glob("part-*")) for line in path.read_text().splitlines()]
    times = Counter(row["row"] for row in written)
    check("every row is there, once", times == Counter(range(rows)), f"{len(written)} rows")
    took = time.monotonic() - began
    half = -(-rows // 2)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        texts = [*pool.map(texts_of, [folder] * 2, [0, half], [half, rows])]
    right = sum(row["text"] == text for row, text in zip(written, texts[0] + texts[1], strict=True))
    check("answers are Session's", right == rows, f"{right} of {rows}; the batch took {took:.0f} s")


def texts_of(folder: Path, first: int, end: int) -> list[str]:
    """What Session answers to some of the questions, asked one by one."""
    own = session(folder)
    some = islice(questions(end), first, end)
    return [own.generate([png(picture) for picture in case.images], case.prompt).text for case in some]


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, str]]:
    """Our server: its address and model."""
    words = [sys.executable, "-m", "luvc_export", "serve", f"{folder}#{PLAN}", "--backend", "cpu", "--threads", "1"]
    with subprocess.Popen([*words, "--port", "0", "--json", "--queue", "64"], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        ready = json.loads(run.stdout.readline())
        try:
            yield ready["address"], ready["models"][0]
        finally:
            run.terminate()


def tables(python: Path, root: Path, folder: Path) -> None:
    """Parquet in and out: through the actor, and through our server."""
    rows = [
        {"name": f"q{index}", "image": str(root / f"{index}.png"), "prompt": case.prompt}
        for index, case in enumerate(questions(48))
        if len(case.images) == 1
    ]
    own, texts = session(folder), {}
    for one, case in zip(rows, (case for case in questions(48) if len(case.images) == 1), strict=True):
        Path(one["image"]).write_bytes(png(case.images[0]))
        texts[one["name"]] = own.generate(one["image"], case.prompt).text
    rows.append({"name": "broken", "image": str(root / "cases.jsonl"), "prompt": "what?"})
    with serving(folder) as (address, model):
        facts: dict[str, Any] = {"rows": rows, "texts": texts, "bundle": str(folder), "plan": PLAN, "folder": str(root)}
        facts |= {"address": address, "model": model}
        words = [str(python), str(ROOT / "benchmarks/scale/ray_check.py")]
        done = subprocess.run(words, input=json.dumps(facts), text=True, check=False, timeout=300)
    check("Parquet and HTTP", done.returncode == 0)


def main() -> None:
    """Exit code 0 if all checks pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("environment", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    options = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    python = options.environment.absolute() / "bin" / "python"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        root = Path(scratch)
        folder = bundle(root)
        write_cases(root, options.count)
        tables(python, root, folder)
        words = [str(python), str(ROOT / "benchmarks/scale/ray_dying.py")]
        done = subprocess.run(words, stdout=subprocess.DEVNULL, check=False, timeout=300)
        check("rows that end whoever answers them", done.returncode == 0)
        batch(python, root, folder, options.count)
    print("failed: " + ", ".join(failed) if failed else "Ray: all checks pass")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
