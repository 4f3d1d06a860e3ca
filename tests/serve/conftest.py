"""Servers in this process, on a free port, over the demo bundle."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks" / "serving"), str(Path(__file__).parent), str(ROOT / "tests" / "runtime")]

from calling import Client  # noqa: E402
from running import serving  # noqa: E402

from luvc_export.bundle.folder import Bundle  # noqa: E402
from luvc_export.runtime.session import Session  # noqa: E402
from luvc_export.serve.models import Models, ServedModel  # noqa: E402
from luvc_export.serve.server import Server  # noqa: E402


@pytest.fixture(scope="session")
def demo_session(demo_bundle: Bundle) -> Session:
    return Session(demo_bundle, "cpu", "even", threads=1)


@pytest.fixture(scope="session")
def models(demo_bundle: Bundle, demo_session: Session) -> Models:
    return Models([ServedModel("demo", demo_session), ServedModel("demo#none", Session(demo_bundle, "cpu", "none", 1))])


@pytest.fixture(scope="session")
def served(models: Models) -> Iterator[tuple[Server, Client]]:
    with serving(models) as server:
        yield server


@pytest.fixture(scope="session")
def client(served: tuple[Server, Client]) -> Client:
    return served[1]
