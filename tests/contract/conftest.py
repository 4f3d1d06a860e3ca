from __future__ import annotations

from collections.abc import Iterator

import cells
import pytest


@pytest.fixture(scope="module", autouse=True)
def gpu_bytes() -> Iterator[None]:
    """Room on the stand-in GPU for as long as a module's sessions live."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*cells.GPU_BYTES)
        yield
