"""doctor --need: the part that is named, and no other that begins alike."""

from __future__ import annotations

import sys

import pytest

from luvc_export.cli import main

PARTS = {"TensorRT-RTX": (("numpy",), "rtx"), "TensorRT": (("no-such-package",), None)}


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("tensorrt", 3, "TensorRT does not work here"),
        ("tensorrt-rtx", 0, ""),
        ("tensort", 2, "did you mean 'TensorRT'?"),
        ("", 2, "unknown part"),
    ],
)
def test_the_part_that_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, code: int, said: str
) -> None:
    monkeypatch.setattr("luvc_export.cli.doctor.PARTS", PARTS)
    monkeypatch.setattr(sys, "argv", ["luvc-export", "doctor", f"--need={name}"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert (stop.value.code or 0) == code and said in capsys.readouterr().err
