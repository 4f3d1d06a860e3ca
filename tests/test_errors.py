from __future__ import annotations

import pytest

from luvc_export.errors import CheckFailed, LuvcError, MachineError, UsageError, did_you_mean


def test_text_has_every_part_in_order() -> None:
    error = UsageError("it broke", where="a.onnx", got=3, expected="2", fix="pay")
    assert str(error) == "it broke\n  where: a.onnx\n  got: 3\n  expected: 2\n  fix: pay"


@pytest.mark.parametrize(("kind", "code"), [(UsageError, 2), (CheckFailed, 1), (MachineError, 3)])
def test_exit_codes(kind: type[LuvcError], code: int) -> None:
    assert kind("x").exit_code == code


def test_did_you_mean() -> None:
    assert did_you_mean("qwen2_5vl", ["llava", "qwen2_5_vl"]) == "did you mean 'qwen2_5_vl'? known: llava, qwen2_5_vl"
    assert did_you_mean("zzz", ["llava"]) == "known: llava"
