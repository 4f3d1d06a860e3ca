"""What ``--speculate`` takes, and where it is refused."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.core.shapes import DecoderShape, LayerShape, State
from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.model import Capabilities
from luvc_export.runtime.ort import OrtBackend
from luvc_export.runtime.session import Session
from luvc_export.runtime.speculation.request import MOST, USUAL, USUAL_OF_MODEL, Speculation, check_backend

PLAIN = DecoderShape(1, 8, 2, 1, 4, 16, 32, 64)


def test_a_state_that_every_token_changes_is_refused(bundle: Bundle) -> None:
    """What has a value a cached row is masked with the row; a sum of all rows is not."""
    backend = OrtBackend(bundle, bundle.entry(), threads=1)
    place, total = State(0, "place", (-1,), "int64"), State(0, "convolution", (8, 2), "float32")
    layer = (LayerShape(0, 4, 16, 0),)
    check_backend(backend, dataclasses.replace(PLAIN, states=(place,)))
    with pytest.raises(UsageError, match=r"cannot be taken back\n.*\n.*convolution states in 1 of 1 layers"):
        check_backend(backend, dataclasses.replace(PLAIN, states=(total,), per_layer=layer))


def test_lookup_has_a_length() -> None:
    assert Speculation.parse("lookup") == Speculation(USUAL) and Speculation.parse("lookup:3") == Speculation(3)


def test_a_smaller_model_has_a_folder_and_a_length() -> None:
    assert Speculation.parse("draft:a/b") == Speculation(USUAL_OF_MODEL, "a/b")
    assert Speculation.parse("draft:C:/b#none:6") == Speculation(6, "C:/b#none")


@pytest.mark.parametrize(
    "text", ["", "look", "lookup:", "lookup:0", f"lookup:{MOST + 1}", "lookup:x", "draft", "draft:", "draft:x:0"]
)
def test_anything_else_is_refused_by_name(bundle: Bundle, text: str) -> None:
    with pytest.raises(UsageError, match="no way to draft") as caught:
        Session(bundle, speculate=text)
    assert caught.value.where == "--speculate" and f"1 to {MOST}" in str(caught.value)


@pytest.mark.parametrize(
    "backend", [SimpleNamespace(name=name, capabilities=Capabilities()) for name in ("tensorrt", "cuda")]
)
def test_a_back_end_that_cannot_roll_back_is_refused(backend: SimpleNamespace) -> None:
    with pytest.raises(MachineError, match="one token of a row a step") as caught:
        check_backend(backend, PLAIN)
    assert backend.name in str(caught.value) and "--backend cpu" in str(caught.value)


def test_so_is_one_row_at_a_time(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = OrtBackend(bundle, bundle.entry(), threads=1)
    check_backend(backend, PLAIN)
    monkeypatch.setattr(backend, "capabilities", dataclasses.replace(backend.capabilities, rows=1))
    with pytest.raises(MachineError):
        Session(bundle, backend, speculate="lookup")
