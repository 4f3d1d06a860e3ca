from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime
import pytest
import tiny_bundle

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.ort import OrtBackend
from luvc_export.runtime.session import Session


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is here")
def test_cuda_that_is_missing_is_never_replaced(bundle: Bundle) -> None:
    with pytest.raises(MachineError, match="this ONNX Runtime has no CUDA") as caught:
        Session(bundle, "cuda")
    assert caught.value.exit_code == 3
    assert "onnxruntime-gpu" in str(caught.value)


def test_a_provider_that_gives_up_is_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]  # listed, but its libraries do not load
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    real = onnxruntime.InferenceSession

    def falls_back(*args: Any, **kwargs: Any) -> Any:
        return real(*args, **{**kwargs, "providers": ["CPUExecutionProvider"]})

    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    with pytest.raises(MachineError, match="could not start on this device"):
        OrtBackend(bundle, bundle.entry(), "cuda").load()


def test_no_onnxruntime(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MachineError, match="onnxruntime is not installed"):
        OrtBackend(bundle, bundle.entry())


def test_a_graph_the_cpu_has_no_kernel_for(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luvc_export.runtime.ort.check_names", lambda *arguments: None)
    manifest = tiny_bundle.write(fresh).manifest
    bf16 = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 23]> g (bfloat16[2, 2] x) => (bfloat16[2, 2] y) { y = MatMul(x, x) }'
    )
    (fresh / "decoder.onnx").write_bytes(bf16.SerializeToString())
    manifest.files["decoder.onnx"] = bundles.record(fresh / "decoder.onnx")
    bundles.write_manifest(fresh, manifest)
    with pytest.raises(MachineError, match=r"no kernel for this graph on the cpu[\s\S]*--dtype fp32"):
        Session(fresh).generate(None, "a")


def test_an_unknown_device(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="cpu, cuda"):
        OrtBackend(bundle, bundle.entry(), "npu")


def test_graphs_load_when_needed_and_once(bundle: Bundle) -> None:
    backend = OrtBackend(bundle, bundle.entry(), threads=1)
    assert backend.placement() == {}
    session = Session(bundle, backend)
    session.generate(None, "a", max_new_tokens=1)
    assert set(backend.placement()) == {"decoder"}
    first = backend._decoder
    session.generate(np.zeros((4, 4), np.uint8), "a", max_new_tokens=1)
    assert set(backend.placement()) == {"decoder", "vision"}
    assert backend._decoder is first


def test_the_cache_stays_where_it_is(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = []
    real = onnxruntime.OrtValue.numpy

    def copied(self: Any) -> Any:
        ranks.append(len(self.shape()))
        return real(self)

    monkeypatch.setattr(onnxruntime.OrtValue, "numpy", copied)
    state = session.default.run([65, 66]).state
    after = session.default.run([67], state=state).state
    assert set(ranks) == {3}  # logits and kept indices; a cache has four axes
    assert after.cache.lengths == (3, 3)
    assert after.cache.nbytes == 2 * 2 * 3 * 4 * 4


def test_the_runtime_needs_neither_torch_nor_onnx() -> None:
    root = Path(__file__).parents[2]
    names = [f"luvc_export.runtime.{path.stem}" for path in (root / "runtime").glob("*.py") if path.stem != "__init__"]
    code = (
        f"import sys\nfor name in {sorted(names)!r}:\n    __import__(name)\n"
        "from luvc_export.runtime import Session\n"
        "bad = {'torch', 'transformers', 'onnx', 'onnxruntime'} & set(sys.modules)\n"
        "assert not bad, bad\nassert Session.__name__ == 'Session'"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=root, check=True, timeout=60)


def test_an_answer_needs_neither_torch_nor_onnx(bundle: Bundle) -> None:
    root = Path(__file__).parents[2]
    code = (
        "import sys\nfrom luvc_export.runtime import Session\n"
        f"print(Session({str(bundle.folder)!r}).generate(None, 'hello', max_new_tokens=3).token_ids)\n"
        "bad = {'torch', 'transformers', 'onnx'} & set(sys.modules)\nassert not bad, bad"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=root, check=True, timeout=60)


def test_the_bare_name_is_refused() -> None:
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", "import runtime"], cwd=root, capture_output=True, text=True)
    assert "import luvc_export.runtime" in result.stderr
