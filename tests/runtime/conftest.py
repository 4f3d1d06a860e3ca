from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle, load
from luvc_export.runtime.session import Session


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle.write(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="session")
def shallow(lora: Path) -> Bundle:
    """The bundled model's first two layers; ``none`` is another name of its plan, for what asks about no picture."""
    whole = load(lora / "plain")
    entry = whole.entry()
    return replace(whole, manifest=replace(whole.manifest, plans={"thirds": entry, "none": entry}))


@pytest.fixture(scope="session")
def session(bundle: Bundle) -> Session:
    return Session(bundle, threads=1)


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    return tmp_path / "bundle"
