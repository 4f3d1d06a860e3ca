"""What the documentation once told others to import still works, under its old name, with a warning."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from luvc_export import moved
from luvc_export.export import surgeon

#: What docs/adding-a-family.md and others named: (module, name, module it is in now, its name there).
TOLD = (
    ("luvc_export.export.plain_vision", "PlainVision", "luvc_export.export.towers.learned_position_vit", None),
    ("luvc_export.export.rotary_vision", "RotaryVision", "luvc_export.export.towers.rotary_position_vit", None),
    ("luvc_export.export.mrope", "MropeFamily", "luvc_export.export.llm.mrope", "MropeFamily"),
    ("luvc_export.export.decoder", "Decoder", "luvc_export.export.llm.decoder", "Decoder"),
    ("luvc_export.shapes", "EncoderShape", "luvc_export.core.shapes", "EncoderShape"),
    ("luvc_export.cut", "Cut", "luvc_export.core.tiling", "Tiling"),
    ("luvc_export.cut", "Tiling", "luvc_export.core.tiling", "TilingRule"),
    ("luvc_export.contract", "VISUAL_EMBEDS", "luvc_export.core.graph_io", "VISUAL_EMBEDS"),
    ("luvc_export.plan", "Plan", "luvc_export.core.plan", "Plan"),
    ("luvc_export.target", "TargetSpec", "luvc_export.core.target", "TargetSpec"),
    ("luvc_export.runtime.trt", "TrtBackend", "luvc_export.runtime.tensorrt.backend", "TrtBackend"),
    ("luvc_export.runtime.video", "open_video", "luvc_export.runtime.media.video", "open_video"),
)
RENAMED = {"PlainVision": "LearnedPositionViT", "RotaryVision": "RotaryPositionViT"}


@pytest.mark.parametrize(("old", "name", "new", "name_there"), TOLD)
def test_old_names_are_the_new_things(
    old: str, name: str, new: str, name_there: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{old} is {new} now"):
        found = getattr(import_module(old), name)
    assert found is getattr(import_module(new), name_there or RENAMED[name])


def test_every_moved_module_is_tried() -> None:
    assert {old for old, *_ in TOLD} == set(moved.MOVED)


def test_the_warning_names_the_line_that_imports(tmp_path: Path) -> None:
    script = tmp_path / "family.py"
    script.write_text("import sys\nfrom luvc_export.shapes import EncoderShape\nprint(EncoderShape.__module__)\n")
    result = subprocess.run([sys.executable, "-W", "default", str(script)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "luvc_export.core.shapes"
    assert f"{script}:2: DeprecationWarning: luvc_export.shapes is luvc_export.core.shapes now" in result.stderr


def test_what_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"luvc_export\.shape"):
        import_module("luvc_export.shape")
    with (
        pytest.warns(DeprecationWarning, match="luvc_export.core.shapes"),
        pytest.raises(AttributeError, match="no attribute 'Shape'"),
    ):
        sys.modules.pop("luvc_export.shapes", None)
        _ = import_module("luvc_export.shapes").Shape


def test_surgery_is_found_under_its_old_verb() -> None:
    with pytest.warns(DeprecationWarning, match="run_passes"):
        assert surgeon.operate is surgeon.run_passes
    with pytest.raises(AttributeError, match="no attribute 'operates'"):
        _ = surgeon.operates
