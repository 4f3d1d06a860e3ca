"""luvc-export itself, on OpenVINO or ONNX Runtime. Its time to first token includes opening and fitting the picture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import common

from luvc_export.core.plan.request import EncoderPruneRequest

#: Plans that have no name of their own: ``early`` merges to a half after the encoder's first full-attention block; in
#: ``halved`` half of the units leave after a third of its depth, and come back.
PLANS: dict[str, dict[str, Any]] = {
    "halved": {"schedule": "even", "encoder_prune": EncoderPruneRequest(0.5)},
    "early": {"schedule": "thirds", "merge_keep": 0.5, "merge_at": (7,)},
}


def prepare(options: dict[str, Any]) -> None:
    """Export the plan once."""
    import luvc_export

    if options.get("clip") and not folder(options).is_dir():
        size, name = (common.CLIP_SIDE, common.CLIP_SIDE), options["plan"]
        joint = {"joint_frames": common.FRAMES} if name != "none" else {}
        plans = luvc_export.make_plans(options["checkpoint"], [name], image_size=size, **joint)
        whole = {"image_size": size, "text_capacity": 512, "weights": "reference", "video": True}
        luvc_export.export_bundle(options["checkpoint"], folder(options), plans, **whole)
    elif not folder(options).is_dir():
        size = (common.SIDE, common.SIDE)
        name = options["plan"]
        asked = PLANS.get(name, {"schedule": name})
        plan = luvc_export.make_plan(options["checkpoint"], image_size=size, **asked)
        luvc_export.export_bundle(
            options["checkpoint"],
            folder(options),
            {options["plan"]: plan},
            image_size=size,
            text_capacity=512,
            weights="reference",
        )
    if options.get("int8") and not (codes(options) / "luvc.json").is_file():
        quantised = str(Path(__file__).parents[1] / "measure" / "openvino" / "quantised.py")
        words = [str(codes(options).parent), str(folder(options)), options["plan"]]
        words += ["--prepare", "--only", options["int8"]]
        subprocess.run([sys.executable, quantised, *words], check=True)
    elif options.get("codes") and not (codes(options) / "luvc.json").is_file():
        halves = str(Path(__file__).parents[1] / "measure" / "times" / "halves.py")
        words = [str(codes(options)), str(folder(options)), options["plan"], "--prepare", "--head"]
        subprocess.run([sys.executable, halves, *words], check=True)


def folder(options: dict[str, Any]) -> Path:
    """The plan's bundle."""
    return Path(options["out"]) / f"{'clip' if options.get('clip') else 'bundle'}-{options['plan']}"


def clip_times(options: dict[str, Any]) -> dict[str, Any]:
    """Time one plan for clips: its budget is for the whole of one, but for ``none``."""
    import luvc_export

    session = luvc_export.load_bundle(folder(options), backend="openvino", plan=options["plan"])
    timings = []

    def generate(run: int, count: int) -> None:
        asked = {"prompt": common.question(run), "video": list(common.clip(run)), "fps": common.CLIP_FPS}
        done = session.generate(**asked, max_new_tokens=count, min_new_tokens=count)
        timings.append((done.timings, done.visual_tokens, f"{done.backend} {done.arithmetic}"))

    ttft, speed = common.timed(generate)
    prefill = [timing.prefill_ms / 1000 for timing, _, _ in timings[1::2]]
    _, visual, how = timings[-1]
    return common.answer(f"{luvc_export.__version__}, {how}", sum(visual) / len(visual), ttft, speed, prefill)


def codes(options: dict[str, Any]) -> Path:
    """The bundle with the LLM, head included, in 8 and 4 bits too; ``int8`` names a variant with one range for all."""
    name = f"{'int8' if options.get('int8') else 'codes'}-{options['plan']}"
    return Path(options["out"]) / name / options.get("int8", "").replace(" ", "-")


def times(options: dict[str, Any]) -> dict[str, Any]:
    """Time one plan, or the one that ``codes`` names."""
    if options.get("clip"):
        return clip_times(options)
    import luvc_export
    from luvc_export.runtime.bench.case import BenchCase
    from luvc_export.runtime.bench.loaded_case import LoadedCase

    backend, arithmetic = options.get("backend", "openvino"), options.get("arithmetic", "auto")
    case = BenchCase(
        codes(options) if options.get("codes") else folder(options),
        plan=options.get("codes", options["plan"]),
        text=common.TEXT,
        new_tokens=common.NEW,
        backend=backend,
        arithmetic=arithmetic,
    )
    runner = LoadedCase(case)
    version = luvc_export.__version__
    if options.get("steps"):

        def ask(run: int, count: int) -> list[float]:
            begin, sample = perf_counter(), runner.run(case)
            first = begin + sample.ttft_ms / 1000
            return [begin, first, first + (count - 1) / sample.tokens_per_s]

        measured, facts = common.stepped(ask), runner.facts(case)
        return {**measured, "version": f"{version}, {facts.backend} {facts.arithmetic}", "bytes": facts.decode_bytes}
    runner.run(case)
    samples = [runner.run(case) for _ in range(common.RUNS)]
    keep = runner.session.plan.keep
    ttft, speed = [s.ttft_ms / 1000 for s in samples], [s.tokens_per_s for s in samples]
    prefill = [s.prefill_ms / 1000 for s in samples]
    facts = runner.facts(case)
    version = f"{version}, {facts.backend} {facts.arithmetic}"
    record = common.answer(version, sum(keep) / len(keep), ttft, speed, prefill)
    return record | {
        "load_s": facts.load_ms / 1000,
        "first_answer_s": facts.first_ms / 1000,
        "prefill_flops": facts.prefill_flops,
        "decode_bytes": facts.decode_bytes,
    }


if __name__ == "__main__":
    common.main(prepare, times)
