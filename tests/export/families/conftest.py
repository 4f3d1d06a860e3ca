from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cache

import family_bundles
import pytest
import torch
from family_checkpoints import find, names

from luvc_export.bundle.folder import Bundle


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out tiny models that the installed transformers cannot run; what is published fits."""
    left_out = [name for name in names() if not find(name).runs()]
    for item in items:
        if any(name in item.name for name in left_out):
            item.add_marker(pytest.mark.skip(reason="this transformers cannot run the tiny model"))


@pytest.fixture(scope="module")
def bundles(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """Bundles by family, which other modules have copies of their own of."""
    make = pytestconfig.cache.mkdir
    return cache(lambda name: family_bundles.exported(make(f"family-{name}"), name, tmp_path_factory.mktemp(name)))


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    """One thread for tiny models, and no log: pytest keeps every debug message of torch's tracer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)
