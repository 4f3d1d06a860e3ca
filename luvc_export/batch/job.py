"""What a batch is asked to do: whatever would change its answers, and how many rows go where.

Of a bundle a batch reads its plan, those that stand in for it, and their files; nothing of other plans.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.adapters.peft_folder import named_folders, read_adapter
from luvc_export.bundle.folder import read_manifest
from luvc_export.bundle.plans import variants
from luvc_export.core.files import folders
from luvc_export.core.files.json_file import parse_json
from luvc_export.core.progress import Progress
from luvc_export.errors import BundleError, UsageError
from luvc_export.runtime.backends import check_name
from luvc_export.runtime.generation.sampling import sampling_from
from luvc_export.runtime.prompt.request import largest_canvas
from luvc_export.runtime.speculation.request import Speculation


@dataclass(frozen=True)
class BatchJob:
    """A batch.

    Args:
        bundle: Folder of the bundle.
        source: JSON Lines file of cases (``runtime.prompt.case_lines``), or a folder of pictures.
        output: Folder of the shards.
        prompt: Asked about every picture of a folder that has no text file of its name beside it.
        plan: Of the bundle; None for its default.
        backend: See ``runtime.backends``.
        arithmetic: The same.
        threads: CPU threads of a worker; None for the cores divided by the workers.
        sampling: Fields of ``Sampling``, plain data; every row draws as ``run`` would with them.
        rows: Questions of one model call, at most.
        shard: Rows of a shard.
        max_pixels: See ``runtime.media.picture_limits``.
        image_tokens: Most visual tokens of a picture; see ``Session``.
        speculate: See ``runtime.speculation.request``.
        chat_template_kwargs: Variables of the chat template for every row; see ``Session.generate``.
        lora: Adapters, ``NAME=FOLDER`` each. A row's ``adapter`` says which; where there is one, it answers them all.
    """

    bundle: Path
    source: Path
    output: Path
    prompt: str | None = None
    plan: str | None = None
    backend: str = "auto"
    arithmetic: str = "auto"
    threads: int | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    rows: int = 8
    shard: int = 256
    max_pixels: int | None = None
    image_tokens: int | None = None
    speculate: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    lora: tuple[str, ...] = ()

    def check(self, verify: bool = False, progress: Progress | None = None) -> None:
        """Refuse what could not be answered, before anything starts.

        Raises:
            UsageError: The bundle, plan, back-end or sampling is wrong.
        """
        for path, what in ((self.source, "the input"), (self.output, "the output folder"), (self.bundle, "the bundle")):
            folders.check_name(Path(path), what)
        check_name(self.backend)
        if self.speculate is not None:
            Speculation.parse(self.speculate)
        bundle = bundles.load(self.bundle, verify, progress)
        for folder in named_folders(self.lora).values():
            read_adapter(folder, bundle.manifest)
        bundle.entry(self.plan)
        sampling_from(self.sampling, bundle.manifest.generation)
        if self.prompt is not None and not self.source.is_dir():
            raise UsageError(
                "every line of a file has its own prompt", where="--prompt", fix="leave it out, or give a folder"
            )

    def identity(self) -> dict[str, Any]:
        """What two runs into one folder must agree on, beside the questions; ``bundle`` is what the plan in use reads.

        Raises:
            BundleError: The bundle's ``luvc.json`` is damaged.
        """
        engines = self.backend.startswith("tensorrt")  # what ``auto`` took is kept, see ``run_batch``
        read = sha256_read(self.bundle, self.plan, engines)
        kept = ("prompt", "plan", "backend", "arithmetic", "sampling", "shard", "max_pixels")
        names = ("image_tokens", "speculate", "chat_template_kwargs")  # records of before have none
        later = {name: getattr(self, name) for name in names}
        asked = {name: value for name, value in later.items() if value is not None}
        if self.lora:
            manifest = bundles.load(self.bundle).manifest
            folders = named_folders(self.lora)
            asked["lora"] = {name: read_adapter(folder, manifest).sha256 for name, folder in folders.items()}
        return {"bundle": read, **{name: getattr(self, name) for name in kept}, **asked}

    def to_json(self) -> dict[str, Any]:
        """Plain data, for workers."""
        paths: dict[str, Any] = {name: str(getattr(self, name).absolute()) for name in ("bundle", "source", "output")}
        paths["lora"] = [f"{name}={folder.absolute()}" for name, folder in named_folders(self.lora).items()]
        return {**asdict(self), **paths}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BatchJob:
        """Of ``to_json``."""
        paths: dict[str, Any] = {name: Path(data[name]) for name in ("bundle", "source", "output")}
        return cls(**{**data, **paths, "lora": tuple(data.get("lora", ()))})


#: Fields of ``luvc.json`` that say nothing of how a question is answered, or of every plan; those of use follow.
_NOT_ALL = ("default_plan", "engines", "files", "plans", "sets", "tools", "verified", "schema_version")


def sha256_read(folder: Path, plan: str | None, engines: bool) -> str:
    """SHA-256 of what answers of ``plan`` depend on, as ``luvc.json`` writes it.

    Variants of it (for other sizes, videos, tiles, fewer units) belong to it: a question is routed to them. Other plans
    and their files do not, but for the image sizes they bring: pictures are opened as large as any plan has use for.

    Args:
        folder: Of a bundle.
        plan: Name of a plan; None for the default.
        engines: Engines of the plan may answer.

    Raises:
        BundleError: Its ``luvc.json`` is damaged.
    """
    manifest, path = read_manifest(folder), folder / bundles.MANIFEST
    name = plan or manifest.default_plan
    data: dict[str, Any] = parse_json(path.read_bytes(), str(path), BundleError, bundles.MANIFEST)
    answering = variants.answering(manifest, name) if name in manifest.plans else set[str]()
    own = {key: entry for key, entry in data["plans"].items() if key in answering}
    others = {word for key, entry in data["plans"].items() if key not in own for word in _texts(entry)}
    sets = [entry for entry in data.get("sets", ()) if entry["plan"] in own]
    named = {word for entry in (*own.values(), *sets) for word in _texts(entry)}
    files = {
        file: record["sha256"]
        for file, record in data["files"].items()
        if file in named or not (file in others or file.endswith((".onnx", ".safetensors")))  # scorers are in graphs
    }
    built = [entry for entry in data.get("engines", ()) if entry["plan"] in own] if engines else []
    common = {key: value for key, value in data.items() if key not in _NOT_ALL}
    read = {**common, "plan": name, "plans": own, "files": files, "engines": built}
    read["canvas"] = largest_canvas(manifest)
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def sha256_manifest(folder: Path) -> str:
    """SHA-256 of all of ``luvc.json``: what folders that 0.1.0 began remember."""
    return hashlib.sha256((folder / bundles.MANIFEST).read_bytes()).hexdigest()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
