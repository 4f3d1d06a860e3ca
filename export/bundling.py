"""Write a bundle: trace every plan, share one weights file, add tokenizer files, hash, rename into place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from luvc_export.bundle import folder as bundle
from luvc_export.bundle import graph_trust
from luvc_export.bundle.graph_rules import check_graph
from luvc_export.bundle.manifest import PlanEntry, StoredCodes, WeightsMode, WeightTensor
from luvc_export.bundle.reference import tensor_sha256
from luvc_export.core import tasks
from luvc_export.core.files.folders import copy_file, list_names, writing_to
from luvc_export.core.files.safe_files import write_new
from luvc_export.core.files.template_source import JINJA
from luvc_export.core.plan import Plan
from luvc_export.core.plan.plan_set import PlanSet
from luvc_export.core.target import ORT_CPU
from luvc_export.core.tasks import Embedding
from luvc_export.errors import CheckpointError, Progress, UsageError
from luvc_export.export import packed, trace, weights
from luvc_export.export.checkpoint import Checkpoint, checkpoint_json
from luvc_export.export.compression import scores
from luvc_export.export.compression.scorer_file import file_name, known, scorer_of
from luvc_export.export.exported_manifest import make_manifest
from luvc_export.export.llm.lora_slots import SlottedLayers
from luvc_export.export.llm.reduced_head import reduced
from luvc_export.export.llm.vectors import Judge, to_the_end
from luvc_export.export.options import Options, check_size
from luvc_export.export.processor import normalise
from luvc_export.export.reading.remarks import chat_template
from luvc_export.export.reading.sentence_transformers import embedding_of
from luvc_export.export.reading.tokenizer_files import TOKENIZER, tokenizer_files
from luvc_export.export.surgeon import run_passes
from luvc_export.export.surgeon.finish import finish
from luvc_export.export.surgeon.fused import bodies
from luvc_export.export.trace import forced_decoder, simplify
from luvc_export.version import VERSION

_TEMPLATE_FILES = (JINJA, "chat_template.json")


def write_bundle(
    checkpoint: Checkpoint,
    plans: Mapping[str, Plan],
    output: Path,
    options: Options,
    overwrite: bool = False,
    progress: Progress = lambda stage, done: None,
) -> bundle.Bundle:
    """Trace ``plans`` (the first is the default) and write a bundle to ``output``, whole or not at all.

    Raises:
        UsageError: The output exists, or an option does not fit.
        CheckpointError: The checkpoint lacks something.
        CheckFailed: A traced graph breaks the contract.
    """
    together = PlanSet.of(plans)
    padding = options.padding and options.fit == "pad"
    plans = {name: scores.described(plan).changed(padding=padding) for name, plan in together.items()}
    embedding = None if tasks.find(options.task).decodes else embedding_of(checkpoint, options)
    if embedding is not None and embedding.pooling != "last":
        plans = {name: to_the_end(plan, embedding, options.fit == "pad") for name, plan in plans.items()}
    together = together.changed(plans)
    check_size(checkpoint, together, options)
    tokenizer = tokenizer_files(checkpoint.folder).files
    mode = _weights_mode(checkpoint, options, TOKENIZER in tokenizer)
    chat_template(checkpoint.folder)
    with writing_to(output), bundle.writing(output.resolve(), overwrite) as folder:
        headless = embedding is not None and embedding.width is None
        skeleton = weights.skeleton(checkpoint, options.dtype, head=not headless)
        tensors = weights.stored(skeleton.model, checkpoint)
        if options.vocabulary is not None:
            reduced(skeleton, tensors, options.vocabulary.ids, options.dtype)
        if embedding is not None and embedding.labels is not None:
            reduced(skeleton, tensors, embedding.labels, options.dtype, Judge, "--task")
        place = {"copy": weights.copy_plan, "none": lambda t: {}}.get(
            mode, lambda t: weights.reference_plan(checkpoint.folder, t)
        )
        places: dict[str, WeightTensor] = place(tensors)
        linears = weights.quantised(skeleton.model, checkpoint)
        packing = partial(progress, "packing codes")
        codes = packed.place(folder, linears, options.dtype, packing) if linears else {}
        if options.strict:
            _check_strict(codes, options.dtype)
        slots = _slots(checkpoint, skeleton, next(iter(plans.values())), options)
        writer = _GraphWriter(checkpoint, skeleton, places, codes, folder, options, progress, slots, embedding)
        entries: dict[str, PlanEntry] = {}
        for name, plan in plans.items():
            alike = [entry.vision for entry in entries.values() if entry.plan.encoder == plan.encoder]
            size, beside = together.size_of(name, options.image_size), together.variants.get(name)
            entry = writer.write(plan, name, size, *alike[:1])
            entries[name] = replace(entry, variant_of=beside.of if beside else None)
        if mode == "copy":
            tell = _by_bytes(progress, "copying weights", sum(place.bytes for place in places.values()))
            weights.write_copy(folder, tensors, places, tell)
        for scorer in {scorer_of(plan) for plan in plans.values()} - {""}:
            write_new(folder / file_name(scorer), known(scorer).data)
        for name, data in tokenizer.items():
            write_new(folder / name, data)
        template = None if embedding is None else checkpoint.family.prompts(checkpoint.folder)
        if template is not None:
            write_new(folder / JINJA, template.encode())
        for name in _TEMPLATE_FILES if template is None else ():
            if (checkpoint.folder / name).is_file():
                copy_file(checkpoint.folder / name, folder / name, links=True)
        processor = checkpoint.folder / "processor_config.json"
        if template is None and processor.is_file() and (template := checkpoint_json(processor).get("chat_template")):
            write_new(folder / processor.name, json.dumps({"chat_template": template}).encode())
        if mode == "reference":
            _hash_reference(checkpoint.folder, places, writer.used, progress)
        files = {path.name: bundle.record(path) for path in (folder / name for name in list_names(folder))}
        stored = _codes(checkpoint, codes)
        manifest = make_manifest(checkpoint, options, entries, mode, places, writer.used, files, stored)
        manifest = replace(manifest, lora=slots.record() if slots else None, task=options.task, embedding=embedding)
        if options.surgery:
            manifest = finish(bundle.Bundle(folder, manifest), plans, progress=progress)
        bundle.write_manifest(folder, manifest)
    written = bundle.Bundle(output, manifest)
    graph_trust.remember_own(written)
    return written


def _weights_mode(checkpoint: Checkpoint, options: Options, reads: bool) -> WeightsMode:
    """How the bundle has its weights; ``none`` where the checkpoint was opened without.

    Raises:
        UsageError: Codes are to stay in the checkpoint.
        CheckpointError: There is no tokenizer to read with (``reads``), which answering takes.
    """
    mode: WeightsMode = options.weights if checkpoint.tensors else "none"
    if checkpoint.method is not None and options.weights != "copy":
        raise UsageError(
            "codes are packed anew for products, so they lie nowhere but in the bundle",
            where="--no-weights" if options.weights == "none" else "--weights",
            got=f"a checkpoint of quant_method {checkpoint.method}, weights {options.weights}",
            expected="--weights copy",
        )
    if mode != "none" and not reads:
        raise CheckpointError(
            "the checkpoint has no fast tokenizer",
            where=str(checkpoint.folder),
            expected="tokenizer.json",
            fix="AutoTokenizer.from_pretrained(MODEL).save_pretrained(MODEL) writes one",
        )
    return mode


@dataclass
class _GraphWriter:
    """Traces and saves graphs into ``folder``; ``used`` are the names of the tensors that they take."""

    checkpoint: Checkpoint
    skeleton: weights.Skeleton
    places: dict[str, WeightTensor]
    codes: Mapping[str, packed.Placed]
    folder: Path
    options: Options
    progress: Progress
    slots: SlottedLayers | None
    embedding: Embedding | None = None
    used: set[str] = field(default_factory=set)

    def write(self, plan: Plan, name: str, size: tuple[int, int], seen: str | None = None) -> PlanEntry:
        """The graphs of a plan; ``seen`` is a vision graph of the bundle that serves it too."""
        family, config = self.checkpoint.family, self.checkpoint.config
        shape = replace(family.decoder_shape(config), hidden=family.visual_width(config))
        video = family.video(config) if self.options.video else None
        frames = video.frames if video else 1
        vision = family.vision(self.skeleton.model, plan, normalise(self.checkpoint))
        decoder = family.decoder(self.skeleton.model, plan)
        decoder.pooled = self.embedding
        flat, dtype = trace.FlatDecoder(decoder), weights.DTYPES[self.options.dtype]
        layers = [layer for layer, _, _ in decoder.plan.chooses] if self.options.debug else []
        files = [f"vision.{name}.onnx", f"decoder.{name}.onnx", *([f"decoder.{name}.debug.onnx"] if layers else [])]
        steps: list[tuple[str, Any, Callable[[], ir.Model]]] = [
            (files[0], vision, lambda: trace.trace_vision(vision, plan, size, frames, self.options.surgery)),
            (files[1], flat, lambda: trace.trace_decoder(decoder, shape, dtype, self.options.surgery, self.slots)),
        ]
        for file, module, traced in steps[1:] if seen else steps:
            self.progress(f"tracing {file}", 0.0)
            model = traced()
            inputs = weights.detach(model, module, self.skeleton.names)
            self.progress(f"tracing {file}", 0.6)
            simplify(model)
            bodies.attach(model, plan)
            level = packed.ROUNDED if self.options.round_activations else packed.EXACT
            weights.attach(model, packed.insert(model, inputs, self.codes, level), self.places)
            self.used |= weights.used(model)
            model.producer_name, model.producer_version = "luvc-export", VERSION
            model.metadata_props["luvc.plan"] = json.dumps(plan.to_json())
            trace.check(model)
            if layers and module is flat:
                _write_graph(self.folder / files[2], ir.to_proto(forced_decoder(model, layers)))
            proto = ir.to_proto(model)
            if self.options.surgery:
                proto, _ = run_passes(proto, ORT_CPU, self.options.dtype)  # type: ignore[arg-type]
            _write_graph(self.folder / file, proto)
            self.progress(f"tracing {file}", 1.0)
        debug = files[2] if len(files) > 2 else None
        return PlanEntry(plan, seen or files[0], files[1], debug, size=size, precision=self.options.dtype)


def _slots(checkpoint: Checkpoint, skeleton: weights.Skeleton, plan: Plan, options: Options) -> SlottedLayers | None:
    """The products that adapters may be beside; every plan's decoder has the same."""
    if options.lora_slots is None:
        return None
    layers = checkpoint.family.decoder(skeleton.model, plan).layers
    return SlottedLayers(layers, skeleton.names, options.lora_slots)


def _check_strict(placed: Mapping[str, packed.Placed], dtype: str) -> None:
    """Refuse FP8, which no back-end here computes with.

    Raises:
        UsageError: There is some.
    """
    real = [one for one in placed.values() if one.kind == "fp8"]
    if real:
        numbers = sum(one.shape[0] * one.shape[1] for one in real)
        width, rounded = (4, "") if dtype == "fp32" else (2, ", rounded to 16 bits after their scales")
        before, after = numbers / 2**30, width * numbers / 2**30
        raise UsageError(
            "weights of this checkpoint are widened when they are loaded",
            where="--strict",
            got=f"{len(real)} FP8 weights, {before:.2f} GiB that become {after:.2f}{rounded}",
            expected="int4 or int8 codes, which products read as they are",
            fix="leave --strict out, or take a checkpoint in AWQ's, GPTQ's or compressed-tensors' codes",
        )


def _codes(checkpoint: Checkpoint, placed: Mapping[str, packed.Placed]) -> StoredCodes | None:
    if checkpoint.stored is None:
        return None
    kinds = {name: one.kind for name, one in placed.items()}
    total = sum(one.bytes for one in placed.values())
    numbers = sum(one.shape[0] * one.shape[1] for one in placed.values())
    return StoredCodes(checkpoint.stored.method, packed.FILE, kinds, total, numbers, checkpoint.stored.notes)


def _write_graph(path: Path, proto: Any) -> None:
    """Write a graph; what loading would refuse is not written."""
    data = proto.SerializeToString()
    check_graph(data, path.name)
    write_new(path, data)


def _hash_reference(folder: Path, places: dict[str, WeightTensor], used: set[str], progress: Progress) -> None:
    """Record what the tensors are that stay in the checkpoint: nothing else says so once it is written."""
    tell = _by_bytes(progress, "hashing weights", sum(places[name].bytes for name in used))
    for name in used:
        place = places[name]
        digest = tensor_sha256(folder / place.file, place.offset, place.bytes, tell)
        places[name] = replace(place, sha256=digest)


def _by_bytes(progress: Progress, stage: str, total: int) -> Callable[[int], None]:
    """Tells ``progress``, after each so many bytes, what share of ``total`` is done."""
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        progress(stage, done / max(total, 1))

    return tell
