"""The C++ side of the contract: the generated header is the description's, and a description that drifts shows."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from luvc_export.core.operators import MAX_PAYLOADS, OPERATORS, SCORES, Attribute, Operator

SPECTRUM_PRUNE, ORTHOGONAL_MERGE = OPERATORS["SpectrumPrune"], OPERATORS["OrthogonalMerge"]
PLUGINS = Path(__file__).resolve().parents[2] / "plugins"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_contract", PLUGINS / "make_contract.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_header_is_up_to_date(maker: ModuleType) -> None:
    """Mended by ``python plugins/make_contract.py``, and in the plugins' C++ where that then breaks."""
    assert (PLUGINS / "common" / "contract.h").read_text(encoding="utf-8") == maker.header()


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(SPECTRUM_PRUNE, attributes=(Attribute("kept", "INT"), *SPECTRUM_PRUNE.attributes[1:])),
        dataclasses.replace(SPECTRUM_PRUNE, inputs=SPECTRUM_PRUNE.inputs[::-1]),
        dataclasses.replace(ORTHOGONAL_MERGE, outputs=ORTHOGONAL_MERGE.outputs[:3]),
        dataclasses.replace(ORTHOGONAL_MERGE, attributes=(Attribute("removed_rows", "FLOAT"),)),
    ],
    ids=["attribute", "order", "output", "kind"],
)
def test_drift_changes_the_header(maker: ModuleType, other: Operator) -> None:
    assert maker.header(OPERATORS | {other.name: other}) != maker.header()


def test_the_c_abi_has_the_same_limits_and_scores() -> None:
    text = (PLUGINS / "include" / "luvc" / "spectrum_prune.h").read_text(encoding="utf-8")
    limit = re.search(r"#define LUVC_MAX_PAYLOADS (\d+)", text)
    assert limit is not None and int(limit[1]) == MAX_PAYLOADS
    codes = dict(re.findall(r"LUVC_SCORE_(\w+) = (\d+)", text))
    assert [name.lower() for name in sorted(codes, key=codes.__getitem__)] == list(SCORES)


def test_plugins_name_no_field_themselves() -> None:
    """Every field name in the plugins' sources comes from the header."""
    names = {attribute.name for operator in OPERATORS.values() for attribute in operator.attributes}
    for source in sorted((PLUGINS / "tensorrt").glob("*_plugin.cpp")):
        literals = set(re.findall(r'(?:integer|integers|number|text|add)\("(\w+)"', source.read_text(encoding="utf-8")))
        assert not literals & names, source.name
