"""What several tests share: the bundled checkpoint, exported once a run."""

from __future__ import annotations

import os
from pathlib import Path

# Tiny models gain nothing from more threads, and spinning threads of several processes starve each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from luvc_export import export_bundle, make_plan
from luvc_export.bundle import Bundle
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE

settings.register_profile("repo", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("repo")


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundled checkpoint with plans ``none``, ``even`` and ``thirds`` and debug decoders; never changed."""
    plans = {name: make_plan(str(CHECKPOINT), name, image_size=IMAGE_SIZE) for name in ("none", "even", "thirds")}
    folder = tmp_path_factory.mktemp("demo") / "bundle"
    return export_bundle(str(CHECKPOINT), folder, plans, image_size=IMAGE_SIZE, text_capacity=256, debug=True)


@pytest.fixture
def copied_bundle(demo_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the demo bundle that a test may damage."""
    import shutil

    return Path(shutil.copytree(demo_bundle.folder, tmp_path / "bundle"))
