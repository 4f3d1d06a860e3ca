"""The bundled models: exported, or what was exported of them reused, and what their times say of a larger one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luvc_export.cli import options

#: What is said beside times: the LLM and the picture of a model that people use.
_LARGE, _LARGE_GRID = "qwen2.5-vl-3b", (32, 32)


def exported(model: str, folder: Path, names: Sequence[str], quiet: bool, **how: Any) -> Path:
    """Export a bundled checkpoint with plans, the default one first, or reuse what this version wrote of it."""
    from luvc_export.bundle.folder import MANIFEST, load
    from luvc_export.demo import IMAGE_SIZE
    from luvc_export.export.checkpoint import open_checkpoint
    from luvc_export.pipeline import export_bundle, make_plan
    from luvc_export.version import VERSION

    checkpoint = open_checkpoint(model)
    plans = {name: make_plan(checkpoint, name, image_size=IMAGE_SIZE) for name in names}
    if (folder / MANIFEST).is_file():
        manifest = load(folder, task=None).manifest
        held = {name: entry.plan.changed(padding=False) for name, entry in manifest.plans.items()}  # export's to say
        same = manifest.default_plan == names[0] and plans.items() <= held.items()
        if same and manifest.source.sha256 == checkpoint.sha256 and manifest.tools.get("luvc-export") == VERSION:
            return folder
    with options.progress(quiet) as tell:
        export_bundle(checkpoint, folder, plans, image_size=IMAGE_SIZE, overwrite=True, progress=tell, **how)
    return folder


def at_size(plans: Sequence[str], times: dict[str, Any], rounds: int) -> str:
    """What the times are, and what a larger model gains: this one is too small for a plan's FLOPs to show in time."""
    from transformers import AutoConfig

    from luvc_export.core.plan.cost import cost
    from luvc_export.core.planning import LlmRequest, PlanRequest, solve
    from luvc_export.export import families
    from luvc_export.export.synthetic import presets

    preset = presets.find(_LARGE)
    family = families.find(preset.config["model_type"], preset.source)
    config = AutoConfig.for_model(**preset.config)
    llm, encoder = family.decoder_shape(config), family.encoder_shape(config)
    none, *rest = (times[name]["ttft_ms"] for name in plans)
    prefill = times["none"]["prefill_ms"]
    seen = ", ".join(f"{name} {none / value:.2f}x" for name, value in zip(plans[1:], rest, strict=True))
    saved = ", ".join(
        f"{name} {cost(solve(PlanRequest(LlmRequest(name)), _LARGE_GRID, llm, encoder), llm).flops_ratio:.2f}x"
        for name in plans[1:]
    )
    return (
        f"times: medians of {rounds} warm answers in turns; first token against none: {seen}. All prefill of this "
        f"model takes {prefill:.1f} ms, too little for fewer FLOPs to show; for {llm.layers} layers of {_LARGE} and "
        f"{_LARGE_GRID[0] * _LARGE_GRID[1]} visual tokens the LLM's prefill has fewer FLOPs by: {saved}."
    )
