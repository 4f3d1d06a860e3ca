"""A share of ``benchmarks/attack.py``: hostile samplers beside ordinary requests, and the watch of the home folder."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luvc_export.bundle.folder import Bundle

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "attack.py"


@pytest.fixture(scope="module")
def attack() -> Iterator[Any]:
    before, kept = list(sys.path), set(sys.modules)
    spec = importlib.util.spec_from_file_location("attack", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before
    for name in {"soak", "fuzzed", "calling"} & (set(sys.modules) - kept):
        del sys.modules[name]


def test_no_request_ends_another_s_answer(attack: Any, demo_bundle: Bundle) -> None:
    """A penalty of 1e-38 with biases gave NaN, and every row of the group failed: 15 of 48 were lost."""
    assert attack.requests(demo_bundle.folder, 3, bodies=20, samplers=20, ordinary=20) == []


def test_the_home_folder_is_watched(attack: Any) -> None:
    """Sabotage: a file changed, one removed, one written, a link."""
    faults: list[str] = []
    with attack.watched_home(faults) as root:
        assert Path.home() == root / "home"
    assert faults == []
    with attack.watched_home(faults) as root:
        (root / "home" / ".bashrc").write_text("")
        (root / "home" / "secret.txt").unlink()
        (root / "home" / "new").write_text("")
        (root / "home" / "projects" / "link").symlink_to("/")
    assert sorted(faults) == [
        "the home folder: .bashrc was changed",
        "the home folder: new was written",
        "the home folder: projects/link was written",
        "the home folder: secret.txt was changed",
    ]
