"""onnxruntime-genai: its builder takes the LLM of Qwen2.5-VL and makes no vision graph, so the LLM alone is timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import common


def prepare(options: dict[str, Any]) -> None:
    """Build the LLM with token ids as input, in fp32 or ``weights``."""
    place = folder(options)
    if not (place / "genai_config.json").is_file():
        tool = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", options["checkpoint"], "-o", str(place)]
        subprocess.run(
            [*tool, "-p", options.get("weights", "fp32"), "-e", "cpu", "-c", str(place / "cache")], check=True
        )


def folder(options: dict[str, Any]) -> Path:
    """The built model."""
    return Path(options["out"]) / "-".join(["genai", *([options["weights"]] if "weights" in options else [])])


def times(options: dict[str, Any]) -> dict[str, Any]:
    """Generate greedily from 1,088 token ids."""
    import onnxruntime_genai as og

    config = og.Config(str(folder(options)))
    threads = {"intra_op_num_threads": os.cpu_count()}  # its own default is half of them
    config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
    model = og.Model(config)

    def generate(run: int, count: int) -> list[float]:
        ids = common.text_ids(run) * ((common.VISUAL + common.TEXT) // common.TEXT)
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(ids) + count, min_length=len(ids) + count, do_sample=False)
        marks = [perf_counter()]
        generator = og.Generator(model, params)
        generator.append_tokens(ids)
        for _ in range(count):
            generator.generate_next_token()
            marks.append(perf_counter())
        return marks

    if options.get("steps"):
        return {**common.stepped(generate), "version": f"onnxruntime-genai {og.__version__}"}
    prefill, speed = common.timed(generate)
    return common.answer(f"onnxruntime-genai {og.__version__}", common.VISUAL, None, speed, prefill)


if __name__ == "__main__":
    common.main(prepare, times)
