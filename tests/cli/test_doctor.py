"""doctor: parts are this package's extras, whatever extras come; --need takes a part and no other that begins alike."""

from __future__ import annotations

import importlib.metadata
import json
import os

import pytest
from cli_words import Cli

from luvc_export.cli.commands import doctor
from luvc_export.cli.commands.doctor import Part

PARTS = {"TensorRT-RTX": Part(("numpy",), "rtx"), "TensorRT": Part(("no-such-package",), fix="comes with JetPack")}


@pytest.mark.parametrize(
    ("name", "code", "line"),
    [
        ("tensorrt", 3, "TensorRT does not work here"),
        ("tensorrt-rtx", 0, ""),
        ("rtx", 0, ""),
        ("tensort", 2, "did you mean 'TensorRT'?"),
        ("", 2, "unknown part"),
    ],
)
def test_the_part_that_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str, code: int, line: str) -> None:
    monkeypatch.setattr(doctor, "known_parts", lambda: PARTS)
    got, _, err = cli("doctor", f"--need={name}")
    assert got == code and line in err


def test_every_extra_is_a_part() -> None:
    extras = set(importlib.metadata.metadata("luvc-export").get_all("Provides-Extra") or ()) - {"dev"}
    parts = doctor.known_parts()
    assert {part.extra for part in parts.values() if part.extra} == extras
    assert {"serve", "guided", "ray", "lora", "triton", "export", "run on CPU", "OpenVINO"} <= set(parts)
    assert {"uvicorn", "msgspec", "starlette"} <= set(parts["serve"].packages) and "numpy" in parts[
        "run on CPU"
    ].packages


def test_an_extra_that_comes_is_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "numpy>=1.26",
        "holo-view>=1; extra == 'holograms'",
        'peft[x]>=1,<2 ; extra == "lora"',
        'ruff>=1; extra == "dev"',
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    parts = doctor.known_parts()
    assert (
        parts["holograms"] == Part(("holo-view",), "holograms")
        and parts["lora"].packages == ("peft",)
        and "dev" not in parts
    )
    assert doctor._state(parts["holograms"])["fix"] == "pip install 'luvc-export[holograms]'"


def test_what_stands_in_for_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.31.1" if name == "onnxruntime-gpu" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    state = doctor._state(Part(("onnxruntime", "numpy"), "cpu"))
    assert state["missing"] == [] and state["found"]["onnxruntime-gpu"] == "1.31.1"


def test_a_program_is_looked_for_on_the_path(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    code, out, err = cli("doctor", "--need", "triton", "--json")
    assert code == 3 and json.loads(out)["parts"]["triton"]["missing"] == ["tritonserver"]
    assert json.loads(err.splitlines()[-1])["error"]["got"] == "tritonserver"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/opt/bin/{name}")
    assert cli("doctor", "--need", "triton")[0] == 0


def test_a_package_that_was_never_installed_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    code, _, err = cli("doctor")
    assert code == 3 and "is not installed" in err and "pip install -e ." in err


@pytest.mark.slow(beside="runtime/test_first_run.py::test_once_and_never_again")
def test_what_engines_have_is_asked_once(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Not again for the same versions, CPU and times of steps; again for others, and where the record is damaged."""
    cache, asked = tmp_path_factory.mktemp("cache"), list[str]()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))

    def products() -> list[str]:
        asked.append("products")
        return ["exact"]

    monkeypatch.setattr(doctor, "_products", products)

    def machine() -> dict[str, object]:
        code, out, _ = cli("doctor", "--json", "--need", "rtx")
        assert code == 0
        facts: dict[str, object] = json.loads(out)["machine"]
        return {name: value for name, value in facts.items() if name not in ("memory_gib", "disk_gib")}

    first = machine()
    assert machine() == first and first["products"] == ["exact"] and len(asked) == 1
    (record,) = (cache / "luvc-export" / "doctor").iterdir()
    record.write_text(record.read_text().replace('"cpu"', '"gpu"'))
    machine()
    monkeypatch.setattr(doctor, "VERSION", "0.0")
    machine()
    os.utime(cache / "luvc-export" / "steps", (1, 1))
    machine()
    assert len(asked) == 4
    monkeypatch.setattr(doctor, "VERSION", "0.1")
    monkeypatch.setattr(doctor, "_providers", list)
    machine()
    machine()
    assert len(asked) == 6, "an engine that is there and gives nothing may be mended"
