from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import apart_cache
import encoder_cache
import frozen_cache
import greedy_cache
import numpy as np
import onnx
import padded_cache
import pytest
import shared_cache
import traced_cache
from made_once import made_once
from surgery_harness import Traced

from luvc_export.core.plan import Plan


@pytest.fixture(scope="session")
def traced(pytestconfig: pytest.Config) -> Traced:
    """Qwen2.5-VL, two blocks and three layers, random weights inside the graphs, one merge and three prunes."""
    folder = made_once(Path(pytestconfig.cache.mkdir("traced")), Path(traced_cache.__file__), traced_cache.write)
    return replace(_both(folder, traced_cache.PLAN), plain=_plain(folder))


@pytest.fixture(scope="session")
def padded(pytestconfig: pytest.Config) -> Traced:
    """The same for pictures that may be padded, without the plain ones."""
    folder = made_once(Path(pytestconfig.cache.mkdir("padded")), Path(padded_cache.__file__), padded_cache.write)
    return _both(folder, padded_cache.PLAN)


@pytest.fixture(scope="session")
def inside(pytestconfig: pytest.Config) -> Traced:
    """A vision graph whose plan merges in windows, merges twice more after the same block, prunes and restores."""
    folder = made_once(Path(pytestconfig.cache.mkdir("inside")), Path(encoder_cache.__file__), encoder_cache.write)
    vision = onnx.load(folder / "vision.onnx")
    return Traced(vision, vision, encoder_cache.PLAN)


@pytest.fixture(scope="session")
def unmarked(pytestconfig: pytest.Config) -> Callable[[str], dict[str, onnx.ModelProto]]:
    """The graphs of ``padded`` and ``inside`` without marks, by half."""

    def of(name: str) -> dict[str, onnx.ModelProto]:
        maker: Any = {"padded": padded_cache, "inside": encoder_cache}[name]
        cache = Path(pytestconfig.cache.mkdir(f"{name}-plain"))
        return _plain(made_once(cache, Path(maker.__file__), partial(maker.write, marked=False)))

    return of


def _both(folder: Path, plan: Plan) -> Traced:
    return Traced(onnx.load(folder / "vision.onnx"), onnx.load(folder / "decoder.onnx"), plan)


def _plain(folder: Path) -> dict[str, onnx.ModelProto]:
    return {path.stem.removeprefix("plain_"): onnx.load(path) for path in folder.glob("plain_*.onnx")}


def _decoder(pytestconfig: pytest.Config, name: str, cache: Any) -> Traced:
    folder = made_once(Path(pytestconfig.cache.mkdir(name)), Path(cache.__file__), cache.write)
    return Traced(onnx.ModelProto(), onnx.load(folder / "decoder.onnx"), cache.PLAN)


@pytest.fixture(scope="session")
def frozen(pytestconfig: pytest.Config) -> Traced:
    """Three layers, the first two frozen, and two prunes; the decoder alone."""
    return _decoder(pytestconfig, "frozen", frozen_cache)


@pytest.fixture(scope="session")
def apart(pytestconfig: pytest.Config) -> Traced:
    """Three layers, tokens apart before the first two, and a prune before the third; the decoder alone."""
    return _decoder(pytestconfig, "apart", apart_cache)


@pytest.fixture(scope="session")
def shared(pytestconfig: pytest.Config) -> Traced:
    """Two prunes with an aggregate and V-CAST's quotas of four images that share budgets."""
    return _decoder(pytestconfig, "shared", shared_cache)


@pytest.fixture(scope="session")
def in_torch(shared: Traced, pytestconfig: pytest.Config) -> Callable[[str], dict[str, Any]]:
    """What torch makes of each case of the harness with the decoder of ``shared``."""
    folder = made_once(Path(pytestconfig.cache.mkdir("shared")), Path(shared_cache.__file__), shared_cache.write)
    return lambda case: dict(np.load(folder / f"{case}.npz"))


@pytest.fixture(scope="session")
def greedy(pytestconfig: pytest.Config) -> Traced:
    """Two prunes in rounds and one that was learned; the decoder alone."""
    return _decoder(pytestconfig, "greedy", greedy_cache)
