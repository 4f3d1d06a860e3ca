"""Measure what docs/results/surgery.md says.

Run: python benchmarks/measure/surgery.py FOLDER. Exports the bundled checkpoint without surgery and with it once into
FOLDER, operates on the second for every target, compares and times in ONNX Runtime (one thread, CPU time of the
thread, median of paired runs), and builds TensorRT-RTX engines when it is installed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from luvc_export import make_plan
from luvc_export.core.target import ORT_CPU, TargetSpec
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.export.bundling import write_bundle
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.options import Options
from luvc_export.export.surgeon import run_passes
from luvc_export.export.surgeon.graph import size
from luvc_export.export.surgeon.report import REPORT_KEY

HERE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HERE / "tests" / "export" / "surgeon"))
from surgery_harness import INLINED, INPLACE, RTX, TRT103, feeds, inputs  # noqa: E402

CONCAT = TargetSpec("concat", "onnx", functions=True)
RUNS = 100
TEXT = (1, 1, 20, 0, 0)
STEP = (1, 0, 1, 1, 20)


def exported(folder: Path, surgery: bool) -> Path:
    """The bundle without surgery, traced without marks, or with it."""
    target = folder / ("operated" if surgery else "traced")
    if not (target / "luvc.json").is_file():
        checkpoint = open_checkpoint(str(CHECKPOINT))
        plans = {name: make_plan(checkpoint, name, image_size=IMAGE_SIZE) for name in ("none", "thirds")}
        write_bundle(checkpoint, plans, target, Options(IMAGE_SIZE, text_capacity=256, surgery=surgery))
    return target


def session(path: Path) -> Any:
    """ONNX Runtime on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(str(path), options)


def race(first: Path, second: Path, feeds: dict[str, Any], other: dict[str, Any] | None = None) -> str:
    """Largest difference of the outputs they share, and paired times."""
    a, b, other = session(first), session(second), other or feeds
    old = dict(zip([o.name for o in a.get_outputs()], a.run(None, feeds), strict=True))
    new = dict(zip([o.name for o in b.get_outputs()], b.run(None, other), strict=True))
    same = [n for n in old if old[n].shape == new[n].shape and old[n].size]
    worst = max(float(np.abs(old[n].astype(np.float64) - new[n]).max()) for n in same)
    times: list[list[float]] = [[], []]
    for _ in range(RUNS):
        for index, (ran, feed) in enumerate(((a, feeds), (b, other))):
            begin = time.thread_time()
            ran.run(None, feed)
            times[index].append(1000 * (time.thread_time() - begin))
    ratio = np.median(np.array(times[0]) / np.array(times[1]))
    return f"difference {worst:.1e}, {np.median(times[0]):.2f} -> {np.median(times[1]):.2f} ms, {ratio:.2f}x"


def slimmed(path: Path) -> int:
    """Nodes after onnxslim, Constant and Identity left out."""
    import onnxslim

    return size(onnxslim.slim(onnx.load(path)))


def main(folder: Path) -> None:
    """Print every figure."""
    traced, source = exported(folder, surgery=False), exported(folder, surgery=True)
    for half, plan in (("decoder", "thirds"), ("vision", "thirds"), ("decoder", "none"), ("vision", "none")):
        path = traced / f"{half}.{plan}.onnx"
        plain = onnx.load(path, load_external_data=False)
        model = onnx.load(source / path.name, load_external_data=False)
        graphs = {}
        for target in (ORT_CPU, INLINED, CONCAT):
            graphs[target.name] = source / f"{half}.{plan}.{target.name}.onnx"
            graphs[target.name].write_bytes(run_passes(model, target)[0].SerializeToString())
        inlined = onnx.load(graphs["inlined"], load_external_data=False)
        before = slimmed(path)
        print(f"{path.name}: traced {size(plain)}, after onnxslim {before}, after surgery with functions inlined"
              f" {size(inlined)} ({100 - 100 * size(inlined) / before:.0f} % fewer), that after onnxslim"
              f" {slimmed(graphs['inlined'])}")  # fmt: skip
        report = json.loads({item.key: item.value for item in model.metadata_props}[REPORT_KEY])[0]
        passes = (step for step in report["passes"] if step["fired"])
        steps = ", ".join(f"{step['name']} {step['fired']} ({step['before']} -> {step['after']})" for step in passes)
        print(f"  passes for {ORT_CPU.name}: {steps}")
        plan_ = make_plan(str(CHECKPOINT), plan, image_size=IMAGE_SIZE)
        if half == "vision":
            cases = {"one picture": inputs(model, plan_)["1 images"]}
        else:
            cases = {"prefill": feeds(model, plan_, TEXT), "decode": feeds(model, plan_, STEP)}
        for name, feed in cases.items():
            print(f"  {name}, before -> after: {race(path, graphs['cpu'], feed)}")
            print(f"  {name}, inlined beforehand -> fused nodes: {race(graphs['inlined'], graphs['cpu'], feed)}")
    inplace(source)
    rtx(source)


def inplace(source: Path, capacity: int = 64) -> None:
    """Caches of fixed capacity against the other forms, one decode step after 20 text tokens and an image."""
    for plan in ("thirds", "none"):
        path = source / f"decoder.{plan}.onnx"
        model = onnx.load(path, load_external_data=False)
        fixed = source / f"decoder.{plan}.inplace.onnx"
        inplace_graph = run_passes(model, INPLACE, text_capacity=capacity)[0]
        fixed.write_bytes(inplace_graph.SerializeToString())
        plan_ = make_plan(str(CHECKPOINT), plan, image_size=IMAGE_SIZE)
        for name, case in (("prefill", TEXT), ("decode", STEP)):
            inputs = feeds(model, plan_, case)
            text, past = inputs["input_ids"].shape[1], case[4]
            other = {key: item for key, item in inputs.items() if not key.startswith("past_key")}
            other |= {"past_text": np.array([past]), "past_groups": np.array([case[3]])}
            other["text_mask"] = np.arange(capacity)[None] < past + text
            for item in inplace_graph.graph.input:
                if item.name.startswith("past_key"):
                    held = np.zeros([d.dim_value or 1 for d in item.type.tensor_type.shape.dim], np.float32)
                    held[:, :, : inputs[item.name].shape[2]] = inputs[item.name]
                    other[item.name] = held
            for form in ("concat", "cpu"):
                print(f"decoder.{plan} {name}, {form} -> in place: "
                      f"{race(source / f'decoder.{plan}.{form}.onnx', fixed, inputs, other)}")  # fmt: skip


def rtx(source: Path) -> None:
    """Engines of both dialects, fp32 and fp16."""
    try:
        from test_rtx import SIZES, Log, parse
    except Exception as error:
        print(f"no TensorRT-RTX here: {error}")
        return
    targets: list[TargetSpec] = [RTX, TRT103]
    planned = make_plan(str(CHECKPOINT), "thirds", image_size=IMAGE_SIZE)
    for half in ("vision", "decoder"):
        model = onnx.load(source / f"{half}.thirds.onnx", load_external_data=False)
        for target in targets:
            for precision in ("fp32", "fp16"):
                path = source / f"{half}.thirds.{target.name}.{precision}.onnx"
                path.write_bytes(run_passes(model, target, precision)[0].SerializeToString())  # type: ignore[arg-type]
                log, begin = Log(), time.time()
                builder, network, errors = parse(path.read_bytes(), log, str(path))
                config, profile = builder.create_builder_config(), builder.create_optimization_profile()
                for index in range(network.num_inputs):
                    tensor = network.get_input(index)
                    sizes = SIZES.get(tensor.name, ([1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 100, 0]))
                    tokens = planned.vision_tokens if tensor.name in ("visual_position_ids", "visual_order") else None
                    sizes = tuple([tokens if s == 15 else s for s in size_] for size_ in sizes)
                    shape = list(tensor.shape)
                    fixed = [[h if h >= 0 else w for h, w in zip(shape, s, strict=True)] for s in sizes]
                    profile.set_shape(tensor.name, *fixed)
                config.add_optimization_profile(profile)
                engine = builder.build_serialized_network(network, config) if not errors else None
                unused = [line for line in log.lines if "unused" in line.lower()]
                built = f"{engine.nbytes / 2**20:.1f} MiB" if engine is not None else errors
                print(f"RTX {path.name}: {built} in {time.time() - begin:.0f} s; unused inputs: {unused or 'none'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
