"""Packs written, installed and verified: on a root with a JetPack's release files, with ONNX Runtime for TensorRT.

``--backend cpu`` is a documented option of the script, which runs the graphs that engines are built from; nothing here
stands in for TensorRT itself.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
import deadly_graphs
import jetson_root
import numpy as np
import onnx
import pytest
from slow_cases import slow_but

from luvc_export.bundle import folder as bundles
from luvc_export.bundle import graph_trust
from luvc_export.bundle.folder import Bundle
from luvc_export.core.files.json_records import from_json_data
from luvc_export.core.operators import DOMAIN
from luvc_export.engines import targets
from luvc_export.engines.options import BuildOptions
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon import allow_list, lint
from luvc_export.export.surgeon.graph import Surgery
from luvc_export.packing import bootstrap, on_device, questions, record
from luvc_export.packing.on_device import install_and_verify
from luvc_export.packing.questions import PackCases
from luvc_export.packing.write import Packed, write_pack
from luvc_export.runtime.confined import first_run


def refused(result: tuple[int, str, str], code: int, *texts: str) -> None:
    assert result[0] == code, result
    assert "Traceback" not in result[1] + result[2]
    assert result[1].splitlines()[-1] == "NOT VERIFIED"
    for text in texts:
        assert text in result[2], result[2]


def graphs(pack: Packed) -> list[onnx.ModelProto]:
    entry = bundles.load(pack.folder).entry()
    return [onnx.load(pack.folder / name, load_external_data=False) for name in (entry.vision, entry.decoder)]


def test_graphs_for_jetpack_6_2_hold_only_what_tensorrt_10_3_reads(packs: dict[str, Packed]) -> None:
    for model in graphs(packs["6.2"]):
        assert list(allow_list.problems(model)) == []
        spec = targets.find(jetson_root.TARGETS["6.2"]).spec
        lint.ensures(Surgery.open(model, spec), 0)
        model.graph.node[0].op_type = "RMSNormalization"
        with pytest.raises(CheckFailed, match=r"RMSNormalization .*: not on the list"):
            lint.ensures(Surgery.open(model, spec), 0)
    newer = {node.op_type for model in graphs(packs["7.2"]) for node in model.graph.node}
    assert {"Attention", "TensorScatter"} <= newer
    assert any(list(allow_list.problems(model)) for model in graphs(packs["7.2"]))


def test_a_pack_is_a_whole_bundle_that_names_no_place_of_this_machine(packs: dict[str, Packed]) -> None:
    for packed in packs.values():
        manifest = bundles.load(packed.folder, full=True).manifest
        assert manifest.weights.mode == "copy" and manifest.dtype == "fp16" and not manifest.verified
        assert list(manifest.plans) == ["thirds"] and manifest.prompt.text_capacity == 96
        named = set(manifest.files) | set(packed.pack.files) | {bundles.MANIFEST, record.RECORD}
        files = {path.relative_to(packed.folder).as_posix() for path in packed.folder.rglob("*") if path.is_file()}
        assert files == named
        for name in (bundles.MANIFEST, record.RECORD, record.SCRIPT, "cases/cases.json"):
            text = (packed.folder / name).read_text(encoding="utf-8")
            assert str(packed.folder.parent) not in text and str(Path.home()) not in text.split()


def test_a_pack_says_which_wheels_are_missing(packs: dict[str, Packed]) -> None:
    others = ("pillow>=11", "tokenizers>=0.21", "jinja2>=3.1.6", "markupsafe>=2.0")
    assert packs["6.2"].missing == others and packs["6.2"].pack.python == "3.10"
    assert packs["6.2"].others == ("none",)
    assert (
        packs["7.2"].missing == (f"numpy>=1.26 (there is {jetson_root.WHEEL})", *others)
        and packs["7.2"].pack.python == "3.12"
    )
    assert (packs["6.2"].folder / "wheels" / jetson_root.WHEEL).is_file()


def test_the_script_passes_without_torch_and_network(pack: Path, board: Path, tmp_path: Path) -> None:
    result = jetson_root.script(pack, "--backend", "cpu", "--root", board, PYTHON=str(jetson_root.guarded(tmp_path)))
    assert (result.returncode, result.stderr) == (0, ""), result
    assert result.stdout.splitlines()[-1].startswith("PASSED: 2 of 2 cases, onnxruntime")
    assert "says nothing of TensorRT" in result.stdout and "mode MAXN" in result.stdout
    assert (pack / "site/luvc_export/packing/on_device.py").is_file(), "it ran from its own wheel"
    manifest = bundles.load(pack, full=True).manifest
    (signed,) = manifest.verified
    assert (signed.backend, signed.target, signed.system) == ("onnxruntime", jetson_root.TARGETS["6.2"], "36.4.3")
    assert signed.device == "NVIDIA Jetson AGX Orin Developer Kit" and signed.cases == 2 and signed.warnings == ()
    assert signed.files == {name: manifest.files[name].sha256 for name in signed.files} and len(signed.files) == 2
    assert 0 < signed.figures["worst_rel_l2"] < 2e-2 and signed.figures["median_prefill_ms"] > 0
    report = json.loads((pack / record.REPORT).read_text())
    assert report["passed"] and report["facts"]["clocks"][0]["lowest"] == report["facts"]["clocks"][0]["highest"]


def test_a_pack_with_caches_in_place_passes(packs: dict[str, Packed], tmp_path: Path, verify: Any) -> None:
    pack = Path(shutil.copytree(packs["7.2"].folder, tmp_path / "pack"))
    board = jetson_root.write(tmp_path / "board", "7.2", mode=2)
    code, out, err = verify(pack, board)
    assert (code, err) == (0, ""), out
    assert "generated pictures and prompts" in out and "power mode MODE_30W, not MAXN" in out
    (signed,) = bundles.load(pack).manifest.verified
    assert signed.power_mode == "MODE_30W" and len(signed.warnings) == 1


@pytest.mark.slow(beside="packing/test_pack.py::test_the_script_passes_without_torch_and_network")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other CPUs answer")
def test_a_stranger_s_pack_with_caches_in_place_runs_in_a_helper_first(
    packs: dict[str, Packed], tmp_path: Path, verify: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert graph_trust.known(bundles.load(packs["7.2"].folder), None, graph_trust.OWN), "packed of an own bundle"
    monkeypatch.delenv(first_run.TRUST)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pack = Path(shutil.copytree(packs["7.2"].folder, tmp_path / "pack"))
    board = jetson_root.write(tmp_path / "board", "7.2")
    marks = tmp_path / "cache" / "luvc-export" / "graphs"
    for _ in range(2):
        assert verify(pack, board)[0] == 0
        assert len([*marks.iterdir()]) == 1
    loaded = bundles.load(pack)
    manifest, vision = loaded.manifest, pack / loaded.entry().vision
    model = onnx.load(vision, load_external_data=False)
    deadly_graphs.deadly(model.graph)
    vision.write_bytes(model.SerializeToString())
    manifest.files[vision.name] = bundles.record(vision)
    bundles.write_manifest(pack, manifest)
    seal(pack)
    refused(verify(pack, board), 2, "ended that process", "SIGFPE")
    assert len([*marks.iterdir()]) == 1


@pytest.mark.slow(beside="packing/test_pack.py::test_each_file_of_a_pack_changed_is_refused")
def test_plugins_travel_with_the_pack(
    unpadded_bundle: Bundle, tmp_path: Path, board: Path, verify: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graphs call them, the builder is given the pack's own copy, and ONNX Runtime says that it cannot."""
    library = tmp_path / "mine.so"
    library.write_bytes(b"\x7fELF\2\1\1" + bytes(9) + b"\3\0" + (183).to_bytes(2, "little") + bytes(64))
    asked = PackCases("generated", questions.generated(unpadded_bundle.manifest.image.size, 1), 1)
    options = BuildOptions(dynamic_plugins=library)
    settings: Any = {"text_capacity": 96, "batch": 4, "options": options}
    written = write_pack(
        unpadded_bundle, jetson_root.TARGETS["6.2"], tmp_path / "pack", lambda *_: asked, "thirds", **settings
    )
    domains = [{node.domain for node in model.graph.node} for model in graphs(written)]
    assert all(DOMAIN in domain for domain in domains) and written.pack.plugins == record.PLUGINS
    assert (written.folder / record.PLUGINS).read_bytes() == library.read_bytes()
    assert record.read(written.folder).options(written.folder).dynamic_plugins == written.folder / record.PLUGINS
    refused(verify(written.folder, board), 3, "ONNX Runtime does not run the plugins", "made without --dynamicPlugins")
    options_seen: list[BuildOptions] = []

    def stop(*arguments: Any) -> None:
        options_seen.append(arguments[1].options)
        assert arguments[1].capacity == Capacity(96, 1, 4), "rows travel with the pack too"
        raise KeyboardInterrupt

    monkeypatch.setattr(on_device, "install", stop)
    assert verify(written.folder, board, backend="tensorrt")[0] == 130
    assert options_seen[0].dynamic_plugins == written.folder / record.PLUGINS
    change_byte(written.folder / record.PLUGINS)
    refused(verify(written.folder, board), 2, "has changed since it was made", record.PLUGINS)


def test_another_jetpack_and_too_little_memory_are_refused(pack: Path, tmp_path: Path, verify: Any) -> None:
    newer = jetson_root.write(tmp_path / "newer", "7.2")
    refused(verify(pack, newer), 3, "this device is not what the pack was made for", "Jetson Linux 39.2.0", "10.16")
    full = jetson_root.write(tmp_path / "full", free_kib=1024)
    refused(verify(pack, full), 3, "1 MiB of memory free", "plan while loading")
    refused(verify(pack, tmp_path / "nothing"), 3, "this is no Jetson")


def test_without_tensorrt_no_engine_is_built(pack: Path, board: Path, verify: Any) -> None:
    refused(verify(pack, board, backend="tensorrt"), 3, "tensorrt is not installed", "JetPack")
    assert not list(pack.glob("*.engine")) and not bundles.load(pack).manifest.verified


@pytest.mark.parametrize("name", ["decoder.thirds.jetson-agx-orin-jp62.onnx", "weights", "cases/reference.npz"])
def test_a_changed_byte_is_refused(pack: Path, board: Path, verify: Any, name: str) -> None:
    change_byte(pack / name)
    refused(verify(pack, board), 2, "has changed since it was", name.split("/")[-1])


def test_a_changed_wheel_is_refused_before_it_is_unpacked(pack: Path, board: Path) -> None:
    change_byte(next((pack / "wheels").glob("luvc_export-*.whl")))
    result = jetson_root.script(pack, "--backend", "cpu", "--root", board)
    refused((result.returncode, result.stdout, result.stderr), 2, "a wheel of the pack is missing or has changed")
    assert not (pack / "site").exists()


def test_a_module_beside_the_script_is_not_imported(pack: Path, board: Path) -> None:
    (pack / "argparse.py").write_text("open('owned', 'w').close()\nraise SystemExit(0)\n")
    result = jetson_root.script(pack, "--help")
    assert result.returncode == 0 and "Check this device" in result.stdout
    assert not (pack.parent / "owned").exists()


@pytest.mark.parametrize("how", ["changed", "added", "link", "compiled"])
def test_site_is_compared_with_the_wheels_at_every_run(pack: Path, how: str) -> None:
    checked = "import bootstrap; print(bootstrap._unpack(bootstrap._read()))"
    run = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(pack)!r}); {checked}"]
    first = subprocess.run(run, capture_output=True, text=True, check=True)
    assert jetson_root.WHEEL in first.stdout
    package = pack / "site" / "luvc_export"
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == first.stdout, "as unpacked: kept"
    if how == "changed":
        change_byte(package / "errors.py")
    elif how == "added":
        (pack / "site" / "numpy.py").write_text("raise SystemExit(0)\n")
    elif how == "link":
        (package / "errors.py").rename(pack / "elsewhere.py")
        (package / "errors.py").symlink_to(pack / "elsewhere.py")
    else:
        (package / "__pycache__").mkdir()
        (package / "__pycache__" / "errors.cpython-310.pyc").write_bytes(b"code")
    second = subprocess.run(run, capture_output=True, text=True, check=False)
    assert second.returncode == 2 and "site/ has changed since it was unpacked" in second.stderr


def test_missing_packages_are_named(pack: Path, board: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    result = jetson_root.script(pack, "--backend", "cpu", "--root", board, PYTHON=str(tmp_path / "bare/bin/python"))
    got = "no numpy; no pillow; no tokenizers; no jinja2; no markupsafe; no onnxruntime"
    refused(
        (result.returncode, result.stdout, result.stderr), 3, got, f"does not take: {jetson_root.WHEEL}", "Python 3.10"
    )
    result = jetson_root.script(pack, PYTHON="no-such-python")
    assert result.returncode == 3 and "there is no no-such-python here" in result.stderr


def test_another_weight_fails_and_takes_the_sign_off_back(pack: Path, board: Path, verify: Any) -> None:
    assert verify(pack, board)[0] == 0 and bundles.load(pack).manifest.verified
    manifest = bundles.load(pack).manifest
    data = np.fromfile(pack / "weights", np.uint8)
    data[len(data) // 4 : len(data) // 2] = 0
    data.tofile(pack / "weights")
    files = manifest.files | {"weights": bundles.record(pack / "weights")}
    bundles.write_manifest(pack, replace(manifest, files=files))
    refused(verify(pack, board), 2, "pack.json or luvc.json has changed")
    seal(pack)
    code, out, err = verify(pack, board)
    assert (code, err) == (1, "")
    assert out.splitlines()[-1].startswith("FAILED")
    assert not bundles.load(pack).manifest.verified


def test_another_reference_fails(pack: Path, board: Path, verify: Any) -> None:
    path = pack / "cases/reference.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["1.logits"][0, 5] += 100
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    data = json.loads((pack / record.RECORD).read_text())
    data["files"]["cases/reference.npz"] |= {"sha256": bundles.record(path).sha256, "bytes": path.stat().st_size}
    (pack / record.RECORD).write_text(json.dumps(data))
    seal(pack)
    code, out, err = verify(pack, board)
    assert (code, err) == (1, "")
    assert out.splitlines()[-1].startswith("FAILED: 1 of 2 cases") and "logits differ by" in out
    report = json.loads((pack / record.REPORT).read_text())
    assert not report["passed"] and [case["passed"] for case in report["cases"].values()] == [True, False]


def test_ctrl_c_ends_a_run_and_a_second_goes_on(pack: Path, board: Path, verify: Any) -> None:
    memory = board / "proc/meminfo"
    text = memory.read_text()
    memory.unlink()
    os.mkfifo(memory)
    command = [str(pack / record.SCRIPT), "--backend", "cpu", "--root", str(board)]
    env = {"PATH": os.environ["PATH"], "PYTHON": sys.executable}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with memory.open("w"):  # opens when the script reads it: it is in the middle
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "run it again to go on" in err and "Traceback" not in err
    memory.unlink()
    memory.write_text(text)
    assert verify(pack, board)[0] == 0


def test_ctrl_c_between_cases_signs_nothing(
    pack: Path, board: Path, verify: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(on_device, "compare_answers", stop)
    code, _, err = verify(pack, board)
    assert code == 130 and "what was built is kept" in err
    assert not bundles.load(pack, full=True).manifest.verified


def test_engines_are_built_from_the_pack_and_kept(
    packs: dict[str, Packed], tmp_path: Path, verify: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """With TensorRT-RTX, whose graphs are JetPack 7.2's: it builds without a GPU, and stops where one is needed."""
    pytest.importorskip("tensorrt_rtx", reason="engines are built with tensorrt-rtx")
    pack = Path(shutil.copytree(packs["7.2"].folder, tmp_path / "pack"))
    path = pack / record.RECORD
    path.write_text(path.read_text().replace(f'"target": "{jetson_root.TARGETS["7.2"]}"', '"target": "rtx-ada"'))
    seal(pack)
    code, out, _ = verify(pack, tmp_path / "nothing", backend="tensorrt")
    if code == 0:
        pytest.skip("there is a GPU: tests/gpu runs engines")
    assert code == 3 and "building decoder.thirds.rtx-ada.engine" in out
    (entry,) = bundles.load(pack, full=True).manifest.engines
    assert entry.kv == "inplace" and not bundles.load(pack).manifest.verified
    assert "those of an earlier run are kept" in verify(pack, tmp_path / "nothing", backend="tensorrt")[1]
    change_byte(pack / entry.decoder.file)
    assert on_device._engines(bundles.load(pack), record.read(pack), targets.find("rtx-ada")) is None
    assert "built again: an engine has changed since it was built" in capsys.readouterr().out


def change_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def seal(pack: Path) -> None:
    """As somebody who changes a pack on purpose can."""
    data = json.loads((pack / record.RECORD).read_text())
    record.write(pack, from_json_data(record.Pack, data, "pack.json"))


@pytest.mark.parametrize("when", slow_but(["between two runs"], ["before the first run", "between two runs"]))
def test_each_file_of_a_pack_changed_is_refused(
    pack: Path, board: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], when: str
) -> None:
    """Every file, one after another; ``site`` is there between runs. Both halves of the script, up to the answers."""
    asked = []
    monkeypatch.setattr(bootstrap, "HERE", pack)
    monkeypatch.setattr(bootstrap, "SITE", pack / "site")
    monkeypatch.setattr(on_device, "_on_cpu", lambda *arguments: asked.append(1))
    monkeypatch.setattr(on_device, "_answer_cases", lambda *arguments: ({}, []))
    monkeypatch.setattr(on_device, "_signature", lambda *arguments: KeyboardInterrupt())
    monkeypatch.setattr(on_device, "_write_report", lambda *arguments: exec("raise KeyboardInterrupt"))

    def both_halves() -> int:
        try:
            bootstrap._unpack(bootstrap._read())
        except SystemExit as stop:
            return int(stop.code or 0)
        return install_and_verify(pack, "cpu", board, rebuild=False)

    if when == "between two runs":
        assert both_halves() == 130 and asked, "untouched: it gets as far as the answers"
    asked.clear()
    paths = [path for path in sorted(pack.rglob("*")) if path.is_file()]
    in_site = [path for path in paths if path.is_relative_to(pack / "site")]
    assert len(paths) > 12 and bool(in_site) == (when == "between two runs")
    for path in [*(path for path in paths if path not in in_site), *(pack / "site").rglob("errors.py")]:
        before = path.read_bytes()
        change_byte(path)
        assert (both_halves(), asked) == (2, []), path.relative_to(pack)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err and "NOT VERIFIED" in out, path
        path.write_bytes(before)
    for name in ("weights", "tokenizer.json", "bootstrap.py", "cases", "wheels"):
        path = pack / name
        path.rename(pack.parent / "kept")
        path.symlink_to(pack.parent / "kept")
        assert both_halves() == 2, f"a link for {name}"
        path.unlink()
        (pack.parent / "kept").rename(path)
    assert both_halves() == 130 and asked, "as it was: it gets as far as the answers again"
