"""Only names that TensorRT 10.3, 11.1 and 11.4 all have are used; ``tensorrt_api.json`` has them, with its sources."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from luvc_export import engines
from luvc_export.core import plugin_library

FOLDER = Path(engines.__file__).resolve().parent
NAMES = ("builder", "layer_information", "library", "kernel_caches", "build_monitor")
FILES = [FOLDER / f"{name}.py" for name in NAMES]
FILES.append(Path(plugin_library.__file__))
LISTED = json.loads((Path(__file__).parent / "tensorrt_api.json").read_text(encoding="utf-8"))
VERSIONS = ("10.3", "11.1", "11.4")
OLD, *NEW = ({name: set(members.split()) for name, members in LISTED[version].items()} for version in VERSIONS)
BOTH = {name: set.intersection(OLD[name], *(each[name] for each in NEW)) for name in OLD}
RUNTIME = FOLDER.parent / "runtime" / "tensorrt" / "engine.py"
#: What our variables hold.
RECEIVERS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "registry": "IPluginRegistry",
    "runtime": "Runtime",
    "cache": "ITimingCache",
    "layer": "ILayer",
    "out": "ITensor",
    "tensor": "ITensor",
    "engine": "ICudaEngine",
    "loaded": "ICudaEngine",
}
#: TensorRT-RTX alone, behind the capability ``cross_build``.
RTX_ONLY = {"ComputeCapability", "num_compute_capabilities", "set_compute_capability"}
#: Looked up by name, and refused where the library has it not.
ASKED_FOR = {"SAME_COMPUTE_CAPABILITY"}
MODULE = {"__version__", "Builder", "OnnxParser", "Runtime", "ILogger", "IProgressMonitor"}


def problems(source: str) -> Iterator[str]:
    """Names that one of the two versions lacks."""
    tree = ast.parse(source)
    known = set.union(*OLD.values(), *(names for each in NEW for names in each.values()))
    shared = set.union(*BOTH.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in known - shared - ASKED_FOR:
            yield f"{node.value!r}"
        if not isinstance(node, ast.Attribute) or node.attr in RTX_ONLY or node.attr.startswith("__members__"):
            continue
        owner = node.value.id if isinstance(node.value, ast.Name) else None
        if owner == "trt" and node.attr not in MODULE | set(BOTH):
            yield f"trt.{node.attr}"
        elif owner in RECEIVERS and node.attr not in BOTH[RECEIVERS[owner]]:
            yield f"{owner}.{node.attr}"
        elif isinstance(node.value, ast.Attribute) and node.value.attr in BOTH:
            if node.attr not in BOTH[node.value.attr]:
                yield f"{node.value.attr}.{node.attr}"
        elif node.attr in known - shared:
            yield node.attr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_only_names_of_both_versions(path: Path) -> None:
    assert not list(problems(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("builder.build_serialized_network_to_stream(n, c, w)", "builder.build_serialized_network_to_stream"),
        ("config.int8_calibrator = None", "config.int8_calibrator"),
        ("trt.BuilderFlag.FP16", "BuilderFlag.FP16"),
        ("flag = 'MONITOR_MEMORY'", "'MONITOR_MEMORY'"),
        ("builder.platform_has_fast_fp16", "builder.platform_has_fast_fp16"),
        ("x.tiling_optimization_level = 1", "tiling_optimization_level"),
        ("registry.get_plugin_creator(n, v, s)", "registry.get_plugin_creator"),
        ("trt.ComputeCapabilities", "trt.ComputeCapabilities"),
    ],
)
def test_a_name_of_one_version_is_caught(line: str, name: str) -> None:
    assert list(problems(line)) == [name]


def asked(source: str, receivers: dict[str, str]) -> Iterator[str]:
    """Names asked of an object that we keep as ``self._NAME`` or ``NAME``, and that one of the versions lacks."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
            if owner in receivers and node.attr not in BOTH[receivers[owner]] | _OWN:
                yield f"{owner}.{node.attr}"


#: Ours: attributes of objects that hold TensorRT's.
_OWN = {"captures_itself", "save_runtime_cache", "scratch_bytes"}
_RUNTIME = {"context": "IExecutionContext", "_context": "IExecutionContext", "engine": "ICudaEngine"}
_RUNTIME |= {"_engine": "ICudaEngine", "ExecutionContextAllocationStrategy": "ExecutionContextAllocationStrategy"}


def test_the_runtime_asks_engines_and_contexts_only_for_names_of_all_versions() -> None:
    source = RUNTIME.read_text(encoding="utf-8")
    assert not list(asked(source, _RUNTIME))
    assert list(asked(source + "\nself._context.execute_v1(1)", _RUNTIME)) == ["_context.execute_v1"]
    assert list(asked("engine.device_memory_size", _RUNTIME)) == ["engine.device_memory_size"], "11 has it no more"


def test_the_list_is_of_the_published_bindings() -> None:
    assert all("github.com/NVIDIA/TensorRT/tree/" in LISTED["source"][version] for version in ("10.3", "11.1"))
    assert "tensorrt-cu13-bindings/11.4" in LISTED["source"]["11.4"]
    assert all(len(members) > 1 for members in OLD.values() if members != OLD["NetworkDefinitionCreationFlag"])


def test_names_of_rtx_stand_behind_a_capability() -> None:
    tree = ast.parse((FOLDER / "builder.py").read_text(encoding="utf-8"))
    guarded = {
        inner.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "cross_build" in ast.unparse(node.test)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Attribute)
    }
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert guarded >= RTX_ONLY and used >= RTX_ONLY
