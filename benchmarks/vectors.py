"""Vectors of new pages a second, by luvc-export, transformers (bf16, SDPA) and OpenVINO GenAI's EmbeddingPipeline.

Run: python benchmarks/vectors.py OUT [--layers 9] [--encoder-blocks 8] [--size 896x896] [--runs 3] [--only NAME ...]
[--prepare] [--record]

OUT is a folder of ``run.py``: its checkpoint (Qwen2.5-VL-3B's layer shapes, which ``--layers`` and ``--encoder-blocks``
shorten) and, for GenAI, its ``openvino`` folder; what is missing is made. One process after another, one page a call,
none twice. A peer that cannot run says why. ``--record`` puts the rows into vectors.json and retrieval.md of
docs/results.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from run import RESULTS, ask, cpu

#: Name, options of peers/vectors.py.
PEERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("one vector, transformers", {"peer": "transformers"}),
    ("one vector, OpenVINO GenAI", {"peer": "openvino"}),
    ("one vector, luvc-export none", {"peer": "luvc", "plan": "none"}),
    ("one vector, luvc-export safe", {"peer": "luvc", "plan": "safe"}),
    ("one vector, luvc-export staged", {"peer": "luvc", "plan": "staged"}),
    ("many vectors, transformers", {"peer": "transformers", "many": True}),
    ("many vectors, luvc-export none", {"peer": "luvc", "plan": "none", "many": True}),
    ("many vectors, luvc-export safe", {"peer": "luvc", "plan": "safe", "many": True}),
    ("many vectors, luvc-export staged", {"peer": "luvc", "plan": "staged", "many": True}),
    ("many vectors, luvc-export lean", {"peer": "luvc", "plan": "lean", "many": True}),
    ("many vectors, luvc-export luvc", {"peer": "luvc", "plan": "luvc", "many": True}),
)


def main() -> None:
    """Prepare, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=9)
    parser.add_argument("--encoder-blocks", type=int, default=8)
    parser.add_argument("--size", default="896x896")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="*", metavar="NAME")
    parser.add_argument("--prepare", action="store_true", help="Make what is missing, and time nothing.")
    parser.add_argument("--record", action="store_true", help="Put the rows, in place of theirs, into docs/results.")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint"
    if not checkpoint.is_dir():
        sizes = ["--layers", str(args.layers), "--encoder-blocks", str(args.encoder_blocks), "--dtype", "bf16"]
        command = [sys.executable, "-m", "luvc_export", "make-random", "qwen2.5-vl-3b", "-o", str(checkpoint)]
        subprocess.run([*command, *sizes], check=True)
    common = {"checkpoint": str(checkpoint), "many_checkpoint": str(args.out / "colqwen2"), "out": str(args.out)}
    common |= {"size": [int(side) for side in args.size.split("x")], "runs": args.runs, "dtype_stored": "bf16"}
    rows = []
    for name, options in PEERS:
        if args.only and name not in args.only:
            continue
        chosen, needs = {**common, **options}, "requirements.txt" if options["peer"] == "openvino" else None
        answer = ask("prepare", "openvino_genai_vlm", needs, chosen) if needs else {}
        answer = answer if "error" in answer else ask("prepare", "vectors", needs, chosen)
        if not args.prepare:
            answer = answer if "error" in answer else ask("times", "vectors", needs, chosen)
            rows.append({"name": name, "size": args.size, "cpu": cpu(), **answer})
        print(json.dumps({name: answer}), flush=True)
    if args.record and rows:
        record(rows)
    print(table(rows))


def record(rows: list[dict[str, Any]]) -> None:
    """Keep the rows, one record a line, and write all there are into the page."""
    from luvc_export.core.files.pages import within

    file, page = RESULTS / "vectors.json", RESULTS / "retrieval.md"
    mine = {(row["name"], row["size"], row["cpu"]) for row in rows}
    old = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    every = [row for row in old if (row["name"], row["size"], row["cpu"]) not in mine] + rows
    every.sort(key=lambda row: [name for name, _ in PEERS].index(row["name"]))
    every.sort(key=lambda row: (row["cpu"], int(row["size"].partition("x")[0])))
    file.write_text("[\n" + ",\n".join(map(json.dumps, every)) + "\n]\n", encoding="utf-8")
    page.write_text(within(page.read_text(encoding="utf-8"), "vectors", table(every) + "\n"), encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a table a CPU: medians and ranges of seconds a page."""
    cpus = dict.fromkeys(row["cpu"] for row in rows)
    return "\n\n".join(f"{name}\n\n{_of_a_cpu([row for row in rows if row['cpu'] == name])}" for name in cpus)


def _of_a_cpu(rows: list[dict[str, Any]]) -> str:
    lines = ["| page | | seconds a page | pages a second | load and first vector, s | peak, GiB |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['size']} | {row['name']} | {row['error']} | | | |")
            continue
        each = row["page_s"]
        spread = f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"
        rest = f"{1 / statistics.median(each):.2f} | {row['first_s']:.1f} | {row['peak_gib']:.1f}"
        lines.append(f"| {row['size']} | {row['name']} | {spread} | {rest} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
