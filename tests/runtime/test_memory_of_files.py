"""Files of weights are held no longer once packed; what is no file stays, and what is read again is what it was."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle
from luvc_export.runtime import memory
from luvc_export.runtime.memory import leave_to_files
from luvc_export.runtime.session import Session

PAGES = 64


def held() -> int:
    """Bytes of files that this process holds in memory."""
    lines = Path("/proc/self/smaps").read_text(encoding="utf-8").split("weights.bin")[1:]
    return sum(
        int(line.split()[1]) << 10 for part in lines for line in part.splitlines()[:10] if line.startswith("Rss:")
    )


@pytest.fixture
def mapped(tmp_path: Path) -> NDArray[np.uint8]:
    (tmp_path / "weights.bin").write_bytes(bytes(range(256)) * (PAGES * mmap.PAGESIZE // 256))
    return np.memmap(tmp_path / "weights.bin", np.uint8, "r")


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the system takes no such advice")
def test_what_files_hold_is_let_go_and_read_again(mapped: NDArray[np.uint8]) -> None:
    part, total = mapped[100 : 40 * mmap.PAGESIZE + 7], int(mapped.sum())
    before = held()
    assert leave_to_files([part]) == part.nbytes
    assert before == PAGES * mmap.PAGESIZE and held() <= 23 * mmap.PAGESIZE
    assert int(mapped.sum()) == total and held() == before


def test_copies_and_empty_arrays_stay(mapped: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    copied = np.array(mapped[:5])
    assert leave_to_files([copied, mapped[:0], mapped[3:9].copy()]) == 0 and copied.tolist() == [0, 1, 2, 3, 4]
    monkeypatch.delattr(mmap, "MADV_DONTNEED", raising=False)
    assert leave_to_files([mapped]) == 0


def test_a_graph_that_ran_holds_no_files(demo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    left: list[int] = []

    def count(arrays: Iterable[NDArray[np.uint8]]) -> int:
        left.append(sum(each.nbytes for each in arrays))
        return left[-1]

    monkeypatch.setattr(memory, "leave_to_files", count)
    calls = Session(demo_bundle, "openvino", "none", threads=1, arithmetic="fp32").default
    state = calls.run([97, 98, 99]).state
    calls.run([100], state=state)
    assert len(left) == 1 and left[0] > 0
