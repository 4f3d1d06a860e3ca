"""A model repository of Triton: a folder a model, each written whole."""

from __future__ import annotations

import io
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from luvc_export.bundle.folder import MANIFEST, Bundle, load, write_manifest
from luvc_export.bundle.replacing import take_along
from luvc_export.core.files.folders import check_name as check_file_name
from luvc_export.core.files.folders import check_written, make_folder, note_written, writing_to
from luvc_export.core.files.safe_files import open_regular, put_in_place, scratch_folder, write_new
from luvc_export.core.options import option
from luvc_export.errors import Progress, UsageError
from luvc_export.runtime.backends import check_name
from luvc_export.runtime.session_options import SessionOptions
from luvc_export.serve.models import split_name
from luvc_export.triton.config import MARK, ModelConfig, warm_up_files

#: What Triton's Python back-end loads.
PROGRAM = '''"""Runs luvc-export's model; the package must be importable where Triton runs this."""

from luvc_export.triton.model import TritonPythonModel  # noqa: F401
'''
#: Where a copied bundle lies in its model's folder.
COPY = "bundle"
_NOT_IN_A_NAME = re.compile(r"[^\w.-]")


@dataclass(frozen=True, kw_only=True)
class RepositoryOptions(SessionOptions):
    """What models of a repository have in common: options of their sessions, and how they are written."""

    instances: int = option(1, "Sessions on each device; each answers one question.", least=1, most=256)
    warm_up: bool = option(
        True,
        "Be ready before a picture was asked; the first one waits.",
        "--no-warm-up",
        written=bool,
        read=operator.not_,
        shown=False,
    )
    copy: bool = option(False, "Put the bundles into the repository; else their paths are written down.")
    overwrite: bool = option(False, "Replace models that this command wrote.")


def write_repository(
    folder: Path,
    bundles: Sequence[str],
    options: RepositoryOptions,
    progress: Progress | None = None,
) -> list[str]:
    """Write a model for each ``FOLDER`` or ``FOLDER#PLAN``; others in the repository stay.

    Returns:
        Names of the models.

    Raises:
        UsageError: Two of one name, no such plan, a plan of pictures in tiles, or something else has the name.
        BundleError: See ``luvc_export.bundle.folder.load``.
    """
    check_file_name(folder, "the repository")
    check_name(options.backend)
    models: dict[str, tuple[Bundle, str | None]] = {}
    for spec in bundles:
        check_file_name(Path(spec), "the bundle")
        path, name, plan = split_name(spec)
        name = _NOT_IN_A_NAME.sub("-", name)
        if name in models:
            raise UsageError("two models have one name", where=spec, got=name, fix="rename one bundle's folder")
        bundle = load(path, options.verify, progress, task=None)
        if bundle.manifest.does.pairs:
            bundle.check_task("embed")
        if bundle.entry(plan).plan.sharing.kind == "tiles":
            fix = f"name a plan for whole pictures: luvc-export inspect {path} says what each plan is for"
            what = "this plan takes pictures in tiles alone, which Triton's model does not"
            raise UsageError(what, where=spec, fix=fix)
        models[name] = bundle, plan
        _check_place(folder / name, options.overwrite)
    for name, (bundle, plan) in models.items():
        with writing_to(folder / name), scratch_folder(folder / name) as scratch:
            _write_model(scratch, name, bundle, plan, options)
            put_in_place(scratch, folder / name)
    return [*models]


def _write_model(scratch: Path, name: str, bundle: Bundle, plan: str | None, options: RepositoryOptions) -> None:
    texts = replace(options, verify=False).texts()  # hashed when the repository is written
    parameters = {"arithmetic": options.arithmetic, **texts, **({"plan": plan} if plan else {})}
    parameters["bundle"] = COPY if options.copy else str(Path(bundle.folder).resolve())
    # The back-end moves no tensor of ours to a GPU: pictures and text are read by the host.
    parameters["FORCE_CPU_ONLY_INPUT_TENSORS"] = "yes"
    entry = bundle.entry(plan)
    sharing = entry.plan.sharing
    frames = sharing.images * bundle.manifest.image.frames if sharing.kind == "clip" else 0
    decodes = bundle.manifest.does.decodes
    config = ModelConfig(name, options.backend, options.instances, options.warm_up, parameters, frames, decodes)
    make_folder(scratch / "1")
    write_new(scratch / "config.pbtxt", config.text().encode())
    write_new(scratch / "1" / "model.py", PROGRAM.encode())
    if options.warm_up:
        make_folder(scratch / "warmup")
        picture = io.BytesIO()
        height, width = entry.size
        Image.new("RGB", (width, height)).save(picture, "PNG")
        for file, data in warm_up_files(picture.getvalue(), frames, decodes).items():
            write_new(scratch / "warmup" / file, data)
    if options.copy:
        make_folder(scratch / COPY)
        but = frozenset({MANIFEST}) if bundle.manifest.weights.folder else frozenset[str]()
        take_along(bundle.folder, bundle.manifest, scratch / COPY, but=but, link=False)
        if but:
            write_manifest(scratch / COPY, replace(bundle.manifest, weights=bundle.anchored_weights))
    note_written(scratch)


def _check_place(place: Path, overwrite: bool) -> None:
    if not (place.exists() or place.is_symlink()):
        return
    config = place / "config.pbtxt"
    ours = not place.is_symlink() and config.is_file() and _begins(config, MARK.encode())
    if not ours:
        raise UsageError("something else has this name", where=str(place), fix="name another repository")
    if not overwrite:
        raise UsageError("the model is there already", where=str(place), fix="--overwrite replaces it")
    check_written(place)


def _begins(path: Path, mark: bytes) -> bool:
    with open_regular(path) as file:
        return bool(file.read(len(mark)) == mark)
