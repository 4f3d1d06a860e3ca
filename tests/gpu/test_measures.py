"""What `make gpu-check` runs is run here at a tiny size on the CPU, so that it works the day a GPU comes."""

from __future__ import annotations

import json
from pathlib import Path

import measuring
import page
import pytest
import time_engines
import time_layers
import time_transformers
import torch
from layer_shapes import plans, shape_of

from luvc_export.core.named_plans import PICTURES
from luvc_export.errors import MachineError
from luvc_export.runtime.cuda.device import Gpu

TINY = ["--device", "cpu", "--tiny", "--sides", "8", "--text", "9", "--runs", "1"]


def has_gpu() -> bool:
    try:
        Gpu()
    except MachineError:
        return False
    return True


def test_layers_are_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert time_layers.main([*TINY, "-o", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layers-CPU.json", "layers-CPU.md"]
    data = json.loads((tmp_path / "layers-CPU.json").read_text(encoding="utf-8"))
    assert data["machine"]["versions"]["torch"] == torch.__version__
    none, *others = data["rows"]
    assert [row["plan"] for row in data["rows"]] == ["none", *PICTURES]
    assert none["visual_tokens"] == 64 and all(row["kv_mib"] < none["kv_mib"] for row in others)
    assert all(row["same"] and row["prefill_ms"] > 0 and row["decode_ms"] > 0 for row in data["rows"])
    shown = (tmp_path / "layers-CPU.md").read_text(encoding="utf-8")
    assert shown in capsys.readouterr().out and "| safe |" in shown


def test_models_are_measured_and_put_on_a_page(tmp_path: Path) -> None:
    """With the committed figures of the kernels, which a CPU has none of."""
    asked = ["--device", "cpu", "--tiny", "--sides", "8", "--runs", "1", "--text", "9", "--plans", "safe"]
    assert time_transformers.main([*asked, "-o", str(tmp_path)]) == 0
    whole, committed = page.read(tmp_path), json.loads((page.RESULTS / "gpu.json").read_text(encoding="utf-8"))
    assert [row["plan"] for row in whole["transformers"]] == ["none", "safe"]
    assert all(row["first_token_ms"] > 0 and row["units"] == 64 for row in whole["transformers"])
    committed["transformers"] = whole["transformers"]
    assert "| bundled | 64 | safe |" in page.page(committed)


def test_the_page_is_what_its_rows_say() -> None:
    committed = json.loads((page.RESULTS / "gpu.json").read_text(encoding="utf-8"))
    assert page.page(committed) == (page.RESULTS / "gpu.md").read_text(encoding="utf-8")
    committed["layers"][1]["same"] = False
    with pytest.raises(AssertionError, match="differs from plain execution"):
        page.page(committed)


def test_a_graph_that_disagrees_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(run: time_layers.Run, device: str) -> time_layers.Run:
        return lambda: (run()[0] + 1, *run()[1:])

    monkeypatch.setattr(time_layers, "as_graph", wrong)
    assert time_layers.main([*TINY, "-o", str(tmp_path)]) == 1


def test_nothing_is_put_among_the_checked_reports(capsys: pytest.CaptureFixture[str]) -> None:
    assert time_layers.main(["--device", "cpu", "--tiny", "-o", str(measuring.COMMITTED)]) == 2
    assert "docs/measurements holds reports that were checked" in capsys.readouterr().err


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
@pytest.mark.parametrize("measure", [time_layers.main, time_engines.main, time_transformers.main])
def test_without_a_gpu_nothing_is_written(measure, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    assert measure(["-o", str(tmp_path)]) == 3
    assert "nothing was measured: there is no NVIDIA driver" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", time_layers.MODELS)
def test_published_sizes(name: str) -> None:
    shape = shape_of(name)
    assert (shape.head_dim, shape.vocab) == (128, {"qwen2.5-vl-3b": 151936, "qwen2.5-vl-7b": 152064}[name])
    assert plans(shape, (32, 32), 64)["luvc"].vision_tokens < 1024


def test_engines_need_a_library_that_runs_them() -> None:
    with pytest.raises(MachineError, match=r"no engine can be built for this GPU here\n.*1\.0\n.*no target has it"):
        time_engines.usable("1.0")


def test_medians_leave_the_warm_up_out() -> None:
    calls: list[int] = []
    assert measuring.median_ms(lambda: calls.append(1), "cpu", 5, warm_up=2) >= 0 and len(calls) == 7
