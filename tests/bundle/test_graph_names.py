"""Inputs and outputs of a bundle's graphs under other names, or gone: one error on every back-end, in time."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import onnx
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
import tiny_bundle

from luvc_export.bundle import folder as bundles
from luvc_export.errors import BundleError
from luvc_export.runtime.session import Session

#: Optional of plans that are told nothing of padding.
SILENT = "merged_into"
NAMES = {
    "vision.onnx": ("image", "visual_embeds", "visual_positions"),
    "decoder.onnx": (
        *("visual_embeds", "input_ids", "visual_position_ids", "position_ids", "visual_order", "order", "text_mask"),
        *("logits_indices", "past_key_values.0.key", "past_key_values.1.value"),
        *("logits", "present.0.key", "present.1.value", "kept_indices.0"),
    ),
}
EACH = [(file, name) for file, names in NAMES.items() for name in names]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle.write(tmp_path_factory.mktemp("named") / "bundle").folder


def renamed(original: Path, place: Path, file: str, name: str, inside: bool) -> Path:
    """A copy whose graph calls ``name`` something else, in its nodes too (``inside``) or outside alone."""
    shutil.copytree(original, place)
    model = onnx.load_model_from_string((place / file).read_bytes())
    for value in (*model.graph.input, *model.graph.output):
        value.name = "another" if value.name == name else value.name
    for node in model.graph.node if inside else ():
        node.input[:] = ["another" if one == name else one for one in node.input]
        node.output[:] = ["another" if one == name else one for one in node.output]
    data = model.SerializeToString()
    (place / file).write_bytes(data)
    manifest = json.loads((place / "luvc.json").read_text())
    manifest["files"][file] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (place / "luvc.json").write_text(json.dumps(manifest))
    return place


def ask(folder: Path, backend: str) -> str:
    session = Session(bundles.load(folder), backend, threads=1)
    return session.generate(Image.new("RGB", (4, 4)), "hello", max_new_tokens=2).text


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
@pytest.mark.parametrize(("file", "name"), EACH)
def test_another_name_is_refused_and_said(original: Path, tmp_path: Path, file: str, name: str, backend: str) -> None:
    """``visual_position_ids`` was an IndexError on OpenVINO, ``visual_order`` ended the process."""
    folder = renamed(original, tmp_path / "bundle", file, name, inside=True)
    with pytest.raises(BundleError) as caught:
        ask(folder, backend)
    error = caught.value
    assert error.what in (
        "the graph lacks inputs of its plan",
        "the graph lacks outputs of its plan",
        "the graph has inputs that nothing is given for",
    )
    assert error.where == str(folder / file) and error.got == "another" and name in str(error.expected)


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
@pytest.mark.parametrize(("file", "name"), [EACH[1], EACH[5], EACH[-1]])
def test_what_nothing_gives_is_refused(original: Path, tmp_path: Path, file: str, name: str, backend: str) -> None:
    folder = renamed(original, tmp_path / "bundle", file, name, inside=False)
    with pytest.raises(BundleError, match="what nothing in it gives") as caught:
        ask(folder, backend)
    assert caught.value.where == str(folder / file)


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_what_is_not_asked_for_may_be_missing(original: Path, tmp_path: Path, backend: str) -> None:
    wanted = ask(original, backend)
    assert ask(renamed(original, tmp_path / "bundle", "vision.onnx", SILENT, inside=True), backend) == wanted
