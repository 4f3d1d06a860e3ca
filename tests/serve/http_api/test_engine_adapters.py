"""Adapters over HTTP on engines: on the stand-in GPU they are loaded, share steps, and go, as on ONNX Runtime."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2] / "runtime"))

import lora_bundle
import numpy as np
import ort_engine
import pytest
import stand_in
from calling import Client, user
from running import serving

from luvc_export.bundle.folder import load
from luvc_export.engines.profiles import Capacity
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.session import Session
from luvc_export.runtime.tensorrt.slots import TrtSlots
from luvc_export.serve.models import Models, ServedModel
from luvc_export.serve.server import Server

PICTURE = np.random.default_rng(0).integers(0, 256, (28, 28, 3)).astype(np.uint8)
NAMES = [*lora_bundle.ADAPTERS]
TOKENS, SLOTS = 24, 3
Served = tuple[Server, Client]


@pytest.fixture(scope="module")
def engines(lora: Path) -> Iterator[Served]:
    """Engines of three rows and of two adapters a step; ``loud`` and ``terse`` are there from the start."""
    capacity = Capacity(text=96, batch=SLOTS, adapters=2, rank=lora_bundle.RANK)
    described = ort_engine.describe(load(lora / "slots"), "thirds", "inplace", capacity)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STAND_IN_BYTES", str(512 << 20))
        backend, _ = described.backend(Gpu(library=stand_in.library()))
        models = Models([ServedModel("slots", Session(described.bundle, backend, "thirds"))])
        for name in NAMES[:2]:
            models.load_adapter(name, lora / name)
        with serving(models, lora_dirs=(lora,), greedy=True) as served:
            yield served


@pytest.fixture(scope="module")
def alone(lora: Path) -> dict[str | None, str]:
    """What the CPU session says, by adapter."""
    session = Session(lora / "slots", "cpu", threads=1, lora={name: lora / name for name in NAMES})
    bias = dict.fromkeys(session.default.ends, -100.0)
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "greedy": True, "logit_bias": bias}
    texts = {name: session.generate(PICTURE, "left of 5", adapter=name, **options).text for name in (None, *NAMES)}
    assert len({*texts.values()}) > 2, "adapters answer otherwise"
    return texts


def asked(server: Served, model: str) -> dict[str, Any]:
    ends = server[0].models.by_name["slots"].session.default.ends
    bias = {str(end): -100 for end in ends}
    return {"model": model, "messages": user("left of 5", PICTURE), "max_tokens": TOKENS, "logit_bias": bias}


def text_of(server: Served, name: str | None) -> str:
    reply = server[1].chat(**asked(server, "slots" if name is None else f"slots:{name}"))
    assert reply.status == 200, reply.body
    return reply.text


def change(server: Served, what: str, **body: str) -> int:
    return server[1].call("POST", f"/v1/{what}_lora_adapter", json.dumps(body).encode()).status


def together(server: Served, names: list[str | None]) -> dict[int, str]:
    """Answers to questions that come at once."""
    texts: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda row=row, name=name: texts.update({row: text_of(server, name)}))
        for row, name in enumerate(names)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return texts


def test_adapters_come_answer_and_go(engines: Served, lora: Path, alone: dict[str | None, str]) -> None:
    assert engines[1].chat(**asked(engines, "slots:odd")).status == 404
    for _ in range(2):  # what was let go comes again
        assert change(engines, "load", lora_name="odd", lora_path=str(lora / "odd")) == 200
        assert [text_of(engines, name) for name in ("odd", None, "loud")] == [alone["odd"], alone[None], alone["loud"]]
        assert change(engines, "unload", lora_name="odd") == 200
        assert engines[1].chat(**asked(engines, "slots:odd")).status == 404
    assert text_of(engines, "terse") == alone["terse"]


def test_rows_of_several_adapters_grow_together(engines: Served, lora: Path, alone: dict[str | None, str]) -> None:
    """More questions than rows, and more adapters than a step of these engines takes: some wait for others to end."""
    assert change(engines, "load", lora_name="odd", lora_path=str(lora / "odd")) == 200
    engines[0].engine.trace = trace = []
    names = ["loud", None, "terse", "odd", "loud", None, "odd"]
    assert together(engines, names) == {row: alone[name] for row, name in enumerate(names)}
    assert {"step 2", "step 3"} & {*trace}, "they share steps"
    assert change(engines, "unload", lora_name="odd") == 200


def test_an_answer_ends_with_the_adapter_it_began_with(
    engines: Served, lora: Path, alone: dict[str | None, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, steps, goes_on = TrtSlots.step, list[Any](), threading.Event()

    def held(*arguments: Any) -> Any:
        steps.append(arguments)
        assert len(steps) < 3 or goes_on.wait(60)
        return honest(*arguments)

    monkeypatch.setattr(TrtSlots, "step", held)
    assert change(engines, "load", lora_name="odd", lora_path=str(lora / "odd")) == 200
    events = engines[1].events(stream=True, **asked(engines, "slots:odd"))
    pieces = [next(events), next(events)]
    assert change(engines, "unload", lora_name="odd") == 200 and engines[0].engine.running == 1
    goes_on.set()
    pieces += [*events]
    text = "".join(choice["delta"].get("content") or "" for piece in pieces for choice in piece["choices"])
    assert text == alone["odd"] and engines[1].chat(**asked(engines, "slots:odd")).status == 404


def test_rows_whose_adapter_is_lost_are_noticed(
    engines: Served, alone: dict[str | None, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage."""
    step = TrtSlots.step

    def bare(self: TrtSlots, tokens: Any, logits: bool = True) -> Any:
        self._places = {slot: replace(place, adapter=None) for slot, place in self._places.items()}
        return step(self, tokens, logits)

    monkeypatch.setattr(TrtSlots, "step", bare)
    assert text_of(engines, "loud") != alone["loud"] and text_of(engines, None) == alone[None]
