"""Whoever opens a bundle's graphs does it behind a first run in a helper, or says here why not."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "luvc_export"
#: What takes graphs: the libraries' own calls, and the back-ends around them.
CALLS = frozenset({"InferenceSession", "compile_model", "OrtBackend", "OpenVinoBackend", "InplaceOrt", "TrtBackend"})
ALLOWED = {
    "runtime/backends.py": {"OrtBackend", "OpenVinoBackend", "TrtBackend"},  # calls first_run.check
    "packing/inplace.py": {"OrtBackend", "InplaceOrt"},  # calls first_run.check_with, and is its task
    "packing/on_device.py": {"InplaceOrt"},  # which calls it
    "runtime/backend_choice.py": {"OrtBackend", "OpenVinoBackend"},  # asks what the machine lacks; loads nothing
    "runtime/ort.py": {"InferenceSession"},  # OrtBackend itself
    "runtime/openvino/compiling.py": {"compile_model"},  # OpenVinoBackend itself
    "runtime/product_check/check.py": {"InferenceSession", "compile_model"},  # a graph written there
    "runtime/speed_probe/first_token.py": {"InferenceSession", "compile_model"},  # the same
    "runtime/speed_probe/one_row.py": {"InferenceSession", "compile_model"},  # the same
    "trial/engine_measure.py": {"TrtBackend"},  # engines built a moment ago by the trial
    "calibration/runners/__init__.py": {"TrtBackend"},  # engines, named by the user
}


def calls(source: str) -> Iterator[str]:
    """Calls in ``source`` that take graphs."""
    for node in ast.walk(ast.parse(source)) if any(name in source for name in CALLS) else ():
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in CALLS:
                yield name


def opened() -> dict[str, set[str]]:
    """The package's files, its linked folders' too, that make such calls."""
    by_file: dict[str, set[str]] = {}
    for folder, _, names in os.walk(PACKAGE, followlinks=True):
        for path in (Path(folder, name) for name in names if name.endswith(".py")):
            if called := {*calls(path.read_text(encoding="utf-8"))}:
                by_file[path.relative_to(PACKAGE).as_posix()] = called
    return by_file


def test_no_graph_is_opened_past_the_first_run() -> None:
    assert opened() == ALLOWED, "open graphs with runtime.backends.open_backend, or say here what else is known of them"


@pytest.mark.parametrize("file", ["runtime/backends.py", "packing/inplace.py"])
def test_those_that_are_said_to_ask_do(file: str) -> None:
    text = (PACKAGE / file).read_text(encoding="utf-8")
    assert "first_run.check" in text


def test_a_call_past_it_is_seen() -> None:
    assert [*calls("import onnxruntime as o\ns = o.InferenceSession('g.onnx')\nb = OrtBackend(bundle, entry)")] == [
        "InferenceSession", "OrtBackend"
    ]  # fmt: skip
