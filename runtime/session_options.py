"""What a user sets of a session: for ``Session``, the command line, batch jobs, the server, Triton and ``bench``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from luvc_export.core.image_tokens import ceiling
from luvc_export.core.options import option, stated

#: Commands that answer questions: they ask for every option of a session, unless it says otherwise.
ANSWERING = ("run", "serve", "batch")
#: Those that also time, quantise or compare, and ask for some.
_MEASURING = ("bench", "triton")
#: Those that embed, where nothing is decoded.
_EMBEDDING = ("embed", "search")

_session = partial(option, verbs=(*ANSWERING, *_EMBEDDING))


def _named_folders(texts: Sequence[str] | None) -> Mapping[str, Path]:
    from luvc_export.bundle.adapters.peft_folder import named_folders

    return named_folders(texts or ())


def _ceiling(text: str | None) -> int | None:
    return None if text is None else ceiling(text)


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """Options of a session; what each means is its field's ``help``, which docs/cli.md lists.

    Raises:
        UsageError: A value is out of range, ``speculate`` cannot be read, or ``lora`` (folders of adapters by name, or
            ``NAME=FOLDER`` texts).
    """

    plan: str | None = option(
        None, "Plan of the bundle; default: its default.", verbs=("run", "batch", "bench", "calibrate", *_EMBEDDING)
    )
    backend: str = option(
        "auto",
        "auto (what runs the plan here), cpu, cuda, openvino, openvino:DEVICE, openvino+cpu or openvino+openvino "
        "(prompts on the first, tokens after them on the second), tensorrt, or tensorrt:TARGET.",
        verbs=(*ANSWERING, *_MEASURING, *_EMBEDDING),
    )
    arithmetic: str = option(
        "auto",
        "Of products: fp32, bf16, fp16, or auto for what the device is best at.",
        verbs=(*ANSWERING, *_MEASURING, *_EMBEDDING),
    )
    threads: int | None = option(
        None,
        "CPU threads; default: all cores, which batch divides by its workers.",
        least=1,
        most=1024,
        verbs=(*ANSWERING, *_MEASURING, "parity", "ablate", "calibrate", *_EMBEDDING),
    )
    speculate: str | None = option(
        None,
        "Draft up to N tokens a step of what prompt and answer repeat, or by a smaller model; the same answers.",
        metavar="lookup[:N]|draft:BUNDLE[:N]",
        verbs=(*ANSWERING, "bench"),
    )
    lora: Mapping[str, str | PathLike[str]] = option(
        dict,
        "A peft adapter for a bundle exported with --lora-slots; repeat.",
        metavar="NAME=FOLDER",
        written=list[str] | None,
        read=_named_folders,
        verbs=("serve", "batch"),
        hashed=False,
    )
    image_tokens: int | None = _session(
        None,
        "Most visual tokens of a picture: the bundle's sizes of more are not used. auto, the default: the smallest "
        "size that shows all of it.",
        metavar="N|auto",
        written=str | None,
        read=_ceiling,
    )
    max_pixels: int | None = _session(None, "Pixels a picture may have; default: 32 Mi, a plain JPEG 128 Mi.")
    chat_template: Path | None = option(
        None,
        "Chat template in the place of the bundle's, such as one with tools.",
        metavar="FILE",
        verbs=("serve",),
    )
    open_plans: int | None = option(
        None,
        "Plans loaded at a time where each packs weights; default: 1 of buckets.",
        least=1,
        most=100,
        verbs=("serve",),
    )
    verify: bool = option(
        False,
        "Hash a bundle's large files again, weights in a checkpoint too.",
        verbs=(*ANSWERING, *_MEASURING, "build", "pack", "inspect", "parity", "calibrate", *_EMBEDDING),
    )
    allow_unverified: bool = option(
        False, "Run engines that luvc.json does not name, graphs nobody ran here.", verbs=("run", *_EMBEDDING)
    )
    remember: int = option(
        0, "Groups of images whose features are kept for questions that show them again; 0: none.", verbs=()
    )

    def __post_init__(self) -> None:
        if self.max_pixels is not None:
            from luvc_export.runtime.media.picture_limits import check_pixels

            check_pixels(self.max_pixels)
        if self.speculate is not None:
            from luvc_export.runtime.speculation.request import Speculation

            Speculation.parse(self.speculate)
        if isinstance(self.chat_template, str):
            object.__setattr__(self, "chat_template", Path(self.chat_template))
        if not isinstance(self.lora, Mapping):
            object.__setattr__(self, "lora", _named_folders(self.lora) if self.lora else {})

    def texts(self) -> dict[str, str]:
        """What is not as usual, each as a text: a word as it is, the rest as JSON. ``of_texts`` reads them."""
        named = {**stated(self, SessionOptions.__dataclass_fields__), "backend": self.backend}
        if self.lora:
            named["lora"] = {name: str(Path(folder).absolute()) for name, folder in self.lora.items()}
        if self.chat_template is not None:
            named["chat_template"] = str(self.chat_template.absolute())
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in named.items()}

    @classmethod
    def of_texts(cls, texts: Mapping[str, str]) -> SessionOptions:
        """Options of ``texts``; names that are no option are left alone."""
        words = {"plan", "backend", "arithmetic", "speculate", "chat_template"}
        known = {name: texts[name] for name in SessionOptions.__dataclass_fields__ if name in texts}
        values: dict[str, Any] = {name: text if name in words else json.loads(text) for name, text in known.items()}
        return SessionOptions(**values)


def session_options(record: SessionOptions) -> dict[str, Any]:
    """Of a record that has more: the options of its session by name."""
    return {name: getattr(record, name) for name in SessionOptions.__dataclass_fields__}
