from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from luvc_export.bundle import folder as bundle
from luvc_export.bundle import hashing
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import Manifest
from luvc_export.errors import BundleError, UsageError


def manifest(folder: Path) -> dict[str, object]:
    data: dict[str, object] = json.loads((folder / "luvc.json").read_text())
    return data


def test_manifest_round_trips(demo_bundle: Bundle) -> None:
    assert Manifest.from_json(json.loads(json.dumps(demo_bundle.manifest.to_json())), "x") == demo_bundle.manifest
    assert bundle.load(demo_bundle.folder, full=True).manifest == demo_bundle.manifest


@pytest.mark.parametrize("name", ["vision.even.onnx", "weights", "tokenizer.json"])
def test_one_flipped_byte_is_found_before_parsing(copied_bundle: Path, name: str) -> None:
    path = copied_bundle / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="has changed since it was exported") as error:
        bundle.load(copied_bundle)
    assert name in str(error.value)


def test_missing_and_shortened_files_are_named(copied_bundle: Path) -> None:
    path = copied_bundle / "decoder.none.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"decoder.none.onnx"):
        bundle.load(copied_bundle)
    path.unlink()
    with pytest.raises(BundleError, match="a file of the bundle is missing"):
        bundle.load(copied_bundle)


def test_newer_schema_says_to_update(copied_bundle: Path) -> None:
    data = manifest(copied_bundle) | {"schema_version": 99}
    (copied_bundle / "luvc.json").write_text(json.dumps(data))
    with pytest.raises(BundleError, match="newer luvc-export") as error:
        bundle.load(copied_bundle)
    assert "pip install --upgrade" in str(error.value)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "..", "a/b", "c:\\x", ""])
def test_paths_that_leave_the_bundle_are_refused(copied_bundle: Path, name: str) -> None:
    data = manifest(copied_bundle)
    files = data["files"]
    assert isinstance(files, dict)
    files[name] = next(iter(files.values()))
    (copied_bundle / "luvc.json").write_text(json.dumps(data))
    with pytest.raises(BundleError, match="leaves its folder"):
        bundle.load(copied_bundle)


def test_a_link_out_of_the_bundle_is_refused(copied_bundle: Path, tmp_path: Path) -> None:
    moved = (copied_bundle / "tokenizer.json").rename(tmp_path / "elsewhere.json")
    (copied_bundle / "tokenizer.json").symlink_to(moved)
    with pytest.raises(BundleError, match="leaves its folder"):
        bundle.load(copied_bundle)


def test_a_graph_the_manifest_does_not_hash_is_refused(copied_bundle: Path) -> None:
    data = manifest(copied_bundle)
    files = data["files"]
    assert isinstance(files, dict)
    del files["vision.even.onnx"]
    (copied_bundle / "luvc.json").write_text(json.dumps(data))
    with pytest.raises(BundleError, match="does not list this file"):
        bundle.load(copied_bundle)


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", '{"schema_version": 1}', '"x"', "[" * 100_000])
def test_a_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "luvc.json").write_text(text)
    with pytest.raises(BundleError):
        bundle.load(tmp_path)


def test_wrong_type_names_the_field(copied_bundle: Path) -> None:
    data = manifest(copied_bundle)
    data["image"] = {"size": [252, "252"], "fit": "pad", "pad_colour": [0, 0, 0]}
    (copied_bundle / "luvc.json").write_text(json.dumps(data))
    with pytest.raises(BundleError, match=r"luvc\.json: image: size"):
        bundle.load(copied_bundle)


def test_a_rule_that_a_newer_version_wrote_is_named(demo_bundle: Bundle) -> None:
    """As versions before LFM2-VL's tiles meet a bundle of them."""
    data = demo_bundle.manifest.to_json()
    data["prompt"]["tiling"] = "ratio_of_tomorrow"
    wanted = r"none that this version knows(.|\n)*prompt: tiling(.|\n)*of_tomorrow(.|\n)*'closest_ratio' or(.|\n)*new"
    with pytest.raises(BundleError, match=wanted):
        Manifest.from_json(data, "luvc.json")


def test_no_bundle_and_no_plan(tmp_path: Path, demo_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        bundle.load(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="did you mean 'thirds'"):
        demo_bundle.entry("third")


@pytest.mark.parametrize(
    ("folder", "got", "fix"),
    [
        ("out/bundle/luvc.json", "a file", "give the bundle's folder: {}/out/bundle"),
        ("out/bundle/decoder.onnx", "a file", "give the bundle's folder: {}/out/bundle"),
        ("out/bundle/gone.onnx", "no such folder", "give the bundle's folder: {}/out/bundle"),
        ("out/bundle#none", "no such folder", "give the folder, and the plan by itself: {}/out/bundle --plan none"),
        ("out", "a folder without luvc.json", "give the bundle's folder: {}/out/bundle"),
        ("picture.png", "a file", "luvc-export export MODEL -o BUNDLE"),
        ("nowhere", "no such folder", "luvc-export export MODEL -o BUNDLE"),
        ("model", "a folder without luvc.json", "luvc-export export {}/model -o BUNDLE"),
    ],
)
def test_what_is_no_bundle_is_named(tmp_path: Path, folder: str, got: str, fix: str) -> None:
    for name in ("out/bundle/luvc.json", "out/bundle/decoder.onnx", "picture.png", "model/config.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(BundleError) as caught:
        bundle.load(tmp_path / folder)
    error = caught.value
    assert (error.where, error.got, error.fix) == (str(tmp_path / folder), got, fix.format(tmp_path))
    assert error.expected == "a folder with luvc.json, as luvc-export export writes it"


def test_a_large_file_is_hashed_whole_once_and_again_when_it_may_be_another(
    copied_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "REMEMBERED_BYTES", 3 * 2**20)
    hashed: list[int] = []
    digest = hashing._digest
    monkeypatch.setattr(hashing, "_digest", lambda file, *arguments: hashed.append(1) or digest(file, *arguments))
    weights = copied_bundle / "weights"
    others = sum(
        1 for name in bundle.load(copied_bundle).manifest.files if name != "weights"
    )  # this load is the one that hashes the weights

    def hashes(full: bool = False) -> int:
        del hashed[:]
        bundle.load(copied_bundle, full=full)
        return len(hashed) - others

    assert hashes() == 0 and hashes(full=True) == 1
    stat = weights.stat()
    with weights.open("r+b") as file:  # in the middle, where no edge is; then the time is put back
        file.seek(stat.st_size // 2)
        file.write(bytes(4096))
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(BundleError, match="has changed since it was exported") as error:
        bundle.load(copied_bundle)
    assert str(weights) in str(error.value)


def test_records_of_0_1_0_are_hashed_whole(copied_bundle: Path) -> None:
    path, data = copied_bundle / "weights", manifest(copied_bundle)
    files = data["files"]
    assert isinstance(files, dict)
    files["weights"] |= {"edges_sha256": "0" * 64, "mtime_ns": path.stat().st_mtime_ns}
    (copied_bundle / "luvc.json").write_text(json.dumps(data))
    bundle.load(copied_bundle)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match="weights"):
        bundle.load(copied_bundle)


def test_writing_leaves_nothing_half_done(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), bundle.writing(target) as folder:
        (folder / "vision.onnx").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_writing_replaces_only_a_bundle_and_only_on_demand(tmp_path: Path, demo_bundle: Bundle) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="something that is not a bundle"), bundle.writing(target, overwrite):
            pass
    (target / "luvc.json").write_text("{}")
    with pytest.raises(UsageError, match="--overwrite"), bundle.writing(target):
        pass
    with pytest.raises(UsageError, match="remove the folder yourself"), bundle.writing(target, overwrite=True):
        pass
    bundle.write_manifest(target, demo_bundle.manifest)
    with (
        pytest.raises(BundleError, match=r"not the bundle's[^?]*'thesis\.txt'"),
        bundle.writing(target, overwrite=True),
    ):
        pass
    (target / "thesis.txt").rename(tmp_path.parent / "thesis.txt")
    with bundle.writing(target, overwrite=True) as folder:
        (folder / "luvc.json").write_text("new")
    assert (target / "luvc.json").read_text() == "new" and list(tmp_path.iterdir()) == [target]
