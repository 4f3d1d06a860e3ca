"""What of an engine can be checked without a GPU: the names it is driven by, and where its runtime cache lies."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine_entry import entry
from flat_plans import flat_plan

from luvc_export.bundle.manifest import FileRecord
from luvc_export.core.shapes import DecoderShape
from luvc_export.errors import MachineError
from luvc_export.runtime.tensorrt import engine

#: What a name in engine.py is an object of.
OWNERS = {
    r"self\._context": "IExecutionContext",
    r"context": "IExecutionContext",
    r"self\._engine": "ICudaEngine",
    r"engine": "ICudaEngine",
    r"config": "IRuntimeConfig",
    r"self\._runtime_cache": "IRuntimeCache",
}


def test_every_name_used_is_one_of_the_library() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]'")
    code = Path(engine.__file__).read_text(encoding="utf-8")
    used = {
        (owner, name)
        for pattern, owner in OWNERS.items()
        for name in re.findall(rf"(?<![\w.]){pattern}\.([a-z]\w+)", code)
    }
    assert len(used) > 15
    assert not [(owner, name) for owner, name in used if not hasattr(getattr(trt, owner), name)]
    assert hasattr(trt.ExecutionContextAllocationStrategy, "USER_MANAGED")
    assert hasattr(trt.CudaGraphStrategy, "WHOLE_GRAPH_CAPTURE") and hasattr(trt.CudaGraphStrategy, "DISABLED")


def test_a_runtime_cache_is_of_one_engine_version_and_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shape = DecoderShape(2, 64, 8, 2, 64, 128, 100, 4096)
    file = entry(shape, flat_plan(grid=(8, 8), keep=(64, 0)), "concat", 1, 32).decoder
    other = type(file)(**{**vars(file), "record": FileRecord("1" * 64, 1)})
    keys = [(file, "1.7.1", "8.9"), (other, "1.7.1", "8.9"), (file, "1.7.2", "8.9"), (file, "1.7.1", "12.0")]
    paths = {engine.runtime_cache_file(*key) for key in keys}
    assert len(paths) == 4 and {path.parent for path in paths} == {tmp_path / "luvc-export"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("Error Code 1: Cuda Runtime (out of memory)", "there is not enough memory on the GPU"),
        ("Error Code 4: something else", "the engine cannot start"),
    ],
)
def test_a_context_that_finds_no_memory_says_so(line: str, says: str) -> None:
    """So that idle plans make room for it; what the library logged before is another engine's."""
    shape = DecoderShape(2, 64, 8, 2, 64, 128, 100, 4096)
    file = entry(shape, flat_plan(grid=(8, 8), keep=(64, 0)), "concat", 1, 32).decoder
    names = [binding.name for binding in (*file.inputs, *file.outputs)]
    log = SimpleNamespace(lines=[(1, "out of memory, of another engine")])

    def none(strategy: object) -> None:
        log.lines.append((1, line))

    library: Any = SimpleNamespace(
        num_io_tensors=len(names),
        num_optimization_profiles=len(file.profiles),
        get_tensor_name=names.__getitem__,
        create_execution_context=none,
    )
    trt = SimpleNamespace(ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=1))
    with pytest.raises(MachineError, match=f"{says}\n(.|\n)*Error Code") as refused:
        engine.TrtEngine(trt, (None, log), library, file, True, None).context(0, 7)
    assert "another engine" not in str(refused.value)
