"""Tokens after the first, ours beside peers in one run, by bits of a weight: step, tokens a second, share of memory.

Run: python benchmarks/decode.py OUT [--rounds 2] [--runs 2] [--new 25] [--only NAME ...] [--prepare] [--page]

OUT as ``run.py`` has it, whose checkpoint, environments and peers these are; the LLM in 8 and 4 bits, heads included,
is made beside it. One process after another, in turns, all cores, a new picture and prompt in every run. A step is the
mean over a run's tokens after its first; the table has medians (and ranges) of runs, and the memory's bandwidth that
numpy reads right after each. What was timed stays in OUT/decode.json: a command that was cut off goes on. ``--page``
puts the table into docs/results/decode-peers.md, where that has one of this CPU's class.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import run as peers

#: Name, bits of a weight, file in peers/, requirements of its environment, options.
PEERS: tuple[tuple[str, int, str, str | None, dict[str, Any]], ...] = (
    ("luvc-export", 16, "luvc", None, {"plan": "none"}),
    ("OpenVINO GenAI", 16, "openvino_genai_vlm", "requirements.txt", {}),
    ("transformers SDPA bf16", 16, "transformers_sdpa", None, {"dtype": "bfloat16"}),
    ("luvc-export q8", 8, "luvc", None, {"plan": "none", "codes": "none_quantized", "backend": "openvino+openvino"}),
    ("luvc-export q8, auto", 8, "luvc", None, {"plan": "none", "codes": "none_quantized", "backend": "auto"}),
    ("OpenVINO GenAI int8", 8, "openvino_genai_vlm", "requirements.txt", {"weights": "int8"}),
    ("luvc-export q4", 4, "luvc", None, {"plan": "none", "codes": "none_q4", "backend": "openvino+openvino"}),
    ("luvc-export q4, auto", 4, "luvc", None, {"plan": "none", "codes": "none_q4", "backend": "auto"}),
    ("OpenVINO GenAI int4", 4, "openvino_genai_vlm", "requirements.txt", {"weights": "int4"}),
    ("onnxruntime-genai int4, LLM alone", 4, "onnxruntime_genai_llm", "requirements-genai.txt", {"weights": "int4"}),
)
HEADS = ("bits", "", "version", "first token s", "step ms", "tokens/s", "by luvc-export", "GB a step")
CLASSES = ("AMX-INT8", "AVX512-VNNI", "AVX-VNNI", "AVX2")
READ = ("GB/s read", "share", "peak GiB")


def main() -> None:
    """Prepare, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--runs", type=int, default=2, help="Timed runs of a peer in each round.")
    parser.add_argument("--new", type=int, default=25, help="Tokens of a run.")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="Names of the peers, whole; default: all.")
    parser.add_argument("--prepare", action="store_true", help="Make what is missing, and time nothing.")
    parser.add_argument("--page", action="store_true", help="Put the table into docs/results/decode-peers.md too.")
    args = parser.parse_args()
    common = {"checkpoint": str(args.out / "checkpoint"), "out": str(args.out), "runs": args.runs, "new": args.new}
    common |= {"steps": True, "dtype_stored": "fp32"}
    chosen = [peer for peer in PEERS if not args.only or peer[0] in args.only]
    results: Path = args.out / "decode.json"
    known: dict[str, Any] = {"cpu": peers.cpu(), "runs": {}}
    if results.is_file():
        known = json.loads(results.read_text(encoding="utf-8"))
    if known["cpu"] != peers.cpu():
        sys.exit(f"{results} has times of another machine ({known['cpu']}): move it away")
    runs: dict[str, list[dict[str, Any]]] = known["runs"]
    for number in range(1 if args.prepare else args.rounds):
        for name, _, file, requirements, options in chosen:
            if len(runs.get(name, [])) > number:
                continue
            what = "prepare" if args.prepare else "times"
            answer = peers.ask(what, file, requirements, {**common, **options})
            print(f"{name}: {answer.get('error', what)}", file=sys.stderr, flush=True)
            if not args.prepare and "error" not in answer:
                runs.setdefault(name, []).append(answer)
                results.with_suffix(".part").write_text(json.dumps(known, indent=1), encoding="utf-8")
                results.with_suffix(".part").replace(results)
    if not args.prepare:
        text = f"{peers.cpu()}\n\n{table(runs)}"
        print(text)
        if args.page:
            peers.put(peers.RESULTS / "decode-peers.md", f"decode, {cpu_class()}", text)


def cpu_class() -> str:
    """The widest of a CPU's instructions for products of 8 bits, or of floats: the page has a table for each."""
    from luvc_export.runtime.cpu_features import cpu_features

    features = cpu_features()
    return next((feature for feature in CLASSES if feature in features), "other CPUs")


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown of what was timed, in the order of ``PEERS``."""
    lines = ["| " + " | ".join((*HEADS, *READ)) + " |", "|---:|---|---" + "|---:" * (len(HEADS) + len(READ) - 3) + "|"]
    ours: dict[int, float] = {}
    for name, bits, *_ in PEERS:
        if name not in runs:
            continue
        first, steps, rates = (
            [value for one in runs[name] for value in one[key]] for key in ("ttft_s", "steps_s", "read_gb_s")
        )
        step, size = statistics.median(steps), runs[name][0].get("bytes")
        ours.setdefault(bits, step)
        shares = [size / one / rate / 1e9 for one, rate in zip(steps, rates, strict=True)] if size else []
        cells = [
            str(bits),
            name,
            runs[name][0]["version"],
            _spread(first, 2),
            _spread([1000 * one for one in steps], 0),
        ]
        cells += [
            f"{1 / step:.1f}",
            f"{step / ours[bits]:.2f}x",
            f"{size / 1e9:.2f}" if size else "",
            _spread(rates, 0),
        ]
        cells += [
            f"{statistics.median(shares):.2f}" if shares else "",
            f"{max(one['peak_gib'] for one in runs[name]):.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    middle, low, high = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


if __name__ == "__main__":
    main()
