from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from luvc_export.export import decomposition


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    """One thread for tiny models, and no log: pytest keeps every debug message of torch's tracer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def _node_by_node() -> Iterator[None]:
    """No family has an operator that makes the exporter trace it twice more."""
    asked = decomposition.substitutable

    def substitutable(program: Any, table: Any) -> bool:
        assert asked(program, table), "a family's module has an operator that export/decomposition.py does not know"
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decomposition, "substitutable", substitutable)
        yield
