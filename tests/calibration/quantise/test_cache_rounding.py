"""What codes of caches take, and why they are int8 and not FP8, in numbers that docs/calibration.md names."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from luvc_export.calibration.quantise.cache_codes import HEADROOM, LARGEST
from luvc_export.core.budgets import kv_bytes
from luvc_export.core.shapes import DecoderShape


def times(numbers: NDArray[Any], axis: int, headroom: float) -> float:
    """Error of FP8 by that of codes, root mean squares, where numbers along ``axis`` share a scale."""
    largest = headroom * np.abs(numbers).max(axis, keepdims=True)
    top = float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)
    as_fp8 = (numbers / largest * top).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * largest / top
    as_codes = np.round(numbers / largest * LARGEST) * largest / LARGEST
    return float(np.sqrt(np.mean((as_fp8 - numbers) ** 2) / np.mean((as_codes - numbers) ** 2)))


def test_fp8_rounds_more_coarsely_at_equal_bytes() -> None:
    """E4M3 has three bits behind the first, so no scale helps: keys as Qwen2's with two large biases, and values."""
    random = np.random.default_rng(0)
    keys = random.normal(size=(4000, 128))
    assert times(keys, 0, HEADROOM) == pytest.approx(2.4, abs=0.1)
    keys[:, [1, 6]] += np.array([50, -80])
    assert times(keys, 0, HEADROOM) == pytest.approx(8.6, abs=0.1)
    assert times(random.normal(size=(4000, 128)), 1, 1.0) == pytest.approx(4.0, abs=0.1)


def test_bytes_of_a_token() -> None:
    shape = DecoderShape(36, 2048, 16, 2, 128, 11008, 151936, 128000)
    wide, narrow = (sum(kv_bytes(shape, [0] * 36, 4096, codes=codes)) for codes in (False, True))
    assert wide == 36 * 4096 * 2 * 2 * 128 * 2 and narrow / wide == 258 / 512
