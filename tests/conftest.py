"""What several tests share: the bundled checkpoint, exported once a run."""

from __future__ import annotations

import os
from pathlib import Path

# Tiny models gain nothing from more threads, and spinning threads of several processes starve each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from filelock import FileLock
from hypothesis import settings

from luvc_export import export_bundle, make_plan
from luvc_export.bundle import Bundle, load
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE

settings.register_profile("repo", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("repo")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order for two workers: one exports the demo bundle while the other runs what does not need it."""
    waits = {item.path for item in items if "demo_bundle" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: 0 if item.path.name == "test_main_job.py" else 1 + (item.path in waits))


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundled checkpoint with plans ``none``, ``even`` and ``thirds`` and debug decoders; never changed."""
    plans = {name: make_plan(str(CHECKPOINT), name, image_size=IMAGE_SIZE) for name in ("none", "even", "thirds")}
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with FileLock(root / "demo.lock"):
        if not (root / "demo").is_dir():
            export_bundle(str(CHECKPOINT), root / "demo", plans, image_size=IMAGE_SIZE, text_capacity=256, debug=True)
    return load(root / "demo")


@pytest.fixture
def copied_bundle(demo_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the demo bundle that a test may damage."""
    import shutil

    return Path(shutil.copytree(demo_bundle.folder, tmp_path / "bundle"))
