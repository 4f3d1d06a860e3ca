"""What is kept between runs is made anew when what it is made from changes, and then alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_once
import native_build
import pytest
from import_graph import ROOT, reached

TRACED = ROOT / "tests" / "export" / "surgeon" / "traced_cache.py"
DEMO = ROOT / "tests" / "demo_cache.py"


@pytest.fixture
def edited(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], bool]:
    """Whether the key of a maker changes with a file of the checkout."""

    def changes(name: str, maker: Path) -> bool:
        path = ROOT / name
        assert path.is_file()
        before = made_once._key(maker)
        with monkeypatch.context() as patch:
            patch.setattr(made_once, "_content", lambda path_read: path_read.read_bytes() + b"#" * (path_read == path))
            return made_once._key(maker) != before

    return changes


@pytest.mark.parametrize(
    "name",
    [
        "export/compression/oim.py",
        "export/compression/scores/base.py",
        "export/families/qwen2_5_vl.py",
        "export/llm/decoder.py",
        "export/towers/rotary_position_vit.py",
        "export/decomposition.py",
        "export/trace.py",
        "luvc_export/core/plan/plan.py",
        "tests/export/surgeon/traced_cache.py",
    ],
)
def test_an_edited_module_that_is_traced_changes_the_key(edited: Callable[[str, Path], bool], name: str) -> None:
    assert edited(name, TRACED)
    assert edited(name, DEMO) == (name != "tests/export/surgeon/traced_cache.py")


def test_what_is_not_run_leaves_the_key(edited: Callable[[str, Path], bool]) -> None:
    surgery = "export/surgeon/passes/fuse_orthogonal_merge.py"
    assert not edited(surgery, TRACED)  # graphs before surgery
    assert edited(surgery, DEMO)
    for name in ("runtime/session.py", "luvc_export/cli/options.py", "calibration/parity/run.py"):
        assert not edited(name, TRACED) and not edited(name, DEMO)


def test_an_edited_kernel_is_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    maker, kernels = Path(native_build.__file__), sorted((ROOT / "plugins" / "host").glob("*.cpp"))
    before = made_once._key(maker, native_build.sources())
    monkeypatch.setattr(made_once, "_content", lambda path: path.read_bytes() + b"#" * (path == kernels[0]))
    assert made_once._key(maker, native_build.sources()) != before


class _RunOnceError(Exception):
    pass


def test_all_that_tracing_runs_is_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both halves are built and run in place of being traced: every function of the checkout that is called."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(TRACED.parent))
    import traced_cache

    from luvc_export.export import trace

    called = set[Path]()

    def run(module: Any, args: Any, *rest: Any) -> None:
        module(*args)
        raise _RunOnceError

    def note(frame: Any, event: str, arg: Any) -> None:
        if event == "call":
            called.add(Path(frame.f_code.co_filename))

    monkeypatch.setattr(trace, "_trace", run)
    for change in (None, lambda decoder: None):
        sys.setprofile(note)
        try:
            with pytest.raises(_RunOnceError):
                traced_cache.write(tmp_path / "made", change=change)
        finally:
            sys.setprofile(None)
    ours = {path.resolve() for path in called if path.is_absolute() and path.is_file()}
    ours = {path for path in ours if ROOT in path.parents and ROOT / ".venv" not in path.parents} - {Path(__file__)}
    assert {ROOT / "export" / name for name in ("compression/oim.py", "compression/spu.py", "llm/decoder.py")} <= ours
    hooks = {ROOT / "luvc_export" / "moved.py"}  # runs on every import, of transformers' too
    assert sorted(ours - reached(TRACED) - hooks) == []
