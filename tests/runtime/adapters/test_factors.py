"""Factors of several adapters side by side, and which of their ranks a row has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from luvc_export.bundle.adapters.peft_folder import Adapter
from luvc_export.bundle.manifest import MOST_SETS, LoraSlots
from luvc_export.runtime.adapters.factors import Factors
from luvc_export.runtime.adapters.table import MOST, Adapters
from luvc_export.runtime.model import Backend

SLOTS = LoraSlots(4, "model.layers", {"q": "q", "v": "v"}, {"0.q": (3, 5), "0.v": (3, 2)})


def adapter(rank: int, *slots: str, seed: int = 0) -> Adapter:
    random = np.random.default_rng(seed)
    pairs = {}
    for slot in slots:
        entering, leaving = SLOTS.slots[slot]
        pairs[slot] = random.standard_normal((entering, rank), "f4"), random.standard_normal((rank, leaving), "f4")
    return Adapter(f"folder-{seed}", rank, pairs, str(seed))


def added(feeds: Mapping[str, Any], slot: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
    a, b = feeds[f"lora.{slot}.a"], feeds[f"lora.{slot}.b"]
    delta: NDArray[np.float32] = ((x @ a) * feeds["lora_rows"][:, None]) @ b
    return delta


def test_a_row_gets_its_own_adapter_s_product() -> None:
    one, two = adapter(2, "0.q", "0.v", seed=1), adapter(3, "0.v", seed=2)
    feeds = Factors(SLOTS, Backend()).feeds([two, None, one, two])
    assert feeds["lora_rows"].shape == (4, 5) and feeds["lora.0.q.a"].shape == (3, 5)
    x = np.random.default_rng(0).standard_normal((4, 6, 3), "f4")
    for slot in SLOTS.slots:
        seen = added(feeds, slot, x)
        for row, own in enumerate((two, None, one, two)):
            pair = own.factors.get(slot) if own else None
            want = np.zeros_like(seen[row]) if pair is None else x[row] @ pair[0] @ pair[1]
            np.testing.assert_allclose(seen[row], want, atol=1e-5)


def test_without_adapters_the_rank_is_0() -> None:
    factors = Factors(SLOTS, Backend())
    factors.feeds([adapter(2, "0.q")])
    feeds = factors.feeds([None, None])
    assert feeds["lora_rows"].shape == (2, 0) and feeds["lora.0.q.a"].shape == (3, 0)
    assert feeds["lora.0.q.b"].shape == (0, 5)


class Readying(Backend):
    def __init__(self) -> None:
        self.made = 0

    def ready(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        self.made += 1
        return dict(arrays)


def test_sets_are_made_ready_once_and_forgotten() -> None:
    backend = Readying()
    factors = Factors(SLOTS, backend)
    one, two, three = (adapter(1, "0.q", seed=seed) for seed in range(3))
    for rows in ([one, two, three], [two], [three, None], [one, three], [one, two, three]):
        factors.feeds(rows)
    assert backend.made == 1, "a set with more than is wanted does"
    factors.forget(two)
    factors.feeds([one])
    assert backend.made == 2
    for seed in range(10, 10 + MOST_SETS):
        factors.feeds([adapter(1, "0.q", seed=seed)])
    factors.feeds([one])
    assert backend.made == 3 + MOST_SETS, "what was used last stays"


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    known, forgotten = adapter(1, "0.q"), list[Adapter]()
    monkeypatch.setattr("luvc_export.bundle.adapters.peft_folder.read_adapter", lambda folder, manifest: known)
    table = Adapters(None, forgotten.append, {"loud": "folder"})  # type: ignore[arg-type]
    assert table.names == ["loud"] and "loud" in table and table.find("loud") is known and table.find(None) is None
    for wrong, refusal in (("lout", "no such adapter(.|\n)*loud"), ("", "no such adapter")):
        with pytest.raises(Exception, match=refusal):
            table.find(wrong)
    with pytest.raises(Exception, match=r"loaded already(.|\n)*unload it first"):
        table.load("loud", "folder")
    with pytest.raises(Exception, match="no name of an adapter"):
        table.load("a:b", "folder")
    table.unload("loud")
    assert forgotten == [known] and table.names == []
    with pytest.raises(Exception, match=r"none was loaded"):
        table.unload("loud")
    for number in range(MOST):
        table.load(f"a{number}", "folder")
    with pytest.raises(Exception, match="too many adapters"):
        table.load("more", "folder")
