"""Decoders of a bundle's plans, finished for targets: small graphs beside the bundle's own, over the same weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import onnx

from luvc_export.bundle.folder import Bundle, record
from luvc_export.bundle.graph_rules import check_graph
from luvc_export.bundle.manifest import FileRecord, GraphSet, Manifest, PlanEntry
from luvc_export.core import graph_io
from luvc_export.core.files.safe_files import write_new
from luvc_export.core.precision import find
from luvc_export.core.target import FINISHED, Role, TargetSpec
from luvc_export.errors import Progress
from luvc_export.export.surgeon import lint, run_passes
from luvc_export.export.surgeon.passes import (
    drop_lora_slots,
    drop_visual_rows,
    group_query_heads,
    split_head,
    split_kv_cache,
)

#: What a bundle's decoder, made for ONNX Runtime, may lack. Nothing else of it changes, quantised products neither.
_PASSES = (drop_lora_slots, drop_visual_rows, split_kv_cache, group_query_heads, split_head)


def finish(
    bundle: Bundle,
    plans: Iterable[str],
    targets: Mapping[str, Mapping[Role, TargetSpec]] = FINISHED,
    progress: Progress = lambda stage, done: None,
) -> Manifest:
    """Write the graphs of ``plans`` for ``targets`` into the bundle's folder; the manifest that names them.

    A graph that a target has no use for is not written: its role is the plan's own decoder's. Nothing is written of
    bundles without weights, and of plans that only TensorRT computes; where nothing is decoded, no steps and no head.

    Args:
        bundle: Its graphs lie in its folder; its manifest need not, and is not written.
        plans: Names of plans.
        targets: What each role of a target asks for (``TargetSpec``).
        progress: Told (stage, fraction done).

    Raises:
        BundleError: A graph is none, or not the one that the manifest names.
        CheckFailed: A pass broke its promise.
    """
    names = list(plans)
    manifest = bundle.manifest.without_sets(names, targets)
    sets, files = [*manifest.sets], dict(manifest.files)
    for name in names:
        entry = manifest.plans[name]
        if manifest.weights.mode == "none" or (entry.quantised and find(entry.quantised.precision).tensorrt_only):
            continue
        data = bundle.read(entry.decoder)
        check_graph(data, str(bundle.folder / entry.decoder))
        for target, asked in targets.items():
            roles = dict(asked)
            if not manifest.does.decodes:
                roles = {"prompts": replace(asked["prompts"], head="inside")}
            progress(stage := f"finishing decoder.{name} for {target}", 0.0)
            for slots in (False, True) if manifest.lora is not None else (False,):
                one, written = _finish(bundle.folder, data, name, entry, manifest, target, roles, slots)
                sets += [one] if one.files != {entry.decoder} else []
                files |= written
            progress(stage, 1.0)
    return replace(manifest, sets=tuple(sets), files=files)


def _finish(
    folder: Path,
    data: bytes,
    plan: str,
    entry: PlanEntry,
    manifest: Manifest,
    target: str,
    roles: Mapping[Role, TargetSpec],
    slots: bool,
) -> tuple[GraphSet, dict[str, FileRecord]]:
    """One set, of a decoder's ``data``, and the files that were written for it."""
    names: dict[Role, str] = {"prompts": entry.decoder}
    files: dict[str, FileRecord] = {}
    for role, spec in roles.items():
        model = onnx.load_model_from_string(data)
        asked = replace(spec, lora_slots=slots or manifest.lora is None)
        finished, report = run_passes(model, asked, manifest.dtype, passes=(*_PASSES, lint))
        is_head = graph_io.HEAD_ROWS in {one.name for one in finished.graph.input}
        if not any(one.fired for one in report.passes) or is_head != (role == "head"):
            continue
        names[role] = f"{role}.{plan}.{target}{'' if slots or manifest.lora is None else '.bare'}.onnx"
        written = finished.SerializeToString()
        check_graph(written, names[role])
        write_new(folder / names[role], written)
        files[names[role]] = record(folder / names[role])
    steps = names.get("steps", names["prompts"])
    return GraphSet(plan, target, names["prompts"], steps, names.get("head"), slots), files
