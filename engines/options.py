"""Choices of a build, named as trtexec names them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from luvc_export.core.operators import OPERATORS
from luvc_export.core.target import Library, TargetSpec
from luvc_export.errors import UsageError, did_you_mean

HardwareCompatibility = Literal["none", "ampere+", "sameComputeCapability"]
ProfilingVerbosity = Literal["none", "layer_names_only", "detailed"]

_LEVELS = range(6)


@dataclass(frozen=True)
class BuildOptions:
    """How TensorRT is told to build.

    Args:
        workspace_mib: trtexec's ``--memPoolSize=workspace:N``: scratch memory one layer may use.
        builder_optimization_level: 0 (fast build) to 5 (fast engine).
        version_compatible: The plan loads in later versions too; it holds a lean runtime, which is host code.
        hardware_compatibility: ``none``, ``ampere+`` or ``sameComputeCapability``.
        refit: Weights can be replaced later.
        strip_weights: The plan holds no weights: refit it before use. Implies ``refit``.
        profiling_verbosity: What the plan says of its layers.
        timing_cache: File of measured kernels; None for the user's own (``builder.cache_file``).
        no_builder_cache: Use no timing cache.
        dynamic_plugins: ``libluvc_plugins.so``; graphs then call its plugins where they can.

    Raises:
        UsageError: A value is out of range; lists every problem.
    """

    workspace_mib: int = 1024
    builder_optimization_level: int = 3
    version_compatible: bool = False
    hardware_compatibility: HardwareCompatibility = "none"
    refit: bool = False
    strip_weights: bool = False
    profiling_verbosity: ProfilingVerbosity = "detailed"
    timing_cache: Path | None = None
    no_builder_cache: bool = False
    dynamic_plugins: Path | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.workspace_mib < 1:
            problems.append(f"--memPoolSize: got {self.workspace_mib} MiB, expected at least 1")
        if self.builder_optimization_level not in _LEVELS:
            problems.append(f"--builderOptimizationLevel: got {self.builder_optimization_level}, expected 0 to 5")
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
