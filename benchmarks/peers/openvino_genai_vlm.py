"""OpenVINO GenAI, with and without CDPruner at the mean number of visual tokens a layer of the plan ``even``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import common


def prepare(options: dict[str, Any]) -> None:
    """Convert with optimum-intel: fp32, or fp16 where the checkpoint stores half precision."""
    place = folder(options)
    if not place.is_dir():
        tool = [str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino", "-m", options["checkpoint"]]
        stored = "fp32" if options.get("dtype_stored", "fp32") == "fp32" else "fp16"
        stored = options.get("weights", stored)
        subprocess.run([*tool, "--task", "image-text-to-text", "--weight-format", stored, str(place)], check=True)


def folder(options: dict[str, Any]) -> Path:
    """The converted model; ``weights`` (int8, int4) as optimum-intel compresses them by default."""
    return Path(options["out"]) / "-".join(["openvino", *([options["weights"]] if "weights" in options else [])])


def times(options: dict[str, Any]) -> dict[str, Any]:
    """Generate greedily; end tokens are ignored."""
    import json

    import openvino
    import openvino_genai

    hint = {"INFERENCE_PRECISION_HINT": "f32"} if options.get("fp32") else {}
    pipe = openvino_genai.VLMPipeline(str(folder(options)), "CPU", **hint)
    config = pipe.get_generation_config()
    config.do_sample, config.ignore_eos = False, True
    visual = float(common.CLIP_VISUAL if options.get("clip") else common.VISUAL)
    if options.get("pruned"):
        luvc = json.loads((Path(options["out"]) / "bundle-even" / "luvc.json").read_text(encoding="utf-8"))
        keep = luvc["plans"]["even"]["plan"]["llm"]["keep"]
        config.pruning_ratio = round(100 * (1 - sum(keep) / len(keep) / common.VISUAL))
        visual *= 1 - config.pruning_ratio / 100
    seen = []

    def generate(run: int, count: int) -> Any:
        config.max_new_tokens = config.min_new_tokens = count
        if options.get("clip"):
            shown = {"videos": [openvino.Tensor(common.clip(run))]}
        else:
            shown = {"images": [openvino.Tensor(common.picture(run)[None])]}
        done = pipe.generate(common.question(run), **shown, generation_config=config)
        seen.append(done.perf_metrics)
        return done

    if options.get("steps"):

        def ask(run: int, count: int) -> list[float]:
            begin, metrics = perf_counter(), generate(run, count).perf_metrics
            first = begin + metrics.get_ttft().mean / 1000
            return [begin, first, first + (count - 1) * metrics.get_tpot().mean / 1000]

        stored = (folder(options) / "openvino_language_model.bin").stat().st_size
        narrowed = 2 if "weights" not in options else 1  # fp32 on disk, bf16 when it computes
        return {
            **common.stepped(ask),
            "version": f"openvino-genai {openvino_genai.__version__.partition('-')[0]}",
            "bytes": stored // narrowed,
        }
    ttft, speed = common.timed(generate)
    last = seen[-1]
    print(f"input tokens {last.get_num_input_tokens()}, generated {last.get_num_generated_tokens()}", file=sys.stderr)
    computed = "fp32" if options.get("fp32") else "as it comes"
    record = common.answer(f"openvino-genai {openvino_genai.__version__}, {computed}", visual, ttft, speed)
    return record | {"input_tokens": last.get_num_input_tokens()}


if __name__ == "__main__":
    common.main(prepare, times)
