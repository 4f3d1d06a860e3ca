from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path

import pytest
from typer.testing import CliRunner

import luvc_export
from luvc_export.bundle.manifest import StoredCodes
from luvc_export.cli import app
from luvc_export.core.precision import check_caches_target
from luvc_export.core.target import Library
from luvc_export.engines import library, targets
from luvc_export.errors import MachineError, UsageError
from luvc_export.pipeline.engines import check_codes

ROOT = Path(luvc_export.__file__).resolve().parents[1]
DESIGNED = {f"jetson-{board}-jp{jetpack}" for board in ("orin-nano", "orin-nx", "agx-orin") for jetpack in (62, 72)}
DESIGNED |= {"jetson-thor", "a100", "l4", "h100", "h200", "b200", "rtx-ada", "rtx-blackwell"}
RUN_AS_THEY_ARE = {"cpu", "intel-cpu", "intel-gpu"}
DESIGNED |= RUN_AS_THEY_ARE


def test_every_designed_target_is_there() -> None:
    assert set(targets.names()) == DESIGNED


@pytest.mark.parametrize("name", sorted(DESIGNED))
def test_a_record_is_named_after_its_file_and_has_sources(name: str) -> None:
    target = targets.find(name)
    assert target.name == name == target.spec.name
    device = target.device
    wanted = {"library", "kv_forms", "quantised"} | ({"spec"} if name in RUN_AS_THEY_ARE else {"spec.dialect"})
    wanted |= (
        {f"device.{field}" for field in ("compute_capability", "memory_gib", "l4t", "python")}
        if device.l4t
        else ({"device.compute_capability", "device.memory_gib"} if device.compute_capability else set())
    )
    assert wanted <= set(target.sources)
    for source in target.sources.values():
        named = [word.strip(",:") for word in source.split() if word.startswith(("docs/", "tests/", "pyproject"))]
        inside = "onnx-tensorrt" not in source
        assert "https://" in source or "github.com/" in source or named
        assert all((ROOT / word).exists() for word in named if inside), source


def test_capabilities_decide_not_names() -> None:
    for name in targets.names():
        target = targets.find(name)
        assert target.spec.kv in target.kv_forms
        if target.library.backend == "tensorrt":
            assert target.spec.profiles == "pair" and target.library.timing_cache
            assert (target.spec.dialect == "primitive") == (target.library.below <= (10, 15))
        if target.library.backend == "tensorrt_rtx":
            assert target.spec.profiles == "wide" and target.library.cross_build
        assert ("fp8" in target.quantised) == (target.device.compute_capability not in (None, "8.0", "8.7"))


def test_records_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        targets.find("cpu").name = "gpu"  # type: ignore[misc]


def test_did_you_mean() -> None:
    with pytest.raises(UsageError, match="did you mean 'jetson-agx-orin-jp"):
        targets.find("jetson-agx-orin")
    with pytest.raises(UsageError, match=r"known: a100, .*rtx-blackwell"):
        targets.find("_generations")


def test_another_form_of_the_cache() -> None:
    assert targets.find("rtx-ada").with_kv("concat").kv == "concat"
    assert targets.find("rtx-ada").with_kv("inplace").opset == 24
    with pytest.raises(UsageError, match=r"does not take this form[\s\S]*expected: concat"):
        targets.find("jetson-agx-orin-jp62").with_kv("inplace")


@pytest.mark.parametrize(
    ("version", "taken"), [("10.3.0", True), ("10.3.0.30", True), ("10.4.0", False), ("10.2.1", False), ("11.1", False)]
)
def test_version_ranges(version: str, taken: bool) -> None:
    assert targets.find("jetson-orin-nx-jp62").library.takes(version) == taken


def test_a_missing_library_says_where_it_comes_from() -> None:
    with pytest.raises(
        MachineError, match=r"tensorrt is not installed[\s\S]*expected: tensorrt >=10.15,<12[\s\S]*JetPack"
    ) as got:
        library.load(targets.find("h100").library)
    assert got.value.exit_code == 3


def test_a_library_of_another_version_is_refused() -> None:
    with pytest.raises(MachineError, match=r"does not build for the target[\s\S]*expected: onnxruntime >=9.0,<10.0"):
        library.load(Library("onnxruntime", (9, 0), (10, 0)))


def test_what_this_machine_cannot_build() -> None:
    if library.compute_capability() is None:
        with pytest.raises(
            MachineError, match=r"times kernels on the GPU[\s\S]*got: no GPU[\s\S]*compute capability 9.0"
        ):
            library.check_builds(targets.find("h100"))
        assert library.why_not(targets.find("h100")) == "no such GPU"
    if platform.machine() != "aarch64":
        with pytest.raises(MachineError, match=r"built on the device itself[\s\S]*luvc-export pack") as got:
            library.check_builds(targets.find("jetson-thor"))
        assert got.value.exit_code == 3
    with pytest.raises(UsageError, match=r"runs the bundle's own graphs"):
        library.check_builds(targets.find("cpu"))
    assert library.why_not(targets.find("cpu")) is None


def test_the_verb() -> None:
    result = CliRunner().invoke(app, ["targets", "--json"])
    listed = {item["name"]: item for item in json.loads(result.stdout)}
    assert set(listed) == DESIGNED
    assert listed["cpu"]["usable"] and listed["jetson-thor"]["device"]["compute_capability"] == "11.0"
    assert listed["jetson-thor"]["why_not"] == (
        None if platform.machine() == "aarch64" else "built on the board (pack)"
    )
    table = CliRunner().invoke(app, ["targets"]).stdout
    assert all(name in table for name in DESIGNED)
    one = CliRunner().invoke(app, ["targets", "jetson-agx-orin-jp62"], env={"COLUMNS": "80"}).stdout
    assert "https://developer.nvidia.com/embedded/jetpack-sdk-62" in one and "primitive" in one, "addresses stay whole"


def test_no_word_is_broken_at_80_columns() -> None:
    rows = json.loads(CliRunner().invoke(app, ["targets", "--json"]).stdout)
    lines = CliRunner().invoke(app, ["targets"], env={"COLUMNS": "80"}).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    words = set(" ".join(lines).split())
    for row in rows:
        wanted = [row["name"], row["spec"]["dialect"], row["library"]["backend"], *(row["why_not"] or "usable").split()]
        assert set(wanted) <= words, set(wanted) - words
    wide = CliRunner().invoke(app, ["targets"], env={"COLUMNS": "200"}).stdout.splitlines()
    assert sum(line.startswith(tuple(row["name"] for row in rows)) for line in wide) == len(rows) == len(wide) - 2


@pytest.mark.parametrize(
    ("target", "kinds", "fits"),
    [
        ("cpu", {"int4", "int8", "fp8"}, True),
        ("intel-cpu", {"int8"}, True),
        ("rtx-ada", {"int4", "fp8"}, True),
        ("rtx-ada", {"int8"}, False),
        ("jetson-agx-orin-jp72", {"int4"}, True),
        ("jetson-agx-orin-jp62", {"int4"}, False),
        ("jetson-agx-orin-jp62", {"fp8"}, True),
    ],
)
def test_codes_of_a_quantised_checkpoint_fit_some_targets(target: str, kinds: set[str], fits: bool) -> None:
    stored = StoredCodes("awq", "weights.stored", dict(zip("abc", sorted(kinds), strict=False)), 1, 1)
    if fits:
        check_codes(stored, targets.find(target))
        return
    with pytest.raises(UsageError, match=r"no product for the codes[\s\S]*calibrate --precision int8"):
        check_codes(stored, targets.find(target))


def test_caches_in_codes_want_int8() -> None:
    without = dataclasses.replace(targets.find("rtx-ada"), quantised=("int4",))
    with pytest.raises(UsageError, match="it has no INT8, and its caches are codes"):
        check_caches_target(without)
