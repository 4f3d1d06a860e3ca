"""What a batch is asked to do: whatever would change its answers, and how many rows go where."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from luvc_export.batch.reads import sha256_read
from luvc_export.bundle import folder as bundles
from luvc_export.bundle.adapters.peft_folder import named_folders, read_adapter
from luvc_export.core.files import folders
from luvc_export.core.progress import Progress
from luvc_export.errors import UsageError
from luvc_export.runtime.backends import check_name
from luvc_export.runtime.generation.sampling import sampling_from
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
        later = {name: getattr(self, name) for name in ("image_tokens", "speculate")}  # records of before have none
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
