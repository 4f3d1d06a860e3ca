"""What a stranger put into a bundle does not reach the user's files: links, and files that nobody listed."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from luvc_export.bundle import folder as bundles
from luvc_export.bundle import hashing
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import EngineEntry, EngineFile, Footprint
from luvc_export.bundle.replacing import strangers, take_along
from luvc_export.calibration.quantise.calibrate import check
from luvc_export.calibration.quantise.recipe import Recipe
from luvc_export.calibration.quantise.weight_packing import WeightPacker
from luvc_export.cli import main
from luvc_export.cli.files import write_whole
from luvc_export.core.files import safe_files
from luvc_export.core.precision import find
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.engines.install import _move_in
from luvc_export.errors import BundleError, UsageError

SECRET = "export PATH=$HOME/bin:$PATH\n"


@pytest.fixture
def start_file(tmp_path: Path) -> Path:
    path = tmp_path / "home" / ".bashrc"
    path.parent.mkdir()
    path.write_text(SECRET)
    return path


def plant(folder: Path, start_file: Path, *names: str) -> None:
    for name in names:
        (folder / name).symlink_to(start_file)


def test_links_at_every_name_that_was_predictable_are_not_followed(copied_bundle: Path, start_file: Path) -> None:
    plant(copied_bundle, start_file, ".luvc.json.part", ".plan.json.part", "plan.json", ".verify.json.part")
    manifest = bundles.load(copied_bundle).manifest
    bundles.write_manifest(copied_bundle, manifest)
    write_whole(copied_bundle / "plan.json", "{}")
    assert start_file.read_text() == SECRET
    assert not (copied_bundle / "plan.json").is_symlink() and bundles.load(copied_bundle).manifest == manifest


def test_new_files_are_not_made_where_a_link_lies(tmp_path: Path, start_file: Path) -> None:
    plant(tmp_path, start_file, "weights.even_int8", "vision.even_int8.onnx")
    with pytest.raises(FileExistsError):
        WeightPacker(tmp_path, "weights.even_int8")
    with pytest.raises(FileExistsError):
        safe_files.write_new(tmp_path / "vision.even_int8.onnx", b"graph")
    assert start_file.read_text() == SECRET


@pytest.mark.parametrize("name", ["decoder.even_int8.onnx", "weights.even_int8", "notes.txt"])
def test_build_and_calibrate_refuse_a_bundle_with_a_link(copied_bundle: Path, start_file: Path, name: str) -> None:
    plant(copied_bundle, start_file, name)
    bundle = bundles.load(copied_bundle)
    with pytest.raises(BundleError, match=name):
        check(bundle, "even", Recipe(find("int8")), 0.99, False, None)
    assert strangers(copied_bundle, bundle.manifest) == [name]


@pytest.mark.parametrize("link", [True, False])
def test_only_what_is_listed_is_taken_along_into_another_bundle(
    copied_bundle: Path, start_file: Path, tmp_path: Path, link: bool
) -> None:
    """Overwrites and copies that were shown: links at names of the bundle, and engines' names that leave it."""
    manifest, new = bundles.load(copied_bundle).manifest, tmp_path / "new"
    new.mkdir()
    (copied_bundle / "notes.txt").symlink_to(start_file)
    (copied_bundle / "more").mkdir()
    take_along(copied_bundle, manifest, new, link=link)
    assert {path.name for path in new.iterdir()} == {"luvc.json", *manifest.files}
    assert ((new / "weights").stat().st_ino == (copied_bundle / "weights").stat().st_ino) == link
    for planted in ("layers", "log", "file"):
        for name in ("../home/.bashrc", "/etc/passwd", "..", "a/b"):
            with pytest.raises(BundleError, match="leaves its folder"):
                take_along(
                    copied_bundle,
                    replace(manifest, engines=(naming(tmp_path / "made", **{planted: name}),)),
                    new,
                    link=link,
                )
    listed = replace(manifest, engines=(naming(tmp_path / "made", log="vision.log"),))
    plant(copied_bundle, start_file, "vision.log")
    with pytest.raises(BundleError, match="leaves its folder"):
        take_along(copied_bundle, listed, new, link=link)
    (copied_bundle / "vision.log").unlink()
    os.mkfifo(copied_bundle / "vision.log")
    with pytest.raises((BundleError, UsageError), match=r"pipe|no regular file"):
        take_along(copied_bundle, listed, new, link=link, but=frozenset({*manifest.files, "luvc.json"}))
    assert start_file.read_text() == SECRET


@pytest.mark.parametrize("name", ["plan", "page", "checkpoint", "bundle"])
def test_a_link_at_the_name_that_is_written_is_not_followed(
    start_file: Path, tmp_path: Path, demo_bundle: Bundle, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of thing the verbs write: files replace the link, folders are refused."""
    size, out = f"{IMAGE_SIZE[0]}x{IMAGE_SIZE[1]}", tmp_path / "out"
    words = {
        "plan": ("plan", CHECKPOINT, "--image-size", size, "-o", out),
        "page": ("inspect", demo_bundle.folder, "--surgery", "--html", out),
        "checkpoint": ("make-random", "smolvlm-256m", "--layers", 1, "--encoder-blocks", 1, "-o", out),
        "bundle": ("export", CHECKPOINT, "--image-size", size, "--plan", "none", "--overwrite", "-o", out),
    }[name]
    target = start_file if name in ("plan", "bundle") else tmp_path / "new start file"
    out.symlink_to(target)
    monkeypatch.setattr(sys, "argv", ["luvc-export", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert start_file.read_text() == SECRET and not (tmp_path / "new start file").exists()
    refused = name in ("checkpoint", "bundle")
    assert (stop.value.code or 0, out.is_symlink()) == ((2, True) if refused else (0, False))


def engine(name: str, path: Path) -> EngineFile:
    for suffix in ("engine", "layers.json", "log"):
        (path / f"{name}.{suffix}").write_text(name)
    recorded = hashing.record(path / f"{name}.engine")
    return EngineFile(f"{name}.engine", recorded, (), (), (), 0, None, f"{name}.layers.json", f"{name}.log")


def entry(path: Path) -> EngineEntry:
    path.mkdir(exist_ok=True)
    return EngineEntry(
        *("even", "h100", "fp16", "concat", "tensorrt", "10.3.0", ("9.0",)),  # type: ignore[arg-type]
        *(False, "none", False, False, 1, 1, 96, engine("vision.even.h100", path), engine("decoder.even.h100", path)),  # type: ignore[arg-type]
        footprint=Footprint(1, 1, 1, 1, 1),
    )


def naming(path: Path, **names: str) -> EngineEntry:
    """An engine's entry whose vision part names other files."""
    planted = entry(path)
    return replace(planted, vision=replace(planted.vision, **names))


def test_engines_take_names_that_nothing_has_and_older_ones_leave_last(
    copied_bundle: Path, start_file: Path, tmp_path: Path
) -> None:
    plant(copied_bundle, start_file, "decoder.even.h100.log")
    bundle = bundles.load(copied_bundle)
    first = _move_in(copied_bundle, tmp_path / "made", entry(tmp_path / "made")).manifest.engines[0]
    assert start_file.read_text() == SECRET and first.decoder.log == "decoder.even.h100.log"
    again = _move_in(copied_bundle, tmp_path / "made", entry(tmp_path / "made"))
    assert [item.vision.file for item in again.manifest.engines] == ["vision.2.even.h100.engine"]
    assert not (copied_bundle / first.vision.file).exists() and not strangers(copied_bundle, again.manifest)
    assert bundles.load(copied_bundle, full=True).manifest.files == bundle.manifest.files


def test_overwrite_removes_only_what_the_bundle_holds(copied_bundle: Path) -> None:
    (copied_bundle / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match=r"thesis\.txt"), bundles.writing(copied_bundle, overwrite=True):
        pass
    assert (copied_bundle / "thesis.txt").read_text() == "years of work"


def test_a_pipe_in_a_bundle_is_refused_and_not_waited_for(copied_bundle: Path) -> None:
    (copied_bundle / "tokenizer.json").unlink()
    os.mkfifo(copied_bundle / "tokenizer.json")
    with pytest.raises(UsageError, match="no regular file"):
        bundles.load(copied_bundle)


@pytest.mark.parametrize("text", ["[/bold]", "\x1b]0;owned\x07", "a\u202eb"])
def test_texts_of_a_manifest_do_not_steer_the_terminal(
    copied_bundle: Path, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads((copied_bundle / "luvc.json").read_text())
    data["source"]["model"] = text
    (copied_bundle / "luvc.json").write_text(json.dumps(data))
    monkeypatch.setattr(sys, "argv", ["luvc-export", "inspect", str(copied_bundle)])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    printed = out + err
    assert "\x1b]" not in printed and "\u202e" not in printed and "internal error" not in printed
    assert (stop.value.code or 0, "[/bold]" in out) == ((0, True) if text == "[/bold]" else (2, False))
