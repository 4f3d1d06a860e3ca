from __future__ import annotations

import dataclasses
import json

import pytest

from luvc_export.bundle.engines.checks import check_device, check_library
from luvc_export.bundle.manifest import Binding, EngineEntry, EngineFile, FileRecord, Footprint, Profile
from luvc_export.core.files.json_records import from_json_data
from luvc_export.errors import BundleError, MachineError

FILE = EngineFile("x.engine", FileRecord("0", 1), (), (), (), 1, None, "x.json", "x.log")
ENTRY = EngineEntry(
    plan="even",
    target="jetson-agx-orin-jp62",
    precision="fp16",
    kv="concat",
    backend="tensorrt",
    version="10.3.0.26",
    compute_capabilities=("8.7",),
    version_compatible=False,
    hardware_compatibility="none",
    refit=False,
    stripped=False,
    batch=1,
    images=1,
    text_capacity=8,
    vision=FILE,
    decoder=FILE,
    footprint=Footprint(1, 1, 1, 1, 1),
)


@pytest.mark.parametrize("version", ["10.3.0.26", "10.3.0"])
def test_the_same_version_loads(version: str) -> None:
    check_library(ENTRY, "tensorrt", version)


@pytest.mark.parametrize(
    ("backend", "version"), [("tensorrt", "10.3.0.30"), ("tensorrt", "10.16.1.11"), ("tensorrt_rtx", "10.3.0.26")]
)
def test_another_version_does_not(backend: str, version: str) -> None:
    with pytest.raises(MachineError, match=r"another version of TensorRT[\s\S]*expected: tensorrt 10.3.0.26") as got:
        check_library(ENTRY, backend, version)
    assert got.value.exit_code == 3 and f"got: {backend} {version}" in str(got.value)


def test_a_version_compatible_plan_loads_later_but_not_earlier() -> None:
    entry = dataclasses.replace(ENTRY, version_compatible=True)
    for version in ("10.16.1.11", "11.4.1.2"):
        check_library(entry, "tensorrt", version)
    for version in ("10.2.0.19", "12.0.0"):
        with pytest.raises(MachineError, match=r"10.3.0.26 or later"):
            check_library(entry, "tensorrt", version)


def test_another_gpu_is_refused() -> None:
    check_device(ENTRY, "8.7", integrated=True)
    with pytest.raises(
        MachineError, match=r"another kind of GPU[\s\S]*got: compute capability 8.9[\s\S]*expected: 8.7"
    ):
        check_device(ENTRY, "8.9")


def test_ampere_and_later_but_no_jetson() -> None:
    entry = dataclasses.replace(ENTRY, hardware_compatibility="ampere+", compute_capabilities=("8.0",))
    check_device(entry, "9.0")
    for capability, integrated in (("7.5", False), ("8.7", True)):
        with pytest.raises(MachineError):
            check_device(entry, capability, integrated)


def test_an_entry_goes_through_json_and_what_is_wrong_in_it_is_named() -> None:
    shapes = {"image": (1, 1, 56, 84, 3)}
    file = dataclasses.replace(
        FILE,
        inputs=(Binding("image", "uint8", (-1, 1, 56, 84, 3)),),
        profiles=(Profile("image", shapes, shapes, shapes),),
    )
    entry = dataclasses.replace(ENTRY, vision=file, compute_capabilities=("8.6", "8.9"))
    written = json.dumps(dataclasses.asdict(entry))
    read = from_json_data(EngineEntry, json.loads(written), "luvc.json")
    assert read == entry and read.vision.inputs[0].shape == (-1, 1, 56, 84, 3) and read.vision != read.decoder
    for path, value, message in (
        (("batch",), "1", r"wrong type(.|\n)*batch"),
        (("vision", "inputs"), [{"name": "image"}], r"the fields are wrong(.|\n)*vision: inputs(.|\n)*dtype"),
        (("decoder", "record", "bytes"), 1.5, r"wrong type(.|\n)*decoder: record: bytes"),
        (("luck",), 1, r"the fields are wrong(.|\n)*unknown \['luck'\]"),
    ):
        data = json.loads(written)
        place = data
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(BundleError, match=message):
            from_json_data(EngineEntry, data, "luvc.json")
