"""Plans in 8 and 4 bits of a bundle with slots: factors stay beside the codes, and adapters answer as beside floats."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import lora_bundle
import numpy as np
import pytest
from growing import stepped
from numpy.typing import NDArray
from slow_cases import slow_but

from luvc_export.bundle.folder import load
from luvc_export.calibration import datasets
from luvc_export.calibration.quantise.calibrate import calibrate
from luvc_export.calibration.quantise.recipe import Recipe
from luvc_export.core.precision import PRECISIONS
from luvc_export.runtime.adapters.factors import Factors
from luvc_export.runtime.model import TokensPrompt
from luvc_export.runtime.session import Session

pytestmark = pytest.mark.slow(
    beside="export/test_packed.py::test_an_adapter_beside_codes_is_what_it_is_merged_into_what_they_stand_for"
)

NAMES = [*lora_bundle.ADAPTERS]
TOKENS = [10, 40, 41, 42]
PLAN = "thirds"
#: What codes move, by what the adapter moves: rounding to 8 bits, and to 4 of layers this small.
LIMITS = {"thirds_quantized": 0.1, "thirds_q4": 0.5}


@pytest.fixture(scope="module")
def coded(lora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with slots and two more plans; nothing is asked of their answers, which nobody trained."""
    data, folder = datasets.load("glyph", count=16), tmp_path_factory.mktemp("slots") / "bundle"
    two = dataclasses.replace(
        data, cases=(data.cases[0], data.cases[-1]), pixels=(data.pixels[0], data.pixels[-1]), longest=1
    )
    for precision in ("q8", "q4"):
        bundle, recipe = load(folder if folder.is_dir() else lora / "slots"), Recipe(PRECISIONS[precision])
        calibrate(bundle, two, recipe, plan=PLAN, min_agreement=0.0, output=folder, overwrite=True, threads=1)
    assert {*load(folder).manifest.plans} == {PLAN, *LIMITS}
    return folder


def opened(bundle: Path, lora: Path, plan: str, backend: str = "cpu") -> Session:
    more = {} if backend == "cpu" else {"arithmetic": "fp32"}
    return Session(bundle, backend, plan, 1, lora={name: lora / name for name in NAMES}, **more)  # type: ignore[arg-type]


def logits(session: Session, adapter: str | None) -> NDArray[np.float32]:
    """Of a prompt and of the token after it, [2, vocab]."""
    first = session.default.run(TOKENS, adapter=session.adapters.find(adapter))
    return np.concatenate([first.logits[0, -1:], session.default.run([40], state=first.state).logits[0]])


@pytest.fixture(scope="module")
def floats(lora: Path) -> dict[str | None, NDArray[np.float32]]:
    session = opened(lora / "slots", lora, PLAN)
    return {name: logits(session, name) for name in (None, *NAMES)}


def worst(session: Session, floats: dict[str | None, NDArray[np.float32]]) -> float:
    """What an adapter does beside codes and beside floats: how far they are apart, by what it does."""
    base = logits(session, None)
    errors = []
    for name in NAMES:
        effect = floats[name] - floats[None]
        errors.append(np.abs(logits(session, name) - base - effect).max() / np.abs(effect).max())
    return float(max(errors))


@pytest.mark.parametrize(
    ("plan", "backend"),
    slow_but(
        [("thirds_q4", "cpu")],
        [("thirds_quantized", "cpu"), ("thirds_q4", "cpu"), ("thirds_quantized", "openvino+cpu")],
    ),
)
def test_an_adapter_beside_codes_does_what_it_does(
    coded: Path, lora: Path, floats: dict[str | None, NDArray[np.float32]], plan: str, backend: str
) -> None:
    if backend != "cpu":
        pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    session = opened(coded, lora, plan, backend)
    assert session.bundle.manifest.lora is not None and session.bundle.entry(plan).quantised is not None
    assert worst(session, floats) < LIMITS[plan]


def test_factors_that_are_lost_are_noticed(
    coded: Path, lora: Path, floats: dict[str | None, NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage, at the looser limit."""
    honest = Factors.feeds
    monkeypatch.setattr(Factors, "feeds", lambda self, adapters: honest(self, [None] * len(adapters)))
    assert worst(opened(coded, lora, "thirds_q4"), floats) > 0.9


def test_rows_of_several_adapters_share_a_call(coded: Path, lora: Path) -> None:
    """Blocks of 4 bits are rounded by row, so a row of a call is what it is alone."""
    session = opened(coded, lora, "thirds_q4")
    rows = [session.adapters.find(name) for name in (None, *NAMES)]
    together = session.default.graphs.prefill([TokensPrompt(TOKENS, adapter=row) for row in rows])
    after = stepped(session.default.graphs, [40] * len(rows), together.state)
    for index, name in enumerate((None, *NAMES)):
        alone = logits(session, name)
        np.testing.assert_allclose(together.logits[index], alone[0], atol=1e-3)
        np.testing.assert_allclose(after.logits[index], alone[1], atol=1e-3)
