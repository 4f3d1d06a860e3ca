"""OpenVINO from the outside: run, bench, parity, doctor and targets say what runs, in what, and why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_words import Cli
from PIL import Image
from slow_cases import slow_but

from luvc_export.bundle.folder import Bundle
from luvc_export.demo.questions import cases
from luvc_export.runtime.openvino import device

pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")


@pytest.fixture
def question(tmp_path: Path) -> tuple[str, str, str, str, str, str]:
    case = next(cases("heldout", 1))
    Image.fromarray(case.images[0]).save(tmp_path / "picture.png")
    return "--image", str(tmp_path / "picture.png"), "--prompt", case.prompt, "--max-new-tokens", "8"


def test_run_takes_it_and_says_so(cli: Cli, demo_bundle: Bundle, question: tuple[str, ...]) -> None:
    case = next(cases("heldout", 1))
    best = device.find("CPU").best
    code, out, err = cli("run", demo_bundle.folder, *question, "--warm-up")
    assert (code, out.strip()) == (0, case.answer)
    assert "backend openvino (cuda: " in err and f", {best}, warmed up in " in err
    code, out, _ = cli(
        "run", demo_bundle.folder, *question, "--backend", "openvino:cpu", "--arithmetic", "fp32", "--json"
    )
    data = json.loads(out)
    assert code == 0 and data["text"] == case.answer
    assert (data["backend"], data["arithmetic"], data["choice"]) == ("openvino:CPU", "fp32", None)
    assert data["warm_up_ms"] is None
    _, _, err = cli("run", demo_bundle.folder, *question, "--backend", "cpu")
    assert "backend cpu, fp32" in err


def test_what_is_not_there_is_exit_3(cli: Cli, demo_bundle: Bundle, question: tuple[str, ...]) -> None:
    def refused(*options: str) -> tuple[int, str]:
        code, out, err = cli("run", demo_bundle.folder, *question, *options)
        assert not out and "Traceback" not in err
        return code, err

    code, err = refused("--backend", "openvino:GPU.9")
    assert code == 3 and "openvino:GPU.9" in err and "fix:" in err
    code, err = refused("--backend", "cpu", "--arithmetic", "bf16")
    assert code == 3 and "--backend openvino" in err
    code, err = refused("--arithmetic", "fp8")
    assert code == 2 and "fp16" in err
    lacking = [name for name in device.ARITHMETICS if name not in device.find("CPU").arithmetics]
    for name in lacking:
        code, err = refused("--backend", "openvino", "--arithmetic", name)
        assert code == 3 and "leave --arithmetic out" in err


@pytest.mark.slow(beside="cli/test_openvino_cli.py::test_run_takes_it_and_says_so")
def test_bench_times_both_back_ends(cli: Cli, demo_bundle: Bundle) -> None:
    quick = ("--repeats", 1, "--warm-up", 0, "--new-tokens", 2, "--text", 8, "--threads", 1, "--json")
    code, out, _ = cli("bench", demo_bundle.folder, "--plan", "thirds", "--arithmetic", "fp32", *quick)
    (case,) = json.loads(out)["cases"]
    facts, profile = case["facts"], case["profile"]
    assert code == 0 and (facts["backend"], facts["arithmetic"]) == ("openvino:CPU", "fp32")
    assert 0 < facts["compile_ms"] < facts["load_ms"] and facts["first_ms"] > 0
    assert profile["vision"]["merge_ms"] > 0 and profile["decoder"]["prune_ms"] > 0
    assert profile["decoder"]["operators"]["FullyConnected"] > 0
    assert isinstance(json.loads(out)["machine"]["cpu_features"], list)


@pytest.mark.slow(beside="cli/test_openvino_cli.py::test_run_takes_it_and_says_so")
@pytest.mark.parametrize("arithmetic", slow_but(device.find("CPU").arithmetics[-1:], device.find("CPU").arithmetics))
def test_parity_takes_it_as_a_side(cli: Cli, demo_bundle: Bundle, arithmetic: str) -> None:
    """In bf16, too, every gate passes, though units merge with other neighbours."""
    sides = (f"onnx:{demo_bundle.folder}#thirds", f"openvino:{demo_bundle.folder}#thirds")
    few = ("--task", "glyph", "--count", 6, "--observe", 4, "--threads", 1, "--json")
    code, out, err = cli("parity", *sides, *few, "--arithmetic", arithmetic)
    data = json.loads(out)
    assert code == 0, err
    assert data["passed"]
    assert f"OpenVINO CPU {arithmetic}" in json.dumps(data)
    assert "units merged alike" in json.dumps(data)


@pytest.mark.slow(beside="cli/test_openvino_cli.py::test_run_takes_it_and_says_so")
def test_doctor_and_targets_know_its_devices(cli: Cli) -> None:
    code, out, _ = cli("doctor", "--need", "openvino", "--json")
    machine = json.loads(out)["machine"]
    assert code == 0 and any(text.startswith("CPU: ") for text in machine["openvino_devices"])
    code, out, _ = cli("targets", "--json")
    targets = {item["name"]: item for item in json.loads(out)}
    assert targets["intel-cpu"]["usable"] and not targets["intel-cpu"]["why_not"]
    assert targets["intel-gpu"]["usable"] is any(name.startswith("GPU") for name in device.core().available_devices)
    code, _, err = cli("build", "nowhere", "--target", "intel-cpu")
    assert code == 2 and "this is not a bundle" in err
