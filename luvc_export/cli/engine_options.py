"""Options that ``build`` and ``pack`` share; those in mixed case are trtexec's."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated

import typer

from luvc_export.cli import options
from luvc_export.errors import UsageError

Precision = Annotated[
    str | None, typer.Option("--precision", help="fp16, bf16 or fp32; default: the bundle's if 16-bit, else fp16.")
]
Kv = Annotated[
    str | None, typer.Option("--kv", help="inplace (fixed capacity) or concat (grows); default: the target's.")
]
TextCapacity = Annotated[
    int | None, typer.Option("--text-capacity", help="Text tokens, prompt and answer; default: the bundle's.")
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Conversations side by side; rows join and leave.")]
Adapters = Annotated[
    int | None,
    typer.Option(
        "--adapters", help="Different adapters in a step, of a bundle with slots; default: as many as rows, 4 at most."
    ),
]
Images = Annotated[int, typer.Option("--images", help="Images of a conversation.")]
MemPoolSize = Annotated[str, typer.Option("--memPoolSize", help="workspace:MiB, scratch memory of one layer.")]
OptimizationLevel = Annotated[
    int, typer.Option("--builderOptimizationLevel", help="0 (fast build) to 5 (fast engine).")
]
DynamicPlugins = Annotated[
    Path | None, typer.Option("--dynamicPlugins", help="libluvc_plugins.so, for engines that call its kernels.")
]

_KIB = {"K": 1, "": 1024, "M": 1024, "G": 1024**2}


def check(precision: str | None, kv: str | None, device_memory: float | None) -> None:
    """Check two words and the memory in GiB where they are given.

    Raises:
        UsageError: A word is unknown, or the memory is no positive number.
    """
    if device_memory is not None and not 0 < device_memory < math.inf:
        what = "the device's memory is not a positive number of GiB"
        raise UsageError(what, where="--device-memory", got=device_memory, expected="its memory in GiB, such as 8")
    if precision is not None:
        options.choice("--precision", precision, ("fp16", "bf16", "fp32"))
    if kv is not None:
        options.choice("--kv", kv, ("inplace", "concat"))


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
