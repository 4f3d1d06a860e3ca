"""Build the bundled model's engines for this GPU, ask them and ONNX Runtime the same, and time the answers.

    python tests/gpu/time_engines.py      # to $OUT or gpu-check-out

Every target whose library is installed and whose compute capability is this GPU's is built, in each form of the cache
its parser takes. ``same`` says that every answer has ONNX Runtime's tokens.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from measuring import MEASUREMENTS, machine, require_gpu, write

from luvc_export import export_bundle, make_plan
from luvc_export.bundle.folder import load
from luvc_export.calibration.tasks import find
from luvc_export.core.target import Target
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.engines import library, targets
from luvc_export.errors import LuvcError, MachineError
from luvc_export.pipeline import build_engine
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.session import Session
from luvc_export.runtime.tensorrt.backend import TrtBackend


class HostChooses(TrtBackend):
    """The same engines with logits copied to the host at every step, as before they chose tokens."""

    samples = False  # type: ignore[assignment]


def usable(capability: str) -> list[Target]:
    """Targets whose engines can be built and run here; of those that would be the same engines, the first.

    Raises:
        MachineError: None; says why for each target of this GPU.
    """
    reasons, usable_ones = [], []
    for name in targets.names():
        target = targets.find(name)
        if target.device.compute_capability != capability:
            continue
        try:
            library.check_builds(target)
            library.load(target.library)
        except MachineError as error:
            reasons.append(f"{name}: {error.what}")
            continue
        graphs = replace(target.spec, name="")
        if not any((graphs, target.library) == (replace(each.spec, name=""), each.library) for each in usable_ones):
            usable_ones.append(target)
    if not usable_ones:
        raise MachineError(
            "no engine can be built for this GPU here",
            where=f"compute capability {capability}",
            got="; ".join(reasons) or "no target has it",
            fix="pip install tensorrt, or 'luvc-export[rtx]' on a GeForce or RTX GPU",
        )
    return usable_ones


def compare(expected: Session, ours: Session, questions: list[tuple[Any, str]], tokens: int) -> dict[str, Any]:
    """Ask both; medians of the engines' times in milliseconds, of every question's second answer."""
    same, timings = True, []
    for image, prompt in questions:
        wanted = expected.generate(image, prompt, max_new_tokens=tokens)
        for _ in range(3):  # the second prefill is captured, the third replayed
            got = ours.generate(image, prompt, max_new_tokens=tokens)
        same &= got.token_ids == wanted.token_ids
        timings.append(got.timings)
    row: dict[str, Any] = {"same": same}
    for name in ("vision_ms", "prefill_ms", "ttft_ms", "kv_mib"):
        row[name] = statistics.median(getattr(item, name) for item in timings)
    speeds = [item.tokens_per_s for item in timings if item.tokens_per_s]
    return row | {"tokens_per_s": statistics.median(speeds) if speeds else None}


def measure(folder: Path, questions: int, tokens: int) -> list[dict[str, Any]]:
    """A row for each target, KV form, and with and without CUDA graphs."""
    plan = make_plan(str(CHECKPOINT), "thirds", image_size=IMAGE_SIZE)
    export_bundle(str(CHECKPOINT), folder, {"thirds": plan}, image_size=IMAGE_SIZE)
    expected, task = Session(load(folder)), find("glyph")
    asked = [(case.images[0], case.prompt) for case in task.cases(task.report[0], 60, 5) if len(case.images) == 1]
    rows = []
    for target in usable(".".join(map(str, Gpu().info.capability))):
        for kv in target.kv_forms:
            bundle = build_engine(folder, target.name, kv=kv)
            for graphs, kind in ((True, TrtBackend), (True, HostChooses), (False, TrtBackend)):
                ours = Session(bundle, kind(bundle, target=target.name, graphs=graphs))
                row = {"target": target.name, "kv": kv, "cuda_graphs": graphs, "questions": questions}
                row["token_chosen_on"] = "gpu" if ours.backend.capabilities.picks_tokens else "host"
                rows.append(row | compare(expected, ours, asked[:questions], tokens))
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Write the measurement; exit code 3 without a GPU or TensorRT, 1 where an answer differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("-o", "--out", type=Path, default=MEASUREMENTS)
    options = parser.parse_args(arguments)
    try:
        require_gpu("cuda", options.out)
        with tempfile.TemporaryDirectory() as scratch:
            rows = measure(Path(scratch) / "bundle", options.questions, options.tokens)
        title = "Engines of the bundled model, plan thirds"
        print(write(options.out, "engines", title, machine("cuda"), rows).read_text(encoding="utf-8"))
    except LuvcError as error:
        print(f"time_engines: nothing was measured: {error}", file=sys.stderr)
        return error.exit_code
    return 0 if all(row["same"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
