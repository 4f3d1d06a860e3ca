"""Choices of a build, named as trtexec names them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from luvc_export.core.operators import OPERATORS
from luvc_export.core.options import option
from luvc_export.core.target import Kv, Library, Precision, TargetSpec
from luvc_export.errors import UsageError, did_you_mean

HardwareCompatibility = Literal["none", "ampere+", "sameComputeCapability"]
ProfilingVerbosity = Literal["none", "layer_names_only", "detailed"]

_LEVELS = range(6)


_build = partial(option, verbs=("build",))
_KIB = {"K": 1, "": 1024, "M": 1024, "G": 1024**2}


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


@dataclass(frozen=True)
class EngineOptions:
    """What an engine holds, and the device it must fit.

    Raises:
        UsageError: A word is unknown, or the memory is no positive number.
    """

    precision: Precision | None = option(
        None,
        "fp16, bf16 or fp32; default: the bundle's if 16-bit, else fp16.",
        written=str | None,
        choices=get_args(Precision),
    )
    kv: Kv | None = option(
        None,
        "inplace (fixed capacity) or concat (grows); default: the target's.",
        written=str | None,
        choices=("inplace", "concat"),
    )
    text_capacity: int | None = option(None, "Text tokens, prompt and answer; default: the bundle's.")
    images: int = option(1, "Images of a conversation.")
    batch: int = option(1, "Conversations side by side; rows join and leave.", least=1)
    adapters: int | None = option(
        None, "Different adapters in a step, of a bundle with slots; default: as many as rows, 4 at most."
    )
    device_memory_gib: float | None = option(
        None, "GiB free on the device; default: its largest variant.", "--device-memory"
    )
    strict: bool = option(False, "Refuse a quantised checkpoint's weights that would be widened or rounded.")
    logits: int = _build(1, "Positions of a call with logits: 1 to generate, more to compare.")

    def __post_init__(self) -> None:
        memory = self.device_memory_gib
        if memory is not None and not 0 < memory < math.inf:
            what = "the device's memory is not a positive number of GiB"
            raise UsageError(what, where="--device-memory", got=memory, expected="its memory in GiB, such as 8")


@dataclass(frozen=True)
class BuildOptions:
    """How TensorRT is told to build. ``version_compatible`` plans hold a lean runtime, which is host code.

    ``timing_cache`` None is the user's own (``builder.cache_file``); ``strip_weights`` implies ``refit``.

    Raises:
        UsageError: A value is out of range; lists every problem.
    """

    workspace_mib: int = option(
        1024,
        "workspace:MiB, scratch memory of one layer.",
        "--memPoolSize",
        written=str,
        shown="workspace:1024",
        read=workspace,
    )
    builder_optimization_level: int = option(3, "0 (fast build) to 5 (fast engine).", "--builderOptimizationLevel")
    dynamic_plugins: Path | None = option(
        None, "libluvc_plugins.so, for engines that call its kernels.", "--dynamicPlugins"
    )
    version_compatible: bool = _build(
        False, "The engines load in later versions of TensorRT too.", "--versionCompatible"
    )
    hardware_compatibility: HardwareCompatibility = _build(
        "none", "none, ampere+ or sameComputeCapability.", "--hardwareCompatibilityLevel", written=str
    )
    refit: bool = _build(False, "Weights can be replaced later.")
    strip_weights: bool = _build(False, "Plans without weights: refit before use.", "--strip-weights", "--stripWeights")
    profiling_verbosity: ProfilingVerbosity = _build(
        "detailed", "detailed, layer_names_only or none.", "--profilingVerbosity", written=str
    )
    timing_cache: Path | None = _build(None, "Measured kernels; default: one for version and GPU.", "--timingCacheFile")
    no_builder_cache: bool = _build(False, "Use no timing cache.", "--noBuilderCache")

    def __post_init__(self) -> None:
        problems = []
        if self.workspace_mib < 1:
            problems.append(f"--memPoolSize: got {self.workspace_mib} MiB, expected at least 1")
        if self.builder_optimization_level not in _LEVELS:
            problems.append(f"--builderOptimizationLevel: got {self.builder_optimization_level}, expected 0 to 5")
        if self.no_builder_cache and self.timing_cache is not None:
            problems.append(
                "--timingCacheFile, --noBuilderCache: a cache is named and forbidden, leave one of them out"
            )
        for flag, value, known in (
            ("--hardwareCompatibilityLevel", self.hardware_compatibility, get_args(HardwareCompatibility)),
            ("--profilingVerbosity", self.profiling_verbosity, get_args(ProfilingVerbosity)),
        ):
            if value not in known:
                problems.append(f"{flag}: got {value!r}, {did_you_mean(value, known)}")
        if problems:
            raise UsageError("build options are out of range:\n" + "\n".join(f"  - {item}" for item in problems))

    def check(self, library: Library) -> None:
        """Check that ``library`` can do what is asked for.

        Raises:
            UsageError: It cannot, or there is no plugin library where one is named.
        """
        asked = {
            "--refit and --stripWeights": (self.refit or self.strip_weights) and not library.refit,
            "--versionCompatible": self.version_compatible and not library.portable,
            "--hardwareCompatibilityLevel": self.hardware_compatibility != "none" and not library.portable,
            "--timingCacheFile": self.timing_cache is not None and not library.timing_cache,
            "--dynamicPlugins": self.dynamic_plugins is not None and not library.plugins,
        }
        for flag, refused in asked.items():
            if refused:
                raise UsageError(f"{library.backend} has no {flag}", where=flag, expected=library.range)
        if self.dynamic_plugins is not None and not self.dynamic_plugins.is_file():
            raise UsageError(
                "there is no such plugin library",
                where="--dynamicPlugins",
                got=str(self.dynamic_plugins),
                expected="libluvc_plugins.so",
                fix="build it as plugins/README.md says, or leave the option out: engines build without plugins",
            )

    def spec(self, spec: TargetSpec) -> TargetSpec:
        """What the graphs of this build may hold: ``spec``, and calls of the plugins that are at hand."""
        return spec if self.dynamic_plugins is None else replace(spec, plugins=frozenset(OPERATORS))
