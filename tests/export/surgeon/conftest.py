from __future__ import annotations

from pathlib import Path

import frozen_cache
import onnx
import padded_cache
import pytest
import traced_cache
from made_once import made_once
from surgery_harness import Traced


@pytest.fixture(scope="session")
def traced(pytestconfig: pytest.Config) -> Traced:
    """Qwen2.5-VL, two blocks and three layers, random weights inside the graphs, one merge and three prunes."""
    folder = made_once(Path(pytestconfig.cache.mkdir("traced")), Path(traced_cache.__file__), traced_cache.write)
    return Traced(*(onnx.load(folder / f"{half}.onnx") for half in ("vision", "decoder")), traced_cache.PLAN)


@pytest.fixture(scope="session")
def padded(pytestconfig: pytest.Config) -> Traced:
    """The same for pictures that may be padded."""
    folder = made_once(Path(pytestconfig.cache.mkdir("padded")), Path(padded_cache.__file__), padded_cache.write)
    return Traced(*(onnx.load(folder / f"{half}.onnx") for half in ("vision", "decoder")), padded_cache.PLAN)


@pytest.fixture(scope="session")
def frozen(pytestconfig: pytest.Config) -> Traced:
    """Three layers, the first two frozen, and two prunes."""
    folder = made_once(Path(pytestconfig.cache.mkdir("frozen")), Path(frozen_cache.__file__), frozen_cache.write)
    return Traced(*(onnx.load(folder / f"{half}.onnx") for half in ("vision", "decoder")), frozen_cache.PLAN)
