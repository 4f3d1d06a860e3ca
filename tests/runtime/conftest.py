from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle
from luvc_export.runtime.session import Session


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle.write(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="session")
def session(bundle: Bundle) -> Session:
    return Session(bundle, threads=1)


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    return tmp_path / "bundle"
