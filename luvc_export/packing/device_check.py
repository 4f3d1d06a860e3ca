"""Whether a device is the one a pack was made for: pure, from its facts, the target's record and the prediction."""

from __future__ import annotations

import re
from dataclasses import dataclass

from luvc_export.bundle.manifest import Footprint
from luvc_export.core.target import Target
from luvc_export.engines import memory
from luvc_export.packing.device_facts import DeviceFacts

#: Jetson's mode without limits: MAXN, and MAXN_SUPER where there is one.
_UNLIMITED = "MAXN"


@dataclass(frozen=True)
class Findings:
    """Reasons not to go on, and what only makes figures worse."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def check(facts: DeviceFacts, target: Target, footprint: Footprint, building: bool) -> Findings:
    """Compare a device with the record of its target.

    Args:
        facts: The device.
        target: What the pack was made for.
        footprint: Predicted memory of the engines.
        building: Whether engines are to be built, which takes memory of its own.
    """
    problems = [*_system(facts, target), *_memory(facts, target, footprint, building)]
    return Findings(tuple(problems), (*_unknown(facts, target), *_speed(facts)))


def numbers(version: tuple[int, ...]) -> str:
    """A version for people: 36.4.3."""
    return ".".join(map(str, version))


def _system(facts: DeviceFacts, target: Target) -> list[str]:
    problems = []
    if target.device.l4t is not None:
        low, high = target.device.l4t
        wanted = f"Jetson Linux >={numbers(low)},<{numbers(high)} (JetPack {target.device.jetpack})"
        if facts.l4t is None:
            problems.append(
                f"this is no Jetson: neither /etc/nv_tegra_release nor a package nvidia-l4t-core; expected {wanted}"
            )
        elif not low <= facts.l4t < high:
            problems.append(f"Jetson Linux {numbers(facts.l4t)}: expected {wanted}")
    if facts.tensorrt is not None and not target.library.takes(facts.tensorrt):
        problems.append(f"TensorRT {facts.tensorrt}: expected {target.library.range}")
    return problems


def _memory(facts: DeviceFacts, target: Target, footprint: Footprint, building: bool) -> list[str]:
    wanted = memory.needed(footprint, target)
    if facts.memory is None:
        return []
    if wanted > facts.memory:
        parts = f"weights {_mib(footprint.weights)}, plan while loading {_mib(footprint.loading)}, "
        parts += f"KV {_mib(footprint.kv)}, activations {_mib(footprint.activations)}"
        parts += f", adapters {_mib(footprint.adapters)}" if footprint.adapters else ""
        return [f"{_mib(facts.memory)} MiB of memory free: the engines are predicted to need {_mib(wanted)} ({parts})"]
    most = memory.building(footprint)
    if building and most > facts.memory:
        return [f"{_mib(facts.memory)} MiB of memory free: building is predicted to need {_mib(most)}"]
    return []


def _unknown(facts: DeviceFacts, target: Target) -> list[str]:
    silent = {"memory": facts.memory is None, "TensorRT package": facts.tensorrt is None}
    return [f"nothing says the {name}, so it was not checked" for name, missing in silent.items() if missing]


def _speed(facts: DeviceFacts) -> list[str]:
    problems = []
    best = _best(facts.power_modes)
    if facts.power_mode is None:
        problems.append("nothing says the power mode: figures may be below what the device can do")
    elif best is not None and facts.power_mode != best:
        problems.append(
            f"power mode {facts.power_mode}, not {best}: figures are below what the device can do (nvpmodel)"
        )
    falling = [clock.name for clock in facts.clocks if not clock.held]
    if falling:
        problems.append(f"clocks of {', '.join(falling)} may fall: figures vary (sudo jetson_clocks holds them)")
    elif not facts.clocks:
        problems.append("nothing says the clocks")
    return problems


def _best(modes: tuple[str, ...]) -> str | None:
    """The fastest mode by its name: the longest MAXN name, else the most watts; its number says nothing."""
    unlimited = [mode for mode in modes if mode.startswith(_UNLIMITED)]
    if unlimited:
        return max(unlimited, key=len)
    watts = {int(match[1]): mode for mode in modes if (match := re.match(r"(?:MODE_)?(\d+)W", mode))}
    return watts[max(watts)] if watts else None


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f}"
