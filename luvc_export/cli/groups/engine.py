"""Options that ``build`` and ``pack`` share; those in mixed case are trtexec's."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from luvc_export.cli import options
from luvc_export.errors import UsageError

_KIB = {"K": 1, "": 1024, "M": 1024, "G": 1024**2}


@dataclass(frozen=True)
class EngineOptions:
    """What an engine holds, how it is built, and the device it must fit."""

    precision: Annotated[
        str | None, typer.Option("--precision", help="fp16, bf16 or fp32; default: the bundle's if 16-bit, else fp16.")
    ] = None
    kv: Annotated[
        str | None, typer.Option("--kv", help="inplace (fixed capacity) or concat (grows); default: the target's.")
    ] = None
    text_capacity: Annotated[
        int | None, typer.Option("--text-capacity", help="Text tokens, prompt and answer; default: the bundle's.")
    ] = None
    images: Annotated[int, typer.Option("--images", help="Images of a conversation.")] = 1
    batch: Annotated[int, typer.Option("--batch", min=1, help="Conversations side by side; rows join and leave.")] = 1
    adapters: Annotated[
        int | None,
        typer.Option(
            "--adapters",
            help="Different adapters in a step, of a bundle with slots; default: as many as rows, 4 at most.",
        ),
    ] = None
    mem_pool_size: Annotated[str, typer.Option("--memPoolSize", help="workspace:MiB, scratch memory of one layer.")] = (
        "workspace:1024"
    )
    optimization_level: Annotated[
        int, typer.Option("--builderOptimizationLevel", help="0 (fast build) to 5 (fast engine).")
    ] = 3
    dynamic_plugins: Annotated[
        Path | None, typer.Option("--dynamicPlugins", help="libluvc_plugins.so, for engines that call its kernels.")
    ] = None
    device_memory: Annotated[
        float | None, typer.Option("--device-memory", help="GiB free on the device; default: its largest variant.")
    ] = None
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a quantised checkpoint's weights that would be widened or rounded.")
    ] = False

    def arguments(self, **building: Any) -> dict[str, Any]:
        """Arguments of ``build_engine`` and ``write_pack`` by name; ``building`` are more fields of ``BuildOptions``.

        Raises:
            UsageError: A word is unknown, or the memory is no positive number.
        """
        from luvc_export.engines.options import BuildOptions

        memory = self.device_memory
        if memory is not None and not 0 < memory < math.inf:
            what = "the device's memory is not a positive number of GiB"
            raise UsageError(what, where="--device-memory", got=memory, expected="its memory in GiB, such as 8")
        if self.precision is not None:
            options.choice("--precision", self.precision, ("fp16", "bf16", "fp32"))
        if self.kv is not None:
            options.choice("--kv", self.kv, ("inplace", "concat"))
        built = BuildOptions(
            workspace(self.mem_pool_size), self.optimization_level, dynamic_plugins=self.dynamic_plugins, **building
        )
        return {
            "precision": self.precision,
            "kv": self.kv,
            "text_capacity": self.text_capacity,
            "images": self.images,
            "batch": self.batch,
            "adapters": self.adapters,
            "options": built,
            "device_memory_gib": memory,
            "strict": self.strict,
        }


def workspace(text: str) -> int:
    """MiB of trtexec's ``workspace:N``, N in MiB or with a suffix K, M or G.

    Raises:
        UsageError: It is something else.
    """
    match = re.fullmatch(r"workspace:(\d+)([KMG]?)(?:iB|B)?", text)
    if match is None:
        raise UsageError(
            "cannot read the memory pool", where="--memPoolSize", got=repr(text), expected="workspace:MiB, or with G"
        )
    return int(match[1]) * _KIB[match[2]] // 1024
