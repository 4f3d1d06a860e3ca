"""What can be compared, by a short description such as ``hf:MODEL``, ``torch:MODEL``, ``onnx:BUNDLE``: ``KINDS``."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import ImageInput, Manifest
from luvc_export.calibration.runners.base import Runner, ends
from luvc_export.calibration.runners.bundle import BundleCalls, EngineCalls
from luvc_export.calibration.runners.canvas import Tokens, canvas_for, check_shown, prepare
from luvc_export.calibration.runners.compressed import TorchCalls
from luvc_export.calibration.runners.compressed import load_model as load_model
from luvc_export.calibration.runners.compressed import quiet as quiet
from luvc_export.calibration.runners.graph import GraphRunner, ObservedCalls, Prompting
from luvc_export.calibration.runners.huggingface import HuggingFace
from luvc_export.core.plan import Plan, Sharing
from luvc_export.core.precision import CODED_CACHES
from luvc_export.demo import checkpoint_named
from luvc_export.errors import UsageError, did_you_mean
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint
from luvc_export.runtime.prompt.encoder import PromptEncoder
from luvc_export.runtime.tensorrt.backend import TrtBackend

KINDS = ("hf", "torch", "onnx", "openvino", "trt")


@dataclass(frozen=True)
class Spec:
    """A runner's description: kind, path or hub id, and the plan named after ``#`` (None for the default).

    ``target`` says whose engines, where a bundle has some for several.
    """

    kind: str
    model: str
    plan: str | None = None
    target: str | None = None

    @property
    def is_bundle(self) -> bool:
        """Whether ``model`` is a bundle's folder."""
        return self.kind in ("onnx", "openvino", "trt")


def parse(text: str) -> Spec:
    """Read ``[hf:|torch:|onnx:|openvino:|trt:]MODEL[#PLAN]``; without a kind, a bundle is ``onnx``, all else ``hf``.

    Engines may name a target as well: ``trt:BUNDLE#PLAN@TARGET``, the plan left out for the default.
    ``demo`` as the model means the bundled checkpoint.

    Raises:
        UsageError: Unknown kind.
    """
    match = re.fullmatch(r"(?:(\w{2,}):)?(.*?)(?:#([^#]*))?", text.strip())
    assert match is not None
    kind, model, plan = match.groups()
    if kind is not None and kind not in KINDS:
        raise UsageError("unknown kind of model", where="parity", got=text, expected=did_you_mean(kind, KINDS))
    if not model:
        raise UsageError(
            "no model is named", where="parity", got=repr(text), expected="hf:MODEL, torch:MODEL or a bundle"
        )
    kind = kind or ("onnx" if (Path(model) / bundles.MANIFEST).is_file() else "hf")
    target = None
    if kind == "trt" and plan and "@" in plan and plan not in _plans_of(model):
        plan, _, target = plan.rpartition("@")
    spec = Spec(kind, model, plan or None, target)
    return spec if spec.is_bundle else replace(spec, model=checkpoint_named(model))


def _plans_of(model: str) -> Collection[str]:
    """Names of the plans of a bundle, of which some hold an @; none where there is no bundle."""
    folder = Path(model)
    return bundles.read_manifest(folder).plans if (folder / bundles.MANIFEST).is_file() else ()


def open_openvino(folder: str, plan: str | None, threads: int | None = None, arithmetic: str = "fp32") -> GraphRunner:
    """A bundle's plan in OpenVINO on the CPU as a runner; its tolerances are those of ``arithmetic``.

    Raises:
        BundleError: See ``luvc_export.bundle.folder.load``.
        MachineError: OpenVINO is missing, or the CPU lacks the arithmetic.
    """
    loaded = bundles.load(folder, task=None)
    calls = BundleCalls(loaded, plan, threads, "openvino:CPU", arithmetic)
    computed, quantised = calls.free.arithmetic, loaded.entry(plan).quantised
    precision = quantised.precision if quantised else computed
    return _runner(folder, f"OpenVINO CPU {computed}", precision, loaded, loaded.name_of(plan), calls)


def open_bundle(folder: str, plan: str | None, threads: int | None = None) -> GraphRunner:
    """A bundle's plan as a runner. Raises what ``luvc_export.bundle.folder.load`` raises."""
    loaded = bundles.load(folder, task=None)
    calls = BundleCalls(loaded, plan, threads)
    return _runner(folder, "ONNX", loaded.entry(plan).precision, loaded, loaded.name_of(plan), calls)


def open_engine(
    bundle: Bundle, plan: str | None = None, target: str | None = None, backend: TrtBackend | None = None
) -> GraphRunner:
    """The engines of a bundle's plan as a runner; ``backend`` runs them, None opens it on this machine.

    Raises:
        UsageError: There are no such engines, or ``target`` must choose.
        MachineError: TensorRT or a GPU is missing, or they are not what the engines were built for.
    """
    engine, entry = bundle.engine(plan, target), bundle.entry(plan)
    calls = EngineCalls(backend or TrtBackend(bundle, plan, target), engine, bundle)
    precision = entry.quantised.precision if entry.quantised else engine.precision
    return _runner(str(bundle.folder), f"engines for {engine.target}", precision, bundle, engine.plan, calls)


def _runner(where: str, engine: str, precision: str, bundle: Bundle, plan: str, calls: ObservedCalls) -> GraphRunner:
    """A runner whose prompts are as the runtime makes them, for images of the plan's size."""
    entry, encoder = bundle.entry(plan), PromptEncoder(bundle)
    manifest = replace(bundle.manifest, image=replace(bundle.manifest.image, size=entry.size))
    prompting = Prompting(
        lambda case: prepare(case, encoder, manifest, entry.plan),
        lambda ids: str(encoder.tokenizer.decode(list(ids))),
        manifest,
        frozenset(manifest.prompt.eos_token_ids),
    )
    dtype = precision + CODED_CACHES * (entry.caches is not None)
    return GraphRunner(f"{where} ({engine}, {plan})", dtype, entry.plan, prompting, calls)


def open_torch(
    checkpoint: Checkpoint, plan: Plan, image: ImageInput | Manifest, dtype: str = "fp32", model: Any = None
) -> GraphRunner:
    """A checkpoint with a plan as a runner, in torch.

    ``image`` is what pictures are fitted to, a canvas (``canvas``) for tiles and videos too; ``model`` is that of the
    checkpoint, loaded here if None.

    Raises:
        PlanError: The plan is for another image size.
    """
    manifest = canvas_for(checkpoint, image)
    check_shown(checkpoint, plan, manifest)
    model = _model(checkpoint.folder, dtype) if model is None else model
    tokens = Tokens(checkpoint, manifest.prompt)
    prompting = Prompting(
        lambda case: prepare(case, tokens, manifest, plan),
        tokens.decode,
        manifest,
        ends(getattr(getattr(model, "generation_config", None), "eos_token_id", None)),
    )
    calls = TorchCalls(checkpoint, model, plan, manifest.embedding)
    widened = "" if checkpoint.stored is None else ", codes widened"
    return GraphRunner(f"{checkpoint.name} (torch{widened}, {plan.schedule})", dtype, plan, prompting, calls)


def open_huggingface(
    checkpoint: Checkpoint,
    image: ImageInput | Manifest,
    dtype: str = "fp32",
    sharing: Sharing = Sharing(),
) -> Runner:
    """A checkpoint as transformers runs it; videos become the images of ``sharing``, pictures are cut to its tiles."""
    manifest = canvas_for(checkpoint, image)
    return HuggingFace(checkpoint, _model(checkpoint.folder, dtype), manifest, dtype, sharing)


@lru_cache(maxsize=2)
def _model(folder: Path, dtype: str):  # type: ignore[no-untyped-def]
    return load_model(open_checkpoint(str(folder)), dtype)
