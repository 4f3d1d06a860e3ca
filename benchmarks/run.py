"""One random-weight model and prompt through luvc-export and its peers, one table of ratios.

Run: python benchmarks/run.py OUT [--layers 9] [--encoder-blocks 8] [--rounds 2] [--runs 2] [--only NAME ...] [--page]

Makes the checkpoint (Qwen2.5-VL-3B's layer shapes, fp32), exports it, makes environments from the requirements files,
converts for each peer, then times one process after another, in turns, all cores: each peer as it comes, which is
the arithmetic it chooses by itself, and in fp32. Every run asks about another picture with another prompt. What is made
stays in OUT, and so do times: what was interrupted goes on where it stopped. A peer that cannot run says why in the
table. A peer is a file in peers/ with ``prepare`` and ``times``. ``--page`` also puts the table into
docs/results/first-token.md (of clips, first-token-clips.md), where it names this number of layers and blocks;
``--figures`` puts the times of plans with names, and of what they are held against, into
luvc_export/core/named_plans.json; some of them alone beside `none`.
``--clip`` asks about clips of 16 frames in place of pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE.parent / "docs" / "results"
PICTURE = "896x896"
#: Name, file in peers/, the requirements of its own environment (None: the project's), options.
PEERS: tuple[tuple[str, str, str | None, dict[str, Any]], ...] = (
    ("luvc-export none", "luvc", None, {"plan": "none"}),
    ("luvc-export safe", "luvc", None, {"plan": "safe"}),
    ("luvc-export staged", "luvc", None, {"plan": "staged"}),
    ("luvc-export lean", "luvc", None, {"plan": "lean"}),
    ("luvc-export leaner", "luvc", None, {"plan": "leaner"}),
    ("luvc-export luvc", "luvc", None, {"plan": "luvc"}),
    (
        "luvc-export quick",
        "luvc",
        None,
        {"plan": "safe", "codes": "safe_int8", "int8": "int8 encoder", "backend": "auto"},
    ),
    ("luvc-export safe int8", "luvc", None, {"plan": "safe", "codes": "safe_int8", "int8": "int8", "backend": "auto"}),
    ("luvc-export lean int8", "luvc", None, {"plan": "lean", "codes": "lean_int8", "int8": "int8", "backend": "auto"}),
    ("luvc-export luvc-literal", "luvc", None, {"plan": "luvc-literal"}),
    ("luvc-export even", "luvc", None, {"plan": "even"}),
    ("luvc-export thirds", "luvc", None, {"plan": "thirds"}),
    ("luvc-export early", "luvc", None, {"plan": "early"}),
    ("luvc-export halved", "luvc", None, {"plan": "halved"}),
    ("OpenVINO GenAI", "openvino_genai_vlm", "requirements.txt", {}),
    ("OpenVINO GenAI, CDPruner", "openvino_genai_vlm", "requirements.txt", {"pruned": True}),
    ("transformers SDPA bf16", "transformers_sdpa", None, {"dtype": "bfloat16"}),
    ("luvc-export even fp32", "luvc", None, {"plan": "even", "arithmetic": "fp32"}),
    ("luvc-export none fp32", "luvc", None, {"plan": "none", "arithmetic": "fp32"}),
    ("luvc-export thirds fp32", "luvc", None, {"plan": "thirds", "arithmetic": "fp32"}),
    ("luvc-export even on ONNX Runtime", "luvc", None, {"plan": "even", "backend": "cpu"}),
    ("luvc-export none on ONNX Runtime", "luvc", None, {"plan": "none", "backend": "cpu"}),
    ("luvc-export safe fp32", "luvc", None, {"plan": "safe", "arithmetic": "fp32"}),
    ("luvc-export lean fp32", "luvc", None, {"plan": "lean", "arithmetic": "fp32"}),
    ("luvc-export safe on ONNX Runtime", "luvc", None, {"plan": "safe", "backend": "cpu"}),
    ("luvc-export lean on ONNX Runtime", "luvc", None, {"plan": "lean", "backend": "cpu"}),
    ("luvc-export leaner on ONNX Runtime", "luvc", None, {"plan": "leaner", "backend": "cpu"}),
    ("OpenVINO GenAI fp32", "openvino_genai_vlm", "requirements.txt", {"fp32": True}),
    ("OpenVINO GenAI, CDPruner fp32", "openvino_genai_vlm", "requirements.txt", {"pruned": True, "fp32": True}),
    ("transformers SDPA fp32", "transformers_sdpa", None, {}),
    ("transformers.exporters, LLM alone", "transformers_onnx", None, {}),
    ("onnxruntime-genai, LLM alone", "onnxruntime_genai_llm", "requirements-genai.txt", {}),
)
#: The same of clips: 16 frames of 448x448 (``--clip``).
CLIPS: tuple[tuple[str, str, str | None, dict[str, Any]], ...] = (
    ("luvc-export none", "luvc", None, {"plan": "none"}),
    ("luvc-export film", "luvc", None, {"plan": "film"}),
    ("luvc-export safe", "luvc", None, {"plan": "safe"}),
    ("OpenVINO GenAI", "openvino_genai_vlm", "requirements.txt", {}),
    ("transformers SDPA bf16", "transformers_sdpa", None, {"dtype": "bfloat16"}),
)


def main() -> None:
    """Prepare, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=9)
    parser.add_argument("--encoder-blocks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--runs", type=int, default=2, help="Timed runs of a peer in each round.")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="Names of the peers, whole; default: all.")
    parser.add_argument("--clip", action="store_true", help="Ask about clips of 16 frames, not about pictures.")
    parser.add_argument("--results", help="File in OUT; default: results.json, or clips.json.")
    parser.add_argument("--prepare", action="store_true", help="Make what is missing, and time nothing.")
    parser.add_argument("--dtype", default="fp32", help="What the checkpoint's weights are stored in: fp32 or bf16.")
    parser.add_argument("--again", action="store_true", help="Forget the times that are in --results.")
    page_help = "Put the table into its page of docs/results too, where the page names these shapes, and then NAME."
    parser.add_argument("--page", nargs="?", const="", metavar="NAME", help=page_help)
    parser.add_argument("--figures", action="store_true", help="Put the times of named plans beside what they keep.")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    common: dict[str, Any] = {"checkpoint": str(args.out / "checkpoint"), "out": str(args.out), "runs": args.runs}
    common |= {"dtype_stored": args.dtype, "clip": args.clip}
    if args.clip and args.figures:
        sys.exit("--figures is of pictures: the record has no place for times of clips")
    if not (args.out / "checkpoint").is_dir():
        sizes = ["--layers", str(args.layers), "--encoder-blocks", str(args.encoder_blocks), "--dtype", args.dtype]
        command = [sys.executable, "-m", "luvc_export", "make-random", "qwen2.5-vl-3b", "-o", common["checkpoint"]]
        subprocess.run([*command, *sizes], check=True)
    chosen = [peer for peer in (CLIPS if args.clip else PEERS) if not args.only or peer[0] in args.only]
    results: Path = args.out / (args.results or ("clips.json" if args.clip else "results.json"))
    known = {} if args.again or not results.is_file() else json.loads(results.read_text())
    if known.get("cpu", cpu()) != cpu():
        sys.exit(f"{results} has times of another machine ({known['cpu']}): give --again, or --results another file")
    runs_of: dict[str, list[dict[str, Any]]] = known.get("runs", {})
    errors: dict[str, str] = {}
    for name, file, requirements, options in chosen:
        prepared = ask("prepare", file, requirements, {**common, **options})
        if "error" in prepared:
            errors[name] = prepared["error"]
    if args.prepare:
        print(json.dumps(errors, indent=1))
        return
    for number in range(args.rounds):
        for name, file, requirements, options in chosen:
            if name in errors or len(runs_of.get(name, [])) > number:
                continue
            measured = ask("times", file, requirements, {**common, **options})
            if "error" in measured:
                errors[name] = measured["error"]
            else:
                runs_of.setdefault(name, []).append(measured)
            whole = {"runs": runs_of, "errors": errors, "cpu": cpu()}
            results.with_suffix(".part").write_text(json.dumps(whole, indent=1))
            results.with_suffix(".part").replace(results)
    text = f"{cpu()}\n\n{table([name for name, *_ in chosen], runs_of, errors)}"
    print(text)
    stored = f", weights in {args.dtype}" * (args.dtype != "fp32")
    if args.page is not None:
        page = RESULTS / ("first-token-clips.md" if args.clip else "first-token.md")
        place = f"{args.layers} + {args.encoder_blocks}{stored}{', clips' * args.clip}"
        put(page, ", ".join(filter(None, (place, args.page))), text)
    if args.figures:
        record_times(args.out, f"{args.layers} layers and {args.encoder_blocks} blocks{stored}", runs_of)


def record_times(out: Path, shapes: str, runs_of: dict[str, list[dict[str, Any]]]) -> None:
    """Put the medians and ranges of first tokens into the record of named plans; plans of other recipes are refused."""
    from luvc_export.bundle import folder as bundles
    from luvc_export.core.named_plans import FIGURES, NAMED
    from luvc_export.core.plan import figures
    from luvc_export.core.planning import recipe_of

    rows: list[dict[str, Any]] = []
    for name, runs in runs_of.items():
        plan = name.removeprefix("luvc-export ")
        recipe = figures.recipe(plan)
        if plan != name and plan not in ("none", *NAMED, *figures.INT8):
            continue
        if recipe in NAMED:
            bundle = bundles.load(out / f"bundle-{recipe}")
            if recipe_of(bundle.entry(recipe).plan, bundle.manifest.decoder) != recipe:
                sys.exit(f"{bundle.folder} holds another recipe than today's {recipe}: delete it and its times")
        times = [seconds for run in runs for seconds in run["ttft_s"]]
        key = NAMED[recipe].key if recipe in NAMED else "none" if plan == "none" else None
        middle = [round(value, 3) for value in (statistics.median(times), min(times), max(times))]
        rows.append({"plan": plan, "key": key, "seconds": middle, "runs": len(times)})
    record = json.loads(FIGURES.read_text(encoding="utf-8"))
    about = {"cpu": cpu(), "shapes": f"{shapes} of Qwen2.5-VL-3B's shapes", "picture": PICTURE, "text": 64}
    standing = {row["plan"]: row for row in record["first_token"]["rows"]}
    timed = {row["plan"]: row for row in rows}
    if about == record["first_token"]["about"] and {*standing} - {*timed}:  # a part of it again, beside none
        beside = timed.pop("none")["seconds"][0]
        rows = [*(standing | {name: {**row, "beside": beside} for name, row in timed.items()}).values()]
    order = ["none", *NAMED, *figures.INT8]
    rows.sort(key=lambda row: order.index(row["plan"]) if row["plan"] in order else len(order))
    FIGURES.write_text(figures.written({**record, "first_token": {"about": about, "rows": rows}}), encoding="utf-8")


def put(page: Path, name: str, text: str) -> None:
    """Replace what stands in ``page`` between the comments ``peers NAME`` and ``end of peers NAME``."""
    begin, end = f"<!-- peers {name} -->\n", f"<!-- end of peers {name} -->\n"
    before, marker, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ends, after = rest.partition(end)
    if not marker or not ends:
        sys.exit(f"{page} has no place for this table: no {begin.strip()} with {end.strip()} after it")
    page.write_text(f"{before}{begin}\n{text}\n\n{end}{after}", encoding="utf-8")


def cpu() -> str:
    """Its name, and what of matrix instructions it has."""
    from luvc_export.runtime.cpu_features import cpu_features

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    cores = len(os.sched_getaffinity(0))
    return f"{name}, {cores} cores: {', '.join(cpu_features()) or 'no features known'}"


def environment(requirements: str | None) -> str:
    """Python of the environment with ``requirements``, made if it is not there; the project's for None."""
    if requirements is None:
        return sys.executable
    folder = HERE / requirements.replace("requirements", ".venv").removesuffix(".txt")
    if not folder.is_dir():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin/pip"), "install", "-q", "-r", str(HERE / requirements)], check=True)
    return str(folder / "bin/python")


def ask(what: str, file: str, requirements: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Call ``what`` of a peer in a process of its own; its last line is the answer."""
    command = [environment(requirements), str(HERE / "peers" / f"{file}.py"), what, json.dumps(options)]
    alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # numpy's own threads would spin on beside what is timed
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=alone)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode == 0 and lines:
        answer: dict[str, Any] = json.loads(lines[-1])
        return answer
    last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or [f"exit code {done.returncode}"]
    return {"error": last[0][:200]}


def table(names: list[str], runs_of: dict[str, list[dict[str, Any]]], errors: dict[str, str]) -> str:
    """Markdown: medians, and each time to first token and of the LLM by that of the first of ``names``."""
    heads = ["", "version", "visual tokens a layer", "first token s", f"by {names[0]}", "LLM s", f"by {names[0]}"]
    heads += ["decode tokens/s", "load s", "first answer s", "peak GiB"]
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in names:
        if name in errors:
            rows.append(f"| {name} | | | cannot run: {errors[name]} |" + " |" * (len(heads) - 4))
            continue
        runs = runs_of[name]
        cells = [name, runs[0]["version"], f"{runs[0]['visual_tokens']:.0f}"]
        for what in ("ttft_s", "prefill_s"):
            cells += spread(
                [t for run in runs for t in run[what]], [t for run in runs_of.get(names[0], []) for t in run[what]]
            )
        speed = [s for run in runs for s in run["tokens_per_s"]]
        peak = max(run["peak_gib"] for run in runs)
        rate = f"{statistics.median(speed):.2f}" if speed else ""
        cold = [
            f"{statistics.median(run[what] for run in runs):.1f}" if what in runs[0] else ""
            for what in ("load_s", "first_answer_s")
        ]
        rows.append("| " + " | ".join([*cells, rate, *cold, f"{peak:.1f}"]) + " |")
    return "\n".join(rows)


def spread(times: list[float], base: list[float]) -> tuple[str, str]:
    """Median with its range, and its ratio to the median of ``base``; empty where nothing was timed."""
    if not times:
        return "", ""
    middle = statistics.median(times)
    return (
        f"{middle:.2f} ({min(times):.2f} to {max(times):.2f})",
        f"{middle / statistics.median(base):.2f}x" if base else "",
    )


if __name__ == "__main__":
    main()
