"""Sign-offs stand for the bytes they speak of and no others."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.engines.checks import changed, newest_sign_off
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import EngineEntry, EngineFile, FileRecord, Footprint, Manifest, Verified
from luvc_export.cli import main
from luvc_export.cli.tables.engines import trust


def file(name: str, digest: str) -> EngineFile:
    return EngineFile(name, FileRecord(digest, 0), (), (), (), 0, None, "", "")


def signed(files: dict[str, str], date: str = "2026-01-02T03:04:05+00:00") -> Verified:
    board = ("NVIDIA Jetson AGX Orin", "36.4.3", "MAXN")
    return Verified(
        "thirds", "jetson", "tensorrt", "10.3.0", date, *board, 4, {"worst_kl": 0.01}, ("clocks vary",), files
    )


@pytest.fixture
def manifest(demo_bundle: Bundle) -> Manifest:
    engine = EngineEntry(
        *("thirds", "jetson", "fp16", "concat", "tensorrt", "10.3.0", ("8.7",)),  # type: ignore[arg-type]
        *(False, "none", False, False, 1, 1, 96, file("v.engine", "aa"), file("d.engine", "bb")),  # type: ignore[arg-type]
        footprint=Footprint(1, 1, 1, 1, 1),
    )
    return dataclasses.replace(demo_bundle.manifest, engines=(engine,))


def test_a_sign_off_stands_for_its_bytes(manifest: Manifest) -> None:
    (entry,) = manifest.engines
    good, stale = signed({"v.engine": "aa", "d.engine": "bb"}), signed({"v.engine": "aa", "d.engine": "old"})
    assert changed(good, manifest) == () and changed(stale, manifest) == ("d.engine",)
    assert newest_sign_off(entry, manifest) is None and "nobody signed off" in trust(entry, manifest)
    for items, wanted in (((stale,), None), ((stale, good), good), ((signed({"weights": "0"}),), None)):
        with_them = dataclasses.replace(manifest, verified=items)
        assert newest_sign_off(entry, with_them) is wanted
    newer = signed({"v.engine": "aa", "d.engine": "bb"}, "2026-02-01T00:00:00+00:00")
    assert newest_sign_off(entry, dataclasses.replace(manifest, verified=(newer, good))) is newer


def test_inspect_shows_who_signed_what(
    copied_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    manifest = bundles.load(copied_bundle).manifest
    graphs = [name for name in manifest.files if name.endswith(".onnx")][:1]
    good = signed({name: manifest.files[name].sha256 for name in graphs})
    stale = signed({graphs[0]: "0" * 64})
    bundles.write_manifest(copied_bundle, dataclasses.replace(manifest, verified=(good, stale)))

    def inspect(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["luvc-export", "inspect", str(copied_bundle), *more])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        return capsys.readouterr().out

    out = " ".join(inspect().split())
    assert "yes: these files answered" in out and f"no: {graphs[0]} changed since" in out
    assert "NVIDIA Jetson AGX Orin, Jetson Linux 36.4.3, 2026-01-02T03:04:05+00:00" in out and "clocks vary" in out
    assert json.loads(inspect("--json"))["changed_since_verified"] == [[], graphs]
