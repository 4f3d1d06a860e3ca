"""doctor --need: the part that is named, and no other that begins alike."""

from __future__ import annotations

import pytest
from cli_words import Cli

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
def test_the_part_that_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str, code: int, said: str) -> None:
    monkeypatch.setattr("luvc_export.cli.commands.doctor.PARTS", PARTS)
    got, _, err = cli("doctor", f"--need={name}")
    assert got == code and said in err
