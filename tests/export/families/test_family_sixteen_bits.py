"""A seeded share of the matrix of types, families, plans and engines, whose whole is docs/results/sixteen-bits.json."""

from __future__ import annotations

import random
import shutil
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from family_harness import build
from family_questions import exportable
from made_once import made_once
from slow_cases import slow_but

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "benchmarks/measure/matrix"))

import odd_checkpoints  # noqa: E402
import sixteen_bits  # noqa: E402
import sixteen_bits_cells  # noqa: E402
from sixteen_bits_cells import CHECKS, CODES, FAMILIES, KINDS, NAMED, PLAN, WEIGHTS, Cells  # noqa: E402

from luvc_export.bundle.folder import load  # noqa: E402
from luvc_export.calibration.parity.result import Gate  # noqa: E402
from luvc_export.core.precision import CACHES, PRECISIONS  # noqa: E402
from luvc_export.export import families  # noqa: E402
from luvc_export.export.families.base import ReferencePrompt  # noqa: E402
from luvc_export.export.weights import DTYPES  # noqa: E402
from luvc_export.runtime.openvino import device as devices  # noqa: E402
from luvc_export.runtime.prompt.case_lines import FileCase  # noqa: E402

#: Draws what is run: a family, a type, a kind whose plan is made of the default one's, and checks.
DRAW = random.Random(58)
NAME, DTYPE = DRAW.choice(FAMILIES), DRAW.choice([dtype for dtype in DTYPES if dtype != "fp32"])
DRAWN = [(PLAN, check) for check in DRAW.sample(CHECKS, 3)] + [(DRAW.choice([*CODES]), DRAW.choice(CHECKS))]


@pytest.fixture(scope="module")
def drawn(pytestconfig: pytest.Config) -> Path:
    """A folder with a checkpoint and a bundle; never changed."""

    def export(folder: Path) -> None:
        Cells(folder, (PLAN,)).exported(NAME, PLAN, DTYPE)

    return made_once(pytestconfig.cache.mkdir("sixteen"), Path(sixteen_bits_cells.__file__), export)


@pytest.fixture
def cells(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cells:
    """What runs cells of that bundle, which they may change."""
    monkeypatch.setattr(devices, "describe", devices.describe)
    sixteen_bits.believe_bf16()
    shutil.copytree(drawn, tmp_path / "drawn")
    run = Cells(tmp_path / "drawn", (PLAN,))
    run.know(load(tmp_path / "drawn" / "bundles" / f"{NAME}-{DTYPE}"), NAME, DTYPE)
    return run


def test_every_option_has_a_column() -> None:
    assert {*WEIGHTS} | {"q4f16"} == {*PRECISIONS} and {*CODES.values()} == {*CACHES}
    assert {*NAMED, *WEIGHTS, *CODES} < {*KINDS} and {*FAMILIES} <= {*families.built_in()}
    every = {(name, kind, dtype) for name in FAMILIES for kind in KINDS for dtype in {*DTYPES} - {"fp32"}}
    order = sixteen_bits.order()
    assert {*order} == every and len(order) == len(every)


def test_what_differs_has_a_reason() -> None:
    differ = {sixteen_bits.key(one) for one in sixteen_bits.read() if sixteen_bits.differs(one)}
    assert differ == {*sixteen_bits.REASONS}
    other = {**sixteen_bits.read()[0], "family": "another", "checks": {"checker": "differs: x"}}
    assert sixteen_bits.differs(other) and not sixteen_bits.differs({"none": "no such layers"})


@pytest.mark.slow(
    beside="export/families/test_family_sixteen_bits.py::test_what_rounds_no_worse_than_the_reference_is_told_from_what_does"
)
@pytest.mark.parametrize(("kind", "check"), slow_but([PLAN], DRAWN))
def test_a_drawn_cell_is_as_the_page_says(cells: Cells, kind: str, check: str) -> None:
    pytest.importorskip({"openvino": "openvino", "rtx": "tensorrt_rtx"}.get(check.split()[0], "onnxruntime"))
    (record,) = (one for one in sixteen_bits.read() if sixteen_bits.key(one) == (NAME, kind, DTYPE))
    result = cells(NAME, kind, DTYPE, [check])["checks"][check]
    assert sixteen_bits.kinds_of(result) == sixteen_bits.kinds_of(record["checks"][check]) != "differs", result


@pytest.mark.parametrize("name", ["minicpmv4_7", "qwen3_5"])
def test_gated_norms_of_tiny_models_say_something_in_16_bits(name: str) -> None:
    tiny, seen = exportable(name), list[torch.Tensor]()
    words = torch.randint(3, 200, (256,), generator=torch.Generator().manual_seed(7)).tolist()
    inputs = tiny.family.reference_inputs(tiny.config, ReferencePrompt(torch.zeros(0, 1, *tiny.size, 3), words))
    for dtype in (torch.float32, torch.bfloat16):
        model = deepcopy(tiny.model).to(dtype)
        norm = model.get_submodule("model.language_model.layers.0.linear_attn.norm")
        norm.register_forward_pre_hook(lambda _, rows: seen.append(rows[0].float()))
        with torch.no_grad():
            model(input_ids=inputs["input_ids"])
    wide, narrow = seen
    apart = (wide - narrow).norm(dim=-1) / wide.norm(dim=-1)
    assert apart.max() < 0.2  # 0.28 and 0.87 where queries and keys are drawn apart


@pytest.mark.slow(
    beside="export/families/test_family_sixteen_bits.py::test_what_rounds_no_worse_than_the_reference_is_told_from_what_does"
)
def test_a_graph_of_a_wrong_type_differs(cells: Cells) -> None:
    bundle, _ = cells.exported(NAME, PLAN, DTYPE)
    path = bundle.path(bundle.entry(PLAN).decoder)
    model = onnx.load(path, load_external_data=False)
    cast = next(node for node in model.graph.node if node.op_type == "Cast")
    cast.attribute[0].i = onnx.TensorProto.STRING
    onnx.save(model, path)
    assert cells(NAME, PLAN, DTYPE, ["checker"])["checks"]["checker"].startswith("differs: ")


@pytest.mark.slow(
    beside="export/families/test_family_sixteen_bits.py::test_what_rounds_no_worse_than_the_reference_is_told_from_what_does"
)
@pytest.mark.parametrize("kind", slow_but([PLAN], [PLAN, WEIGHTS[0]]))
def test_a_wrong_answer_differs(cells: Cells, kind: str) -> None:
    """The bundle is held to another model of the same shape, and codes to those of that model too."""
    pytest.importorskip("openvino")
    tiny = exportable(NAME)
    build(tiny.family, tiny.config, seed=1).model.save_pretrained(cells.checkpoint(NAME))
    result = cells(NAME, kind, DTYPE, ["openvino fp32"])["checks"]["openvino fp32"]
    assert result.startswith("differs: ") and "relative L2" in result


@pytest.mark.parametrize(
    ("name", "own", "reference", "near"),
    [
        ("relative L2", 0.09, 0.08, True),
        ("relative L2", 0.13, 0.08, False),
        ("relative L2", float("nan"), 0.08, False),
        ("top-1 agreement", 0.95, 0.96, True),
        ("top-1 agreement", 0.93, 0.96, False),
        ("top-1 agreement", 0.99, 1.0, False),
    ],
)
def test_what_rounds_no_worse_than_the_reference_is_told_from_what_does(
    name: str, own: float, reference: float, near: bool
) -> None:
    pair = [Gate("tensors", name, got, 0.0, name == "relative L2", "") for got in (own, reference)]
    assert sixteen_bits_cells.as_near(*pair) is near


@pytest.mark.parametrize(
    ("own", "widened", "expected"),
    [
        (0.598, 0.01, "equal to its own codes in fp32, as near to the model as a bundle's in fp32"),
        (1.4, 0.01, "differs: relative L2"),  # codes of another model
        (0.598, 0.7, "differs: relative L2"),  # arithmetic of its own
    ],
)
def test_codes_of_a_bundle_in_bf16_are_as_good_as_others(
    own: float, widened: float, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes of a bundle in fp32 are 0.6 from the model, and too far from those of this one."""
    apart = {("model", "bf16"): own, ("model", "fp32"): 0.6, ("fp32", "bf16"): 0.65, ("widened", "bf16"): widened}
    bundle: Any = SimpleNamespace(
        folder=tmp_path / "bf16", entry=lambda plan: SimpleNamespace(quantised=SimpleNamespace(precision="int4"))
    )

    def pair(left: str, right: str, **_: Any) -> tuple[str, str]:
        return "model" if left.startswith("torch:") else "fp32", "bf16"

    def held(one: str, other: str, asked: object, **_: Any) -> SimpleNamespace:
        gap = apart[one, other]
        gate = Gate("tensors", "relative L2", gap, 0.4, True, "")
        return SimpleNamespace(gates=[gate], comparison=SimpleNamespace(measured=[]))

    for name, stub in {"open_pair": pair, "parity": held, "Remembered": str}.items():
        monkeypatch.setattr(sixteen_bits_cells, name, stub)
    monkeypatch.setattr(sixteen_bits_cells, "open_bundle", lambda *_, threads: "widened")
    cells = Cells(tmp_path, (PLAN,))
    monkeypatch.setattr(cells, "exported", lambda *_: (SimpleNamespace(folder=tmp_path / "fp32"), "safe_int4"))
    assert cells.same(bundle, "safe_int4", NAME, "bf16", "openvino", "fp32") == expected


@pytest.mark.parametrize(("top1", "explained"), [(0.96, "0 of 1 answers after a tie (0 apart)"), (0.9, None)])
def test_a_position_of_the_prompt_needs_a_tie_where_its_gate_failed(top1: float, explained: str | None) -> None:
    guess = SimpleNamespace(prediction=SimpleNamespace(widest_gap=0.34))
    runner = SimpleNamespace(dtype="bf16")
    comparison = SimpleNamespace(
        reference=runner, candidate=runner, answered=[SimpleNamespace(diverged=None)], measured=[guess]
    )
    gates = [Gate("tensors", "top-1 agreement", top1, 0.95, False, "")]
    result: Any = SimpleNamespace(comparison=comparison, gates=gates)
    assert sixteen_bits_cells.tied(result, [FileCase((), "Hi")]) == explained


def test_the_page_is_its_figures_and_no_cell_of_it_is_empty() -> None:
    records = sixteen_bits.read()
    page = sixteen_bits.page(records)
    assert sixteen_bits.PAGE.read_text(encoding="utf-8") == page
    assert not [line for line in page.splitlines() if line.startswith("|") and "|  |" in line]
    assert sixteen_bits.page([]).count("every plan") == len(FAMILIES) * (len(DTYPES) - 1)


def test_odd_heads_and_tokenizers_of_every_family_are_equal() -> None:
    """As far as a page can say; tests of heads and of tokenizers say it of what they draw."""
    lines = odd_checkpoints.read()
    assert odd_checkpoints.PAGE.read_text(encoding="utf-8") == odd_checkpoints.page(lines)
    assert [one["family"] for one in lines] == sorted(FAMILIES)
    for one in lines:
        before, own = one["ids"]
        assert one["is"].startswith("equal") and own < before, one
