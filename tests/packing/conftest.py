"""Packs of the short bundle for two JetPacks, a board's root, and the second half of a pack's script."""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import jetson_root
import pytest

from luvc_export.bundle import graph_trust
from luvc_export.bundle.folder import Bundle
from luvc_export.calibration.tasks import find
from luvc_export.packing import questions
from luvc_export.packing.on_device import install_and_verify
from luvc_export.packing.questions import PackCases
from luvc_export.packing.write import Packed, write_pack


@pytest.fixture(scope="session")
def packs(short_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Packed]:
    """One pack for each JetPack; never changed."""
    root = tmp_path_factory.mktemp("packs")
    wheels = root / "wheels"
    wheels.mkdir()
    zipfile.ZipFile(wheels / jetson_root.WHEEL, "w").close()
    graph_trust.remember_own(short_bundle)  # another run of the tests may have exported it
    task = find("glyph")
    asked: dict[str, Callable[..., PackCases]] = {
        "6.2": lambda session, capacity: PackCases("task", questions.of_task(task, 2, capacity.groups), task.longest),
        "7.2": lambda session, capacity: PackCases("generated", questions.generated(session.size, 1), 3),
    }
    return {
        jetpack: write_pack(
            short_bundle, target, root / target, asked[jetpack], "thirds", text_capacity=96, wheels_folder=wheels
        )
        for jetpack, target in jetson_root.TARGETS.items()
    }


@pytest.fixture
def pack(packs: dict[str, Packed], tmp_path: Path) -> Path:
    """A copy of the pack for JetPack 6.2 that a test may damage."""
    return Path(shutil.copytree(packs["6.2"].folder, tmp_path / "pack"))


@pytest.fixture
def board(tmp_path: Path) -> Path:
    return jetson_root.write(tmp_path / "board")


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The script's second half in this process: (exit code, stdout, stderr)."""

    def run(pack: Path, board: Path, backend: str = "cpu") -> tuple[int, str, str]:
        code = install_and_verify(pack, backend, board, rebuild=False)
        return (code, *capsys.readouterr())

    return run
