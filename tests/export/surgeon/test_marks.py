"""What tracing marks: computed by bodies, bit for bit what torch's own arithmetic traces to, and never left over."""

from __future__ import annotations

import json
from collections.abc import Callable

import onnx
import pytest
import torch
from flat_plans import replan
from surgery_harness import Traced, cut, differences, edited, fired, operators

from luvc_export.core.operators import MARKS
from luvc_export.core.plan import MergePass, Plan
from luvc_export.core.target import ORT_CPU
from luvc_export.errors import CheckFailed
from luvc_export.export.compression import marks, oim
from luvc_export.export.surgeon import pass_list
from luvc_export.export.surgeon.fused import bodies
from luvc_export.export.surgeon.passes import fuse_orthogonal_merge, fuse_spectrum_prune

LONG = [("padded", "vision"), ("padded", "decoder"), ("inside", "vision")]
FUSES = {"vision": fuse_orthogonal_merge, "decoder": fuse_spectrum_prune}


@pytest.mark.parametrize("half", FUSES)
def test_marks_and_fused_nodes_compute_what_torch_does(half: str, traced: Traced) -> None:
    """To the last bit."""
    alike(getattr(traced, half), traced.plain[half], half, traced.plan)


@pytest.mark.slow(beside="export/surgeon/test_marks.py::test_marks_and_fused_nodes_compute_what_torch_does")
@pytest.mark.parametrize(("name", "half"), LONG)
def test_so_do_those_that_know_padding_and_windows(
    name: str, half: str, unmarked: Callable[[str], dict[str, onnx.ModelProto]], request: pytest.FixtureRequest
) -> None:
    of: Traced = request.getfixturevalue(name)
    alike(getattr(of, half), unmarked(name)[half], half, of.plan)


def alike(marked: onnx.ModelProto, plain: onnx.ModelProto, half: str, plan: Plan) -> None:
    assert operators(marked, *MARKS) and not operators(plain, *MARKS)
    assert operators(marked, "TopK") < operators(plain, "TopK")
    fused = cut(marked, FUSES[half])
    assert not operators(fused, *MARKS)
    assert max(differences(plain, marked, plan).values()) == 0
    assert max(differences(plain, fused, plan).values()) == 0


@pytest.mark.parametrize("half", FUSES)
def test_a_body_that_is_not_torchs_is_seen(half: str, traced: Traced) -> None:
    wrong = {
        "vision": bodies.merge_axis("max", 1),
        "decoder": bodies.spectrum_choose("low", "token"),
    }[half]

    def change(model: onnx.ModelProto) -> None:
        [place] = [i for i, item in enumerate(model.functions) if item.name == wrong.name]
        model.functions[place].CopyFrom(wrong)

    assert max(differences(traced.plain[half], edited(getattr(traced, half), change), traced.plan).values()) > 1e-2


@pytest.mark.parametrize("half", FUSES)
def test_a_graph_without_marks_stays_as_it_was_traced_and_says_so(traced: Traced, half: str) -> None:
    count, reason = fired(traced.plain[half], FUSES[half])
    assert count == 0 and "is marked: " in reason and "traced without marks" in reason


@pytest.mark.parametrize("half", FUSES)
def test_a_mark_that_no_pass_fuses_does_not_pass_lint(traced: Traced, half: str) -> None:
    others = [step for step in pass_list() if step is not FUSES[half]]
    with pytest.raises(CheckFailed, match=r"a mark of the trace that no pass fused"):
        cut(getattr(traced, half), *others, target=ORT_CPU)


def test_a_mark_that_is_missing_is_seen(inside: Traced) -> None:
    """A pass of the plan that the trace left out."""

    def shorter(model: onnx.ModelProto) -> None:
        merges = (*inside.plan.encoder.merges, MergePass(0, 1, 0))
        model.metadata_props[0].value = json.dumps(replan(inside.plan, merges=merges, keep=(20, 0, 0)).to_json())

    with pytest.raises(CheckFailed, match="the fused merges are not the plan's"):
        cut(edited(inside.vision, shorter), fuse_orthogonal_merge)


def test_nothing_is_marked_outside_of_a_trace() -> None:
    """Eager torch computes, whatever is asked for: a mark would be zeros."""
    units = oim.start(torch.randn(1, 4, 4, 8, generator=torch.Generator().manual_seed(0)))
    plain = oim.merge(units, MergePass(0, 1, 1))
    with marks.marking():
        assert not marks.marks()
        asked = oim.merge(units, MergePass(0, 1, 1))
    assert plain.x.abs().sum() > 0 and all(torch.equal(a, b) for a, b in zip(plain, asked, strict=True))
