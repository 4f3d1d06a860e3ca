"""What lies in the cache folder is read where nobody but this user can have written it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luvc_export.core.files.safe_files import read_own
from luvc_export.engines import builder
from luvc_export.runtime.tensorrt.engine import TrtEngine

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="nothing says whose a file is")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir(mode=0o755)
    path = tmp_path / "cache" / "kernels"
    path.write_bytes(b"kernels")
    path.chmod(0o644)
    return path


def test_a_file_of_this_user_s_is_read(file: Path) -> None:
    assert read_own(file) == b"kernels"
    file.parent.chmod(0o700)
    file.chmod(0o664)  # a umask of 002, where nobody else may enter the folder
    assert read_own(file) == b"kernels"
    assert read_own(file.with_name("nothing")) is None


@pytest.mark.parametrize(("folder", "mode"), [(0o777, 0o644), (0o775, 0o644), (0o755, 0o666), (0o755, 0o664)])
def test_what_another_may_have_written_is_not(file: Path, folder: int, mode: int) -> None:
    file.parent.chmod(folder)
    file.chmod(mode)
    assert read_own(file) is None


def test_another_user_s_and_a_link_are_not(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    assert read_own(link) is None
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert read_own(file) is None


class Config:
    """What of TensorRT's configurations takes a cache."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []

    def create_timing_cache(self, data: bytes) -> SimpleNamespace:
        self.taken.append(data)
        return SimpleNamespace()

    def set_timing_cache(self, cache: Any, ignore: bool) -> bool:
        return True

    def create_runtime_cache(self) -> SimpleNamespace:
        return SimpleNamespace(deserialize=self.taken.append)

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None: ...

    def set_runtime_cache(self, cache: Any) -> None: ...


def test_kernels_and_times_of_others_are_not_taken(file: Path) -> None:
    strategies = SimpleNamespace(USER_MANAGED=0, WHOLE_GRAPH_CAPTURE=1, DISABLED=2)
    trt = SimpleNamespace(ExecutionContextAllocationStrategy=strategies, CudaGraphStrategy=strategies)
    for mode, kernels, times in ((0o644, [b"kernels"], b"kernels"), (0o666, [], b"")):
        file.chmod(mode)
        config = Config()
        engine = SimpleNamespace(_engine=SimpleNamespace(create_runtime_config=lambda c=config: c), _trt=trt)
        engine._cache_file = file
        TrtEngine._configure(engine, static=False)  # type: ignore[arg-type]
        assert config.taken == kernels
        builder.attach(config, file, named=False)
        builder.attach(config, file)
        assert config.taken == [*kernels, times, b"kernels"], "a file that the user named is read as it is"
