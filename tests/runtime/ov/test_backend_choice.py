"""``auto``: the first back-end that runs the plan, said in one line; named ones never give way; engines need trust."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_bundle
from flat_plans import replan

from luvc_export import load_bundle
from luvc_export.bundle.engines import checks as engine_checks
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import EngineEntry, FileRecord
from luvc_export.cli.commands.export import _unopened
from luvc_export.errors import MachineError
from luvc_export.runtime import backend_choice
from luvc_export.runtime.backend_choice import choose, refusal
from luvc_export.runtime.backends import open_backend
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.session import Session


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def tiny(fresh: Path) -> Bundle:
    return tiny_bundle.write(fresh)


def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise MachineError("openvino is not installed", fix=devices.INSTALL)

    monkeypatch.setattr(devices, "core", missing)


def test_openvino_is_taken_where_there_is_no_cuda(tiny: Bundle) -> None:
    pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    choice = choose(tiny)
    assert choice.name == "openvino"
    assert choice.line.startswith("backend openvino (cuda: ")
    session = load_bundle(tiny.folder)
    assert session.choice == choice.line and session.backend.name == "openvino:CPU"
    answer = session.generate(None, "a", max_new_tokens=1)
    assert answer.backend == "openvino:CPU" and answer.arithmetic == devices.find("CPU").best
    assert load_bundle(tiny.folder, "cpu").choice is None


def test_a_bundle_that_nothing_opens(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in bf16 where OpenVINO is not: export told its user to ask it something."""
    pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    narrow = replace(tiny, manifest=replace(tiny.manifest, dtype="bf16"))
    assert refusal(tiny) is None and refusal(narrow) is None
    without_openvino(monkeypatch)
    assert refusal(tiny) is None
    why = refusal(narrow)
    assert (
        why is not None and "openvino: openvino is not installed" in why and "cpu: ONNX Runtime has no products" in why
    )
    (note,) = _unopened(narrow)
    assert note.startswith("no back-end of this machine opens this bundle (cuda: ") and "--dtype fp32" in note
    assert [*_unopened(tiny)] == []


def test_onnx_runtime_is_what_is_left(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    without_openvino(monkeypatch)
    choice = choose(tiny)
    assert choice.name == "cpu" and choice.line.endswith("openvino: openvino is not installed)")
    assert Session(tiny, "auto").backend.name == "cpu" and open_backend("auto", tiny).name == "cpu"


def test_a_named_back_end_does_not_give_way(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    without_openvino(monkeypatch)
    with pytest.raises(MachineError, match="openvino is not installed"):
        Session(tiny, "openvino")


def test_a_plan_it_cannot_run_is_passed_over(tiny: Bundle) -> None:
    pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    quantised: Any = SimpleNamespace(precision="nvfp4", recipe={})
    entry = replace(tiny.manifest.plans["half"], quantised=quantised)
    foreign = replace(tiny, manifest=replace(tiny.manifest, plans={"half": entry}))
    choice = choose(foreign)
    assert choice.name == "cpu" and "openvino: OpenVINO has no operators for this precision" in choice.line
    with pytest.raises(MachineError, match="no operators for this precision"):
        Session(foreign, "auto")


def test_an_arithmetic_passes_over_what_lacks_it(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = devices.Device("CPU", "an old one", ("fp32",), "fp32")
    monkeypatch.setattr(devices, "find", lambda name: plain)
    assert choose(tiny, arithmetic="fp32").name == "openvino"
    with pytest.raises(MachineError, match="in what the graph or the engine is in"):
        Session(tiny, "auto", arithmetic="bf16")


class _Part:
    def __init__(self, digest: str) -> None:
        self.record = FileRecord(digest, 1)


class _Engines:
    """What ``choose`` looks at of an entry; the engines' bytes are never asked for."""

    plan, target, backend, precision, stripped = "half", "l4", "tensorrt", "fp16", False
    code = (_Part("a" * 64), _Part("b" * 64))


def test_engines_of_a_stranger_are_never_read(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of TensorRT is imported for them, and ``--allow-unverified`` changes nothing for ``auto``."""
    loaded: list[str] = []
    monkeypatch.setattr("luvc_export.runtime.tensorrt.engine.load_library", loaded.append)
    bundle = replace(tiny, manifest=replace(tiny.manifest, engines=(_Engines(),)))  # type: ignore[arg-type]
    choice = choose(bundle)
    assert choice.name != "tensorrt:l4" and "this machine was not told to trust these engines" in choice.line
    assert not loaded
    assert load_bundle(tiny.folder, "auto", allow_unverified=True).backend.name != "tensorrt"


def test_engines_built_here_are_tried(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    entry: Any = _Engines()
    engine_checks.trust(entry)
    assert engine_checks.trusted(entry) and engine_checks.store().stat().st_mode & 0o777 == 0o600
    bundle = replace(tiny, manifest=replace(tiny.manifest, engines=(entry,)))
    assert "tensorrt:l4: tensorrt is not installed" in choose(bundle).line
    monkeypatch.setattr(backend_choice, "_engines", lambda entry, arithmetic: None)
    assert choose(bundle).name == "tensorrt:l4" and choose(bundle, debug=True).name != "tensorrt:l4"


def test_one_changed_byte_is_another_engine() -> None:
    entry: Any = _Engines()
    engine_checks.trust(entry)
    engine_checks.trust(entry)
    assert engine_checks.store().read_text(encoding="ascii").count("\n") == 2
    other: Any = _Engines()
    other.code = (_Part("a" * 64), _Part("c" * 64))
    assert not engine_checks.trusted(other)
    engine_checks.store().write_bytes(b"\xff\xfe")
    assert not engine_checks.trusted(entry)


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    entry: Any = _Engines()
    engine_checks.store().parent.mkdir(parents=True)
    engine_checks.store().symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        engine_checks.trust(entry)
    assert not (tmp_path / "elsewhere").exists()


def test_the_type_of_an_entry_has_what_is_looked_at() -> None:
    assert {"plan", "target", "backend", "precision", "stripped"} <= set(EngineEntry.__dataclass_fields__)
    assert isinstance(EngineEntry.code, property)


def test_aggregates_of_old_bundles_are_left_to_onnx_runtime(tiny: Bundle) -> None:
    """OpenVINO's reader refuses their empty reshapes at the first decoded token: said before, and ``auto`` goes on."""
    pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    manifest = tiny.manifest
    name, entry = manifest.default_plan, manifest.plans[manifest.default_plan]
    plans = {**manifest.plans, name: replace(entry, plan=replan(entry.plan, aggregate=True))}
    old = Bundle(
        tiny.folder, replace(manifest, plans=plans, prompt=replace(manifest.prompt, position_kind="sequential"))
    )
    with pytest.raises(MachineError, match=r"cannot run plans with aggregate rows(.|\n)*choose the cpu back-end"):
        open_backend("openvino", old)
    choice = choose(old)
    assert choice.name == "cpu" and "aggregate rows" in choice.line


def refuse(monkeypatch: pytest.MonkeyPatch, *arithmetics: str) -> None:
    """OpenVINO compiles nothing in ``arithmetics``."""
    from luvc_export.runtime.openvino.backend import OpenVinoBackend

    def refused(self: OpenVinoBackend, name: str) -> Any:
        if self.arithmetic in arithmetics:
            raise MachineError("OpenVINO cannot run this graph", where=name)
        return compiled(self, name)

    compiled = OpenVinoBackend._compile
    monkeypatch.setattr(OpenVinoBackend, "_compile", refused)


def test_auto_gives_way_where_graphs_do_not_load(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO in fp32 where it refuses bf16, else ONNX Runtime; slots that were opened before are those no more."""
    pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    both = devices.Device("CPU", "a new one", ("fp32", "bf16"), "bf16")
    monkeypatch.setattr(devices, "find", lambda name="": both)
    refuse(monkeypatch, "bf16")
    session = Session(tiny, "auto")
    plain = Session(tiny, "cpu").generate(None, "ab", max_new_tokens=4)
    answer = session.generate(None, "ab", max_new_tokens=4)
    assert (answer.backend, answer.arithmetic, answer.token_ids) == ("openvino:CPU", "fp32", plain.token_ids)
    assert session.choice == "backend openvino:CPU (openvino:CPU: OpenVINO cannot run this graph)"
    refuse(monkeypatch, "bf16", "fp32")
    session = Session(tiny, "auto")
    answer = session.generate(None, "ab", max_new_tokens=4)
    assert answer.backend == "cpu" and answer.token_ids == plain.token_ids
    assert session.choice is not None and session.choice.count("cannot run this graph") == 2


def test_what_was_named_or_has_answered_gives_no_way(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    session = Session(tiny, "auto")
    answer = session.generate(None, "ab", max_new_tokens=2)
    session.backend.unload()
    refuse(monkeypatch, "fp32", "bf16")
    for refused in (session, Session(tiny, "openvino")):
        with pytest.raises(MachineError, match="cannot run this graph"):
            refused.generate(None, "ab", max_new_tokens=2)
    assert answer.backend == session.backend.name == "openvino:CPU"
