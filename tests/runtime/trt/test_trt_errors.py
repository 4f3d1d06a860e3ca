"""What stands between a bundle and its engines: each its own error and exit code, through a Session."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import stand_in
import tiny_bundle
from engine_entry import entry

from luvc_export.bundle.folder import Bundle, record
from luvc_export.bundle.manifest import FileRecord, Footprint, PluginLibrary
from luvc_export.errors import LuvcError
from luvc_export.runtime.backends import open_backend
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.session import Session
from luvc_export.runtime.tensorrt.backend import TrtBackend

pytestmark = stand_in.alone  # engines of another compute capability than the machine's GPU


class Library:
    """As much of the library's module as is read before an engine is opened."""

    __name__, __version__ = "tensorrt", "10.3.0.26"


def with_engines(bundle: Bundle, **changes: Any) -> Bundle:
    """The tiny bundle, with what its manifest would say of engines."""
    manifest = bundle.manifest
    engine = entry(manifest.decoder, bundle.entry().plan, "concat", 1, 32)
    plain: dict[str, Any] = {"plan": manifest.default_plan, "version": "10.3.0.26", "compute_capabilities": ("8.9",)}
    engine = dataclasses.replace(engine, **{**plain, **changes})
    return Bundle(bundle.folder, dataclasses.replace(manifest, engines=(engine,)))


def refused(call: Any) -> LuvcError:
    with pytest.raises(LuvcError) as caught:
        call()
    return caught.value


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", Library)  # type: ignore[arg-type]


@pytest.fixture
def gpu() -> Gpu:
    return Gpu(library=stand_in.library())


@pytest.fixture
def fresh_tiny(fresh: Path) -> Bundle:
    return tiny_bundle.write(fresh)


def test_no_engines(bundle: Bundle) -> None:
    error = refused(lambda: Session(bundle, "tensorrt"))
    assert error.exit_code == 2 and "there is no such engine" in str(error) and "luvc-export build" in str(error)


def test_a_missing_library(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    error = refused(lambda: Session(with_engines(bundle), "tensorrt:t"))
    assert error.exit_code == 3 and error.what == "tensorrt is not installed"


def test_no_gpu(bundle: Bundle, tensorrt: None) -> None:
    try:
        Gpu()
    except LuvcError:
        error = refused(lambda: Session(with_engines(bundle), "tensorrt"))
        assert error.exit_code == 3 and error.what == "there is no NVIDIA driver on this machine"
    else:
        pytest.skip("this machine has a GPU")


def test_another_version(bundle: Bundle, tensorrt: None) -> None:
    error = refused(lambda: Session(with_engines(bundle, version="10.16.1.11"), "tensorrt"))
    assert error.exit_code == 3 and "another version of TensorRT" in error.what
    assert "got: tensorrt 10.3.0.26" in str(error) and "10.16.1.11" in str(error)


def test_another_compute_capability(bundle: Bundle, tensorrt: None, gpu: Gpu) -> None:
    built = with_engines(bundle, compute_capabilities=("12.0",))
    error = refused(lambda: TrtBackend(built, gpu=gpu))
    assert error.exit_code == 3 and "another kind of GPU" in error.what
    assert "got: compute capability 8.9" in str(error) and "expected: 12.0" in str(error)


def test_too_little_memory_is_known_before_anything_is_read(bundle: Bundle, tensorrt: None, gpu: Gpu) -> None:
    built = with_engines(bundle, footprint=Footprint(60 << 20, 4 << 20, 4 << 20, 0, 0))
    error = refused(TrtBackend(built, gpu=gpu).load)
    assert error.exit_code == 3 and error.what == "there is not enough memory on the GPU"
    # What tests before it in this process left to be collected is not free.
    assert re.search(r"got: 0\.0[3-6] GiB of 0\.06 GiB free", str(error)) and "0.07 GiB for weights" in str(error)


def test_engines_without_weights(bundle: Bundle, tensorrt: None, gpu: Gpu) -> None:
    error = refused(lambda: TrtBackend(with_engines(bundle, stripped=True), gpu=gpu))
    assert error.exit_code == 2 and error.what == "these engines have no weights"


@pytest.mark.parametrize(("damage", "says"), [(slice(0, 50), "truncated"), (slice(None, None, -1), "has changed")])
def test_a_damaged_engine(fresh_tiny: Bundle, tensorrt: None, gpu: Gpu, damage: slice, says: str) -> None:
    whole = bytes(range(100))
    (fresh_tiny.folder / "decoder.engine").write_bytes(whole[damage])
    built = with_engines(fresh_tiny)
    decoder = dataclasses.replace(
        built.manifest.engines[0].decoder, record=FileRecord(hashlib.sha256(whole).hexdigest(), len(whole))
    )
    error = refused(TrtBackend(with_engines(fresh_tiny, decoder=decoder), gpu=gpu).load)
    assert error.exit_code == 2 and says in error.what


@pytest.mark.parametrize("allowed", [False, True])
def test_changed_plugins(
    fresh_tiny: Bundle, gpu: Gpu, allowed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Refused before TensorRT sees them; with ``--allow-unverified`` it gets them, ahead of the engine."""
    seen: list[str] = []

    class Registry:
        def load_library(self, path: str) -> object:
            seen.append(Path(path).read_text(encoding="utf-8"))
            return self

        def get_creator(self, *identity: str) -> object:
            return identity

    class Runtime:
        def __init__(self, log: object) -> None: ...

        get_plugin_registry = staticmethod(Registry)

        def deserialize_cuda_engine(self, data: Any) -> None:
            seen.append("engine")

    class Logger:
        WARNING = 2

    module = type("Module", (Library,), {"Runtime": Runtime, "ILogger": Logger})
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    (fresh_tiny.folder / "decoder.engine").write_bytes(b"engine")
    (fresh_tiny.folder / "plugins.so").write_text("changed", encoding="utf-8")
    engine = with_engines(fresh_tiny).manifest.engines[0].decoder
    engine = dataclasses.replace(engine, record=record(fresh_tiny.folder / "decoder.engine"))
    plugins = PluginLibrary("plugins.so", FileRecord(hashlib.sha256(b"trusted").hexdigest(), len(b"trusted")))
    built = with_engines(fresh_tiny, decoder=engine, vision=engine, plugins=plugins)
    error = refused(TrtBackend(built, gpu=gpu, allow_unverified=allowed).load)
    if allowed:
        assert error.what == "the engine does not load" and seen == ["changed", "engine"]
    else:
        assert error.exit_code == 2 and not seen
        assert (
            error.what == "a plugin library has changed since it was built; it is executable code, so it is not loaded"
        )


def test_unknown_names_and_targets(bundle: Bundle) -> None:
    assert "did you mean 'tensorrt'" in str(refused(lambda: open_backend("tensort", bundle)))
    assert "unknown back-end" in str(refused(lambda: open_backend("cpu:rtx-ada", bundle)))
    assert "no debug graph" in str(refused(lambda: open_backend("tensorrt", bundle, debug=True)))
    error = refused(lambda: open_backend("tensorrt:rtx-adda", with_engines(bundle, target="rtx-ada")))
    assert error.exit_code == 2 and "did you mean 'rtx-ada'" in str(error)
