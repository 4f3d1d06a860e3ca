"""What a batch is asked to do: whatever would change its answers, and how many rows go where.

Of a bundle a batch reads its plan, those that stand in for it, and their files; nothing of other plans.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luvc_export.batch.vectors import RowVectors
from luvc_export.bundle import folder as bundles
from luvc_export.bundle.adapters.peft_folder import read_adapter
from luvc_export.bundle.folder import read_manifest
from luvc_export.bundle.variants import answering
from luvc_export.core.files import folders
from luvc_export.core.files.json_file import parse_json
from luvc_export.core.options import option, stated, values_of
from luvc_export.errors import BundleError, Progress, UsageError
from luvc_export.runtime.backends import check_name
from luvc_export.runtime.generation.sampling import sampling_from
from luvc_export.runtime.prompt.request import largest_canvas
from luvc_export.runtime.session_options import SessionOptions


@dataclass(frozen=True)
class BatchJob(SessionOptions):
    """A batch: the options of a session, by name, and what it is asked.

    A row's ``adapter`` says which of ``lora`` answers it; where there is one, it answers them all.

    Args:
        sampling: Fields of ``Sampling``, plain data; every row draws as ``run`` would with them.
        chat_template_kwargs: Variables of the chat template for every row; see ``Session.generate``.
        vectors: Fields of ``VectorOptions`` that are not as usual, of a bundle that decodes nothing.
        vectors_as: Form of the files of vectors.
    """

    bundle: Path = option(..., "Bundle folder.", argument=True)
    source: Path = option(..., "JSON Lines file of image, prompt, id; or a folder of pictures.", "--input")
    output: Path = option(..., "Folder of the shards, part-*.jsonl.", "-o", "--output")
    prompt: str | None = option(None, "For pictures of a folder without a text file of their name.")
    rows: int = option(8, "Questions of one model call, at most.", least=1, most=1024)
    shard: int = option(256, "Rows of a shard.", least=1, most=1_000_000)
    sampling: dict[str, Any] = field(default_factory=dict)
    chat_template_kwargs: dict[str, Any] | None = None
    vectors: dict[str, Any] = field(default_factory=dict)
    vectors_as: str = option(
        "npy",
        "Files of vectors beside the shards: npy, or parquet (luvc-export[parquet]).",
        choices=("npy", "parquet"),
        metavar="FORM",
    )

    @property
    def embeds(self) -> bool:
        """Rows get vectors: the bundle decodes nothing."""
        return not read_manifest(self.bundle).does.decodes

    def check(self, progress: Progress | None = None) -> None:
        """Refuse what could not be answered, before anything starts.

        Raises:
            UsageError: The bundle, plan, back-end or sampling is wrong.
        """
        for path, what in ((self.source, "the input"), (self.output, "the output folder"), (self.bundle, "the bundle")):
            folders.check_name(Path(path), what)
        check_name(self.backend)
        bundle = bundles.load(self.bundle, self.verify, progress, task=None)
        self._check_task(bundle)
        for folder in self.lora.values():
            read_adapter(Path(folder), bundle.manifest)
        bundle.entry(self.plan)
        if self.prompt is not None and not self.source.is_dir():
            raise UsageError(
                "every line of a file has its own prompt", where="--prompt", fix="leave it out, or give a folder"
            )

    def _check_task(self, bundle: bundles.Bundle) -> None:
        answers = bundle.manifest.does.decodes
        if answers:
            sampling_from(self.sampling, bundle.manifest.generation)
        else:
            RowVectors(bundle, self.vectors, self.vectors_as)
        for name in ("vectors", "vectors_as") if answers else ("sampling", "chat_template_kwargs", "lora", "speculate"):
            if values := stated(self).get(name):
                raise UsageError(
                    "this bundle writes text, and no vectors" if answers else "nothing is decoded by this bundle",
                    where=f"{self.bundle}, a bundle of the task {bundle.manifest.does.name}",
                    got=f"{name}: {', '.join(values) if isinstance(values, dict) else values}",
                    fix="leave it out",
                )

    def identity(self) -> dict[str, Any]:
        """What two runs into one folder must agree on, beside the questions; ``bundle`` is what the plan in use reads.

        Raises:
            BundleError: The bundle's ``luvc.json`` is damaged.
        """
        engines = self.backend.startswith("tensorrt")  # what ``auto`` took is kept, see ``run_batch``
        read = sha256_read(self.bundle, self.plan, engines)
        kept = {name: getattr(self, name) for name in _ALWAYS}
        asked = {name: value for name, value in stated(self).items() if name not in (*_ALWAYS, *_SAME_ANSWERS)}
        if self.lora:
            manifest = bundles.load(self.bundle, task=None).manifest
            asked["lora"] = {name: read_adapter(Path(one), manifest).sha256 for name, one in self.lora.items()}
        return {"bundle": read, **kept, **asked}

    def to_json(self) -> dict[str, Any]:
        """Plain data, for workers: files that ``check`` hashed are not hashed again by each."""
        paths: dict[str, Any] = {name: str(getattr(self, name).absolute()) for name in ("bundle", "source", "output")}
        paths["lora"] = [f"{name}={Path(folder).absolute()}" for name, folder in self.lora.items()]
        return {**values_of(self), **paths, "verify": False}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BatchJob:
        """Of ``to_json``."""
        paths: dict[str, Any] = {name: Path(data[name]) for name in ("bundle", "source", "output")}
        return cls(**{**data, **paths})


#: What a batch's record always says, and what changes no answer.
_ALWAYS = ("prompt", "plan", "backend", "arithmetic", "sampling", "shard", "max_pixels")
_SAME_ANSWERS = ("bundle", "source", "output", "rows", "threads", "verify", "open_plans")

#: Fields of ``luvc.json`` that say nothing of how a question is answered, or of every plan; those of use follow.
_NOT_ALL = ("default_plan", "engines", "files", "plans", "sets", "tools", "verified", "schema_version")


def sha256_read(folder: Path, plan: str | None, engines: bool) -> str:
    """SHA-256 of what answers of ``plan`` depend on, as ``luvc.json`` writes it.

    Variants of it (for other sizes, videos, tiles, fewer units) belong to it: a question is routed to them. Other plans
    and their files do not, but for the image sizes they bring: pictures are opened as large as any plan has use for.

    ``plan`` None is the default; ``engines``: engines of the plan may answer.

    Raises:
        BundleError: Its ``luvc.json`` is damaged.
    """
    manifest, path = read_manifest(folder), folder / bundles.MANIFEST
    name = plan or manifest.default_plan
    data: dict[str, Any] = parse_json(path.read_bytes(), str(path), BundleError, bundles.MANIFEST)
    names = answering(manifest, name) if name in manifest.plans else set[str]()
    own = {key: entry for key, entry in data["plans"].items() if key in names}
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
