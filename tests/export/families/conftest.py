from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cache

import family_bundles
import pytest
import torch

from luvc_export.bundle.folder import Bundle


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the tiny SmolVLM where transformers' own takes images alone whose tokens its patch size divides.

    Versions before 5.23 do; what is published fits.
    """
    from transformers.models.smolvlm.modeling_smolvlm import SmolVLMModel

    if hasattr(SmolVLMModel, "inputs_merger"):
        for item in items:
            if "smolvlm" in item.name:
                item.add_marker(pytest.mark.skip(reason="this transformers cannot run the tiny SmolVLM"))


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
