"""An engine of eight rows that nobody watches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from asking import SECONDS, Nobody

from luvc_export.runtime.engine.feature_cache import FeatureCache
from luvc_export.serve.engine.loop import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(FeatureCache(2**28), rows=8, queue=16, observer=Nobody())
    engine.trace = []
    engine.start()
    yield engine
    engine.drain()
    assert engine.join(SECONDS)
