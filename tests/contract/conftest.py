from __future__ import annotations

import gc
from collections.abc import Iterator

import cells
import pytest


@pytest.fixture(scope="module", autouse=True)
def gpu_bytes() -> Iterator[None]:
    """Room on the stand-in GPU for as long as a module's sessions live; other modules of the process use it too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*cells.GPU_BYTES)
        yield
    gc.collect()
