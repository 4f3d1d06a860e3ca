"""OpenVINO and its devices: imported when asked for, named ``CPU``, ``GPU``, ``AUTO``; and what each computes in.

Only the CPU plug-in has been run with these graphs. GPU and AUTO follow OpenVINO's documentation and are untested.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from luvc_export.errors import MachineError, UsageError, did_you_mean
from luvc_export.runtime.cpu_features import cpu_features
from luvc_export.runtime.product_check import check as product_check

#: Devices that take both graphs.
DEVICES = ("CPU", "GPU", "AUTO")
INSTALL = "pip install 'luvc-export[openvino]'"
#: What users say, what OpenVINO's hint says, and the capability a device must list (openvino, device properties).
ARITHMETICS = {"fp32": ("f32", "FP32"), "bf16": ("bf16", "BF16"), "fp16": ("f16", "FP16")}
#: Activations of a row that share a scale where steps multiply them by codes, by a plan's precision; where none is
#: named, the plug-in's own 32. ``q8`` says one scale for all of a call, so any group is finer.
ACTIVATION_GROUPS = {"q8": 128}
_BY_TYPE = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}


@dataclass(frozen=True)
class Device:
    """A device that is there.

    Args:
        name: As OpenVINO calls it, such as ``CPU`` or ``GPU.1``.
        title: Its full name.
        arithmetics: What it computes in, of ``ARITHMETICS``.
        best: What its plug-in chooses by itself, which is what it is fastest at, or fp32 where that is wrong.
        notes: What it lists and computes wrong, one line each.
    """

    name: str
    title: str
    arithmetics: tuple[str, ...]
    best: str
    notes: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def load_library() -> Any:
    """Import ``openvino``.

    Raises:
        MachineError: It is not installed, or its libraries do not load.
    """
    try:
        import openvino
    except (ImportError, OSError, RuntimeError) as error:
        raise MachineError(
            "openvino is not installed", where="--backend openvino", got=f"{type(error).__name__}: {error}", fix=INSTALL
        ) from error
    return openvino


@lru_cache(maxsize=1)
def core() -> Any:
    """The one ``openvino.Core`` of this process.

    Raises:
        MachineError: See ``load_library``.
    """
    return load_library().Core()


def find(name: str = "") -> Device:
    """The device called ``name``, ``CPU`` by default.

    Raises:
        UsageError: OpenVINO knows no such device, or it cannot take the decoder.
        MachineError: It is not there, or OpenVINO is not.
    """
    asked = (name or "CPU").upper()
    kind = asked.partition(".")[0]
    if kind == "NPU":
        raise UsageError(
            "an NPU cannot run these decoders: it takes fixed shapes alone, and keys and values grow with every token",
            where="backend",
            got=f"openvino:{name}",
            expected=", ".join(f"openvino:{device}" for device in DEVICES),
            fix="choose openvino:CPU, or openvino:GPU where there is one",
        )
    if kind not in DEVICES:
        raise UsageError(
            "unknown OpenVINO device", where="backend", got=f"openvino:{name}", expected=did_you_mean(kind, DEVICES)
        )
    there = [str(device) for device in core().available_devices]
    if kind != "AUTO" and not any(device == asked or device.startswith(f"{asked}.") for device in there):
        raise MachineError(
            "OpenVINO does not find this device",
            where=f"openvino {load_library().__version__}",
            got=f"openvino:{name}",
            expected=", ".join(f"openvino:{device}" for device in there),
            fix="install the device's driver (an Intel GPU needs its OpenCL driver), or choose a device that is there",
        )
    if kind == "AUTO":
        return Device("AUTO", "whatever AUTO chooses", tuple(ARITHMETICS), "fp32")
    return describe(asked)


def describe(name: str) -> Device:
    """What is known of a device that is there. An arithmetic whose products are wrong on it is none of its own."""
    device = core()
    able = {str(item) for item in device.get_property(name, "OPTIMIZATION_CAPABILITIES")}
    listed = tuple(text for text, (_, needed) in ARITHMETICS.items() if needed in able and text != "fp32")
    checks = {text: product_check.openvino_float(device, name, text, ARITHMETICS[text][0]) for text in listed}
    arithmetics = ("fp32", *(text for text in listed if checks[text].way is not None))
    notes = tuple(note for checked in checks.values() for note in checked.notes)
    hint = device.get_property(name, "INFERENCE_PRECISION_HINT")
    best = _BY_TYPE.get(str(hint.to_string() if hasattr(hint, "to_string") else hint), "fp32")
    title = str(device.get_property(name, "FULL_DEVICE_NAME")).strip()
    return Device(name, title, arithmetics, best if best in arithmetics else "fp32", notes)


def arithmetic(device: Device, asked: str) -> str:
    """What to compute in: ``asked``, or for ``auto`` what ``device`` is best at.

    Raises:
        UsageError: No such arithmetic.
        MachineError: The device does not have it.
    """
    if asked == "auto":
        return device.best
    if asked not in ARITHMETICS:
        known = ("auto", *ARITHMETICS)
        raise UsageError(
            "unknown arithmetic", where="--arithmetic", got=repr(asked), expected=did_you_mean(asked, known)
        )
    if asked not in device.arithmetics:
        raise MachineError(
            "this device does not compute in that arithmetic",
            where=f"openvino:{device.name} ({device.title})",
            got=f"--arithmetic {asked}",
            expected=", ".join(("auto", *device.arithmetics)),
            fix="; ".join((*device.notes, f"leave --arithmetic out, which is {device.best} here")),
        )
    return asked


def reads_in_place(device: Device, arithmetic: str) -> bool:
    """Whether weights stored in ``arithmetic`` are read where the file lies (``rewrites.read_in_place``).

    It is sooner on CPUs with AMX, in bf16; others were not measured. An exact product is tried first.
    """
    able = device.name == "CPU" and arithmetic == "bf16" and "AMX-BF16" in cpu_features()
    return able and product_check.openvino_in_place(core(), device.name)
