"""Peak memory of ``batch`` over rows: the process that writes, and its worker.

    python benchmarks/scale/batch_memory.py 1000 100000

The model call alone is made up here (the same answer for every row): lines are read, pictures opened, prompts written
and shards renamed as always.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import PLAN, bundle, write_cases

#: What a worker runs: its session answers every row the same. It tells its peak when its input ends.
STUB = """
import dataclasses, resource, sys
from luvc_export.batch import worker
from luvc_export.runtime.session import Session
real, kept = Session.answer_rows, []
def made_up(self, ready, options, spent=0.0):
    kept or kept.append(dataclasses.replace(real(self, ready[:1], options)[0], past=None))
    return kept * len(ready)
Session.answer_rows = made_up
worker.main()
"""


def run(folder: Path, source: Path, out: Path) -> dict[str, float]:
    """One batch in this process: rows, seconds, and peaks in MiB."""
    from luvc_export.batch.job import BatchJob
    from luvc_export.batch.run import local, run_batch

    job = BatchJob(folder, source, out, plan=PLAN, backend="cpu", sampling={"max_new_tokens": 2})
    job.check()
    began = time.monotonic()
    result = run_batch(job, local(1, ("-c", STUB)))
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    record = {"rows": result.rows, "errors": result.errors, "seconds": round(time.monotonic() - began, 1)}
    return {**record, "writer_mib": round(peaks[0], 1), "worker_mib": round(peaks[1], 1)}


def repeated(source: Path, rows: int) -> Path:
    """A file of so many rows: those of ``source`` again and again."""
    lines, target = source.read_text(encoding="utf-8").splitlines(), source.with_name(f"{rows}.jsonl")
    with target.open("w", encoding="utf-8") as file:
        for row in range(rows):
            file.write(json.dumps({**json.loads(lines[row % len(lines)]), "id": f"q{row}"}) + "\n")
    return target


def main() -> None:
    """A line of JSON for each number of rows, and how much the last needs more than the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="+")
    parser.add_argument("--child", nargs=3, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run(*options.child)))
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    records = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        root = Path(scratch)
        folder = bundle(root)
        write_cases(root, 100)
        for rows in options.rows:
            places = [str(folder), str(repeated(root / "cases.jsonl", rows)), str(root / f"out-{rows}")]
            words = [sys.executable, __file__, "0", "--child", *places]
            records.append(json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout))
            print(json.dumps(records[-1]), flush=True)
    more = {name: round(100 * (records[-1][name] / records[0][name] - 1), 1) for name in ("writer_mib", "worker_mib")}
    print(json.dumps({"more_percent": more}))
    sys.exit(max(more.values()) > 10)


if __name__ == "__main__":
    main()
