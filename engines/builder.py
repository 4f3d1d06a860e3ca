"""From a graph in the target's dialect to a plan file: one path for TensorRT 10.3 to 11 and TensorRT-RTX.

Both have the same Python API; names that only some versions have are not used (tests/engines/test_api.py has the
published lists). Networks are strongly typed: precision is in the graph. What versions differ in is a capability of
the target's ``Library``, never a version comparison here.

Measured and compiled kernels are kept in one file for each library, version and compute capability. TensorRT measures
kernels while it builds (timing cache); TensorRT-RTX compiles them on the device when they are first used (runtime
cache, written by whoever runs the engine). Neither is valid for another version or GPU, so both are in the name. They
belong to the user, not to a bundle: a runtime cache is executable code, and bundles are untrusted.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from luvc_export.bundle.codes import Rewrite
from luvc_export.bundle.hashing import WatchedFile
from luvc_export.bundle.manifest import Binding, Profile
from luvc_export.core import plugin_library
from luvc_export.core.element_types import BY_TENSORRT
from luvc_export.core.files.safe_files import read_own, whole, write_whole
from luvc_export.core.plan import Plan
from luvc_export.core.target import Profiles, Target
from luvc_export.engines import build_monitor, codes, library
from luvc_export.engines.options import BuildOptions
from luvc_export.engines.profiles import Capacity, profiles
from luvc_export.errors import CheckFailed, MachineError, Progress, UsageError

CacheKind = Literal["timing", "runtime"]

_FLAGS = {"version_compatible": "VERSION_COMPATIBLE", "refit": "REFIT", "strip_weights": "STRIP_PLAN"}
_LEVELS = {"ampere+": "AMPERE_PLUS", "sameComputeCapability": "SAME_COMPUTE_CAPABILITY"}


@dataclass(frozen=True)
class BuildInput:
    """A graph to build from.

    Args:
        name: Its file name, for messages.
        data: ONNX bytes in the target's dialect.
        folder: Where its external weights lie.
        plan: What was planned.
        weight_bytes: Bytes of its weights in the engine's precision.
        files: Files with its weights, hashed.
        rewrites: Weights that are written for this target while it is built, beside the others.
    """

    name: str
    data: bytes
    folder: Path
    plan: Plan
    weight_bytes: int
    files: tuple[WatchedFile, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()

    def check_files(self) -> None:
        """Check that the files with weights are those that were hashed: TensorRT opens them by name.

        Raises:
            BundleError: One is another, or has changed.
        """
        for file in self.files:
            file.check()


@dataclass(frozen=True)
class Built:
    """What a build gave, the plan file aside: bindings and profiles in the engine's order.

    ``activation_bytes`` are device memory of one execution context, if the builder said; ``layers`` is JSON.
    """

    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    profiles: tuple[Profile, ...]
    activation_bytes: int | None
    layers: str
    log: str


def build(
    graph: BuildInput,
    output: Path,
    target: Target,
    capacity: Capacity,
    options: BuildOptions,
    progress: Progress = lambda stage, done: None,
    kind: Profiles | None = None,
) -> Built:
    """Build one engine and write it to ``output``, whole or not at all.

    ``kind`` are profiles other than the target's own.

    Raises:
        UsageError: An option or file does not fit.
        MachineError: The library is missing or of another version or refuses the plugins, there is no GPU, or memory is
            short.
        CheckFailed: The parser refused the graph or dropped an input, or the builder failed.
        KeyboardInterrupt: Ctrl-C; nothing is written.
    """
    options.check(target.library)
    library.check_builds(target)
    trt = library.load(target.library)
    _check_refit(target, options)
    log, interrupt = build_monitor.logger(trt), build_monitor.Interrupt()
    builder = trt.Builder(log)
    if options.dynamic_plugins is not None:
        plugin_library.register(builder.get_plugin_registry(), options.dynamic_plugins, log.lines)
    with codes.beside(graph.folder, [file.path for file in graph.files], graph.rewrites) as folder:
        network, _parser = _parse(trt, builder, log, replace(graph, folder=folder))
        inputs, outputs = _bindings(network)
        shapes = {item.name: item.shape for item in inputs}
        shape_profiles = profiles(shapes, graph.plan, capacity, kind or target.spec.profiles)
        config = _configure(trt, builder, target, options)
        for profile in shape_profiles:
            _add(builder, config, profile)
        cache, cache_path = _timing_cache(trt, config, target, options)
        config.progress_monitor = build_monitor.monitor(trt, f"building {output.name}", progress, interrupt)
        with interrupt.watching():
            data = builder.build_serialized_network(network, config)
        _check_built(data, log.lines, graph.name)
        graph.check_files()  # before anything that was made from them is kept
    _check_read(build_monitor.unused_inputs(log.lines), graph.name)
    if cache_path is not None:
        write_whole(cache_path, bytes(memoryview(cache.serialize())))
    with whole(output) as file:
        file.write(memoryview(data))
    loaded = _load(trt, log, target, data, options.dynamic_plugins)
    described = build_monitor.of_network(network) if loaded is None else build_monitor.of_engine(trt, loaded)
    memory = build_monitor.activation_bytes(log.lines) if loaded is None else int(loaded.device_memory_size_v2)
    lines = "".join(f"[{severity}] {message}\n" for severity, message in log.lines)
    return Built(inputs, outputs, shape_profiles, memory, json.dumps(described, indent=1), lines)


def _check_refit(target: Target, options: BuildOptions) -> None:
    """TensorRT-RTX 1.7 compiles the kernels that refit weights while it builds, so it needs the GPU after all."""
    if (options.refit or options.strip_weights) and library.compute_capability() is None:
        raise MachineError(
            "plans whose weights can be replaced are built on a GPU",
            where=target.title,
            got="no GPU",
            fix="leave --refit and --stripWeights out, or build on a machine with a GPU",
        )


def _parse(trt: Any, builder: Any, log: Any, graph: BuildInput) -> tuple[Any, Any]:
    """The network of a graph and its parser, which holds the weights, once nothing of it was refused or dropped."""
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    graph.check_files()
    parsed = parser.parse(graph.data, str(graph.folder / graph.name))
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if errors or not parsed:
        reasons = [f"{item.node_name()} ({item.node_operator()}): {item.desc().splitlines()[0]}" for item in errors]
        raise CheckFailed(
            "TensorRT's parser refuses the graph",
            where=graph.name,
            got="\n    ".join(reasons) or build_monitor.problems(log.lines),
            fix="export the bundle again with this version of luvc-export; if that does not help, report these nodes",
        )
    _check_read(build_monitor.unread(network), graph.name)
    return network, parser


def _check_read(dropped: list[str], name: str) -> None:
    """Nothing of the graph may be left out: TensorRT only warns of that, once the engine is built."""
    if dropped:
        raise CheckFailed(
            "TensorRT's parser drops an input of a node, so the engine would compute something else",
            where=name,
            got="read by nothing: " + ", ".join(dropped),
            fix="choose the other --kv form, and report this with the version of TensorRT",
        )


def _bindings(network: Any) -> tuple[tuple[Binding, ...], tuple[Binding, ...]]:
    ends = ((network.num_inputs, network.get_input), (network.num_outputs, network.get_output))
    inputs, outputs = (
        tuple(
            Binding(one.name, BY_TENSORRT[one.dtype.name].name, tuple(map(int, one.shape)))
            for one in map(get, range(count))
        )
        for count, get in ends
    )
    return inputs, outputs


def _configure(trt: Any, builder: Any, target: Target, options: BuildOptions) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    config.builder_optimization_level = options.builder_optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.__members__[options.profiling_verbosity.upper()]
    wanted = {name for name in _FLAGS if getattr(options, name)} | ({"refit"} if options.strip_weights else set())
    for name in sorted(wanted):
        config.set_flag(trt.BuilderFlag.__members__[_FLAGS[name]])
    if options.hardware_compatibility != "none":
        levels: Mapping[str, Any] = trt.HardwareCompatibilityLevel.__members__
        level = _LEVELS[options.hardware_compatibility]
        if level not in levels:
            raise UsageError(
                "this TensorRT has no such level",
                where="--hardwareCompatibilityLevel",
                got=f"{options.hardware_compatibility} with {trt.__version__}",
                expected=", ".join(name for name, value in _LEVELS.items() if value in levels),
            )
        config.hardware_compatibility_level = levels[level]
    if target.library.cross_build and target.device.compute_capability is not None:
        sm = f"SM{target.device.compute_capability.replace('.', '')}"
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.__members__[sm], 0)
    return config


def _add(builder: Any, config: Any, profile: Profile) -> None:
    trt_profile = builder.create_optimization_profile()
    for name, low in profile.minimum.items():
        trt_profile.set_shape(name, low, profile.optimum[name], profile.maximum[name])
    if config.add_optimization_profile(trt_profile) < 0:
        raise CheckFailed("TensorRT refuses an optimisation profile", where=profile.name, got=profile)


def cache_file(kind: CacheKind, backend: str, version: str, compute_capability: str) -> Path:
    """Path such as ``~/.cache/luvc-export/tensorrt-10.3.0.26-sm87.timing``; its folder may not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    sm = compute_capability.replace(".", "")
    return Path(root) / "luvc-export" / f"{backend}-{version}-sm{sm}.{kind}"


def attach(config: Any, path: Path, named: bool = True) -> Any:
    """Give a builder configuration the timing cache at ``path``, empty where there is none; return it.

    One that nobody ``named``, of the cache folder, is empty where another user may have written it.

    Raises:
        UsageError: The file is not a timing cache of this version and GPU.
    """
    data = (path.read_bytes() if path.is_file() else b"") if named else read_own(path) or b""
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        raise UsageError(
            "this is no timing cache of this TensorRT and this GPU",
            where=str(path),
            fix="name another --timingCacheFile, delete the file, or pass --noBuilderCache",
        )
    return cache


def _timing_cache(trt: Any, config: Any, target: Target, options: BuildOptions) -> tuple[Any, Path | None]:
    capability = library.compute_capability()
    if not target.library.timing_cache or options.no_builder_cache or capability is None:
        return None, None
    default = cache_file("timing", target.library.backend, trt.__version__, capability)
    path = options.timing_cache or default
    return attach(config, path, named=options.timing_cache is not None), path


def _check_built(data: Any, lines: list[tuple[str, str]], name: str) -> None:
    if data is not None:
        return
    problems = build_monitor.problems(lines)
    if "out of memory" in problems.lower() or "OutOfMemory" in problems:
        raise MachineError(
            "memory ran out while building",
            where=name,
            got=problems,
            fix="close other programs, lower --memPoolSize, or build with a smaller plan or text capacity",
        )
    raise CheckFailed(
        "TensorRT built no engine", where=name, got=problems, fix="read the log with --debug, and report it"
    )


def _load(trt: Any, log: Any, target: Target, data: Any, plugins: Path | None) -> Any:
    """The engine, where it runs on this machine's GPU."""
    if library.compute_capability() != target.device.compute_capability:
        return None
    with contextlib.suppress(RuntimeError):
        runtime = trt.Runtime(log)
        if plugins is not None:
            plugin_library.register(runtime.get_plugin_registry(), plugins, log.lines)
        return runtime.deserialize_cuda_engine(data)
    return None
