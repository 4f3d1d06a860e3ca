"""A seeded share of the matrix of types, families, plans and engines, whose whole is docs/results/sixteen-bits.json."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import onnx
import pytest
from family_harness import build
from family_questions import exportable
from made_once import made_once

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "benchmarks/measure/matrix"))

import sixteen_bits  # noqa: E402
import sixteen_bits_cells  # noqa: E402
from sixteen_bits_cells import CHECKS, CODES, FAMILIES, KINDS, NAMED, PLAN, WEIGHTS, Cells  # noqa: E402

from luvc_export.bundle.folder import load  # noqa: E402
from luvc_export.core.precision import CACHES, PRECISIONS  # noqa: E402
from luvc_export.export import families  # noqa: E402
from luvc_export.export.weights import DTYPES  # noqa: E402
from luvc_export.runtime.openvino import device as devices  # noqa: E402

SEED = 56
#: Kinds that one plan of one bundle shows, so that a draw costs one export.
SHARED = (*WEIGHTS, *CODES)


@pytest.fixture(scope="module")
def drawn(pytestconfig: pytest.Config) -> tuple[Path, str, str]:
    """A folder with a checkpoint and a bundle of a family in a type, as the seed says; never changed."""
    draw = random.Random(SEED)
    name, dtype = draw.choice(FAMILIES), draw.choice([name for name in DTYPES if name != "fp32"])

    def export(folder: Path) -> None:
        Cells(folder, (PLAN,)).exported(name, PLAN, dtype)

    return made_once(pytestconfig.cache.mkdir("sixteen"), Path(sixteen_bits_cells.__file__), export), name, dtype


@pytest.fixture
def cells(drawn: tuple[Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cells:
    """What runs cells of that bundle, which they may change."""
    folder, name, dtype = drawn
    monkeypatch.setattr(devices, "describe", devices.describe)
    sixteen_bits.believe_bf16()
    shutil.copytree(folder, tmp_path / "drawn")
    run = Cells(tmp_path / "drawn", (PLAN,))
    run.know(load(tmp_path / "drawn" / "bundles" / f"{name}-{dtype}"), name, dtype)
    return run


def test_every_option_has_a_column() -> None:
    assert {*WEIGHTS} | {"q4f16"} == {*PRECISIONS} and {*CODES.values()} == {*CACHES}
    assert {*NAMED, *SHARED} < {*KINDS} and {*FAMILIES} <= {*families.built_in()}
    every = {(name, kind, dtype) for name in FAMILIES for kind in KINDS for dtype in DTYPES}
    order = sixteen_bits.order()
    assert {*order} == every and len(order) == len(every)


@pytest.mark.parametrize("check", CHECKS)
def test_a_drawn_cell_is_as_the_page_says(cells: Cells, drawn: tuple[Path, str, str], check: str) -> None:
    pytest.importorskip("openvino" if check.startswith("openvino") else "onnxruntime")
    _, name, dtype = drawn
    record = next((one for one in sixteen_bits.read() if sixteen_bits.key(one) == (name, PLAN, dtype)), None)
    assert record is not None
    result = cells(name, PLAN, dtype, [check])["checks"][check]
    assert result == record["checks"][check] and sixteen_bits.kinds_of(result) != "differs"


def test_a_graph_of_a_wrong_type_differs(cells: Cells, drawn: tuple[Path, str, str]) -> None:
    _, name, dtype = drawn
    bundle, _ = cells.exported(name, PLAN, dtype)
    path = bundle.path(bundle.entry(PLAN).decoder)
    model = onnx.load(path, load_external_data=False)
    cast = next(node for node in model.graph.node if node.op_type == "Cast")
    cast.attribute[0].i = onnx.TensorProto.INT32
    onnx.save(model, path)
    assert cells(name, PLAN, dtype, ["checker"])["checks"]["checker"].startswith("differs: ")


def test_a_wrong_answer_differs(cells: Cells, drawn: tuple[Path, str, str]) -> None:
    """The bundle is held to another model of the same shape."""
    _, name, dtype = drawn
    tiny = exportable(name)
    build(tiny.family, tiny.config, seed=1).model.save_pretrained(cells.checkpoint(name))
    result = cells(name, PLAN, dtype, ["openvino fp32"])["checks"]["openvino fp32"]
    assert result.startswith("differs: ") and "relative L2" in result


def test_the_page_is_its_figures_and_no_cell_of_it_is_empty() -> None:
    records = sixteen_bits.read()
    page = sixteen_bits.page(records)
    assert sixteen_bits.PAGE.read_text(encoding="utf-8") == page
    assert not [line for line in page.splitlines() if line.startswith("|") and "|  |" in line]
    assert sixteen_bits.page([]).count("every plan") == len(FAMILIES) * len(DTYPES)
