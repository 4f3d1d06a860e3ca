from __future__ import annotations

import json

import pytest

from luvc_export.errors import (
    BundleError,
    CheckFailed,
    CheckpointError,
    LuvcError,
    MachineError,
    PlanError,
    UsageError,
    did_you_mean,
    first_few,
)


def test_text_has_every_part_in_order() -> None:
    error = UsageError("it broke", where="a.onnx", got=3, expected="2", fix="pay")
    assert str(error) == "it broke\n  where: a.onnx\n  got: 3\n  expected: 2\n  fix: pay"


@pytest.mark.parametrize(("kind", "code"), [(UsageError, 2), (CheckFailed, 1), (MachineError, 3)])
def test_exit_codes(kind: type[LuvcError], code: int) -> None:
    assert kind("x").exit_code == code


@pytest.mark.parametrize("kind", [UsageError, PlanError, BundleError, CheckpointError, CheckFailed, MachineError])
def test_an_error_of_another_process_is_the_same_here(kind: type[LuvcError]) -> None:
    error = kind("nothing fits", where="plan.keep", got=3, expected=None, fix="--plan safe")
    again = LuvcError.from_json(json.loads(json.dumps(error.to_json())))
    assert type(again) is kind and str(again) == str(error) and again.exit_code == error.exit_code


@pytest.mark.parametrize("kind", ["unicodedata", "shown", "Any", "none such"])
def test_a_kind_that_is_no_error_is_the_one_that_reads_it(kind: str) -> None:
    """A helper that reads what strangers wrote may answer anything."""
    assert type(BundleError.from_json({**LuvcError("x").to_json(), "kind": kind})) is BundleError


def test_names_beyond_the_first_few_are_dots() -> None:
    assert first_few("abcde") == "a, b, c, d, e" and first_few("abcdef") == "a, b, c, d, e, ..." and first_few("") == ""


def test_did_you_mean() -> None:
    assert did_you_mean("qwen2_5vl", ["llava", "qwen2_5_vl"]) == "did you mean 'qwen2_5_vl'? known: llava, qwen2_5_vl"
    assert did_you_mean("zzz", ["llava"]) == "known: llava"
