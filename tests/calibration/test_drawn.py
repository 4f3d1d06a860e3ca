"""Drawn pictures: the same for a seed, of every kind, and photographs with the statistics of photographs."""

from __future__ import annotations

import numpy as np
import pytest

from luvc_export.calibration import datasets, drawn


def test_more_cases_begin_with_the_same() -> None:
    few, more = list(drawn.cases(3)), list(drawn.cases(5))
    assert all((one.images[0] == other.images[0]).all() for one, other in zip(few, more, strict=False))
    assert [case.kind for case in more[:3]] == ["page", "photograph", "texture"]
    assert not (more[0].images[0] == next(drawn.cases(1, seed=1)).images[0]).all()


def test_they_are_a_calibration_set_of_unknown_answers() -> None:
    data = datasets.load("drawn", count=6)
    assert not data.known and data.pictures == 6 and len({case.prompt for case in data.cases}) == 3
    fitted, held = data.split()
    assert {len(part.cases) for part in (fitted, held)} == {3}
    assert data.sha256 == datasets.load("drawn", count=6).sha256


def slope(picture: np.ndarray) -> float:
    """Exponent of the amplitude of grey values by frequency, over the middle octaves."""
    side = min(picture.shape[:2])
    grey = picture[:side, :side].mean(-1)
    window = np.hanning(side)
    amplitude = np.abs(np.fft.fft2((grey - grey.mean()) * window * window[:, None]))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)) * side
    rings = [(low, amplitude[(frequency >= low) & (frequency < 2 * low)].mean()) for low in (4, 8, 16, 32)]
    return float(np.polyfit(*np.log(rings).T, 1)[0])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_photographs_lose_amplitude_with_frequency_as_natural_scenes_do(seed: int) -> None:
    """Field (1987) and others since: exponents of -0.8 to -1.5. White noise has 0."""
    rng = np.random.default_rng(seed)
    assert -1.7 < slope(drawn.photograph(rng, 256, 256)) < -0.7
    assert abs(slope(rng.integers(0, 256, (256, 256, 3)))) < 0.2
