"""What a Jetson says of itself, read from the files of its system below any root; whether a pack was made for it.

Where the formats come from. NVIDIA publishes no grammar of its own files; boards print them, public tools read them.

- ``etc/nv_tegra_release``, first line ``# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64,
  DATE: ...`` (JetPack 6.2) or ``# R39 (release), REVISION: 2.0, ...`` (7.2): jetson_containers/l4t_version.py of
  github.com/dusty-nv/jetson-containers. R36 with REVISION 4.3 is Jetson Linux 36.4.3.
- ``var/lib/dpkg/status``: dpkg-query(1). JetPack 6.2 has ``nvidia-l4t-core`` 36.4.3-20250107174145 and ``libnvinfer10``
  10.3.0.30-1+cuda12.5.
- ``proc/device-tree/model``, ``proc/meminfo``: Linux, Documentation/devicetree and Documentation/filesystems/proc.rst.
- ``etc/nvpmodel.conf`` (``< POWER_MODEL ID=0 NAME=MAXN >``) and ``var/lib/nvpmodel/status`` (``pmode:0000``), the mode
  that nvpmodel keeps over a restart: jtop/core/nvpmodel.py of github.com/rbonghi/jetson_stats reads the first.
- ``sys/devices/system/cpu/cpufreq/policy*``: Linux, Documentation/admin-guide/pm/cpufreq.rst (kHz);
  ``sys/class/devfreq/*gpu*`` (17000000.gpu on Orin, gpu-gpc-0 on Thor): Linux,
  Documentation/ABI/testing/sysfs-class-devfreq (Hz).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from luvc_export.bundle.manifest import Footprint
from luvc_export.core.target import Target
from luvc_export.engines import memory

_RELEASE = re.compile(r"# R(\d+) \(release\), REVISION: ([\d.]+)")
_MODE = re.compile(r"pmode:0*(\d+)")
_MODES = re.compile(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([^\s>]+)", re.MULTILINE)
_L4T_PACKAGE = "nvidia-l4t-core"
_TENSORRT_PACKAGE = re.compile(r"libnvinfer\d+")


@dataclass(frozen=True)
class Clock:
    """One clock, in MHz: the lowest it may fall to now, what it is, the highest it may rise to now."""

    name: str
    lowest: float
    current: float
    highest: float

    @property
    def held(self) -> bool:
        """Whether it cannot fall, which is what ``jetson_clocks`` does."""
        return self.lowest >= self.highest


@dataclass(frozen=True)
class DeviceFacts:
    """A device; None or nothing where its files do not say.

    Args:
        model: The board, from the device tree.
        l4t: Release of Jetson Linux: (36, 4, 3).
        tensorrt: Version of the TensorRT package: 10.3.0.30.
        memory: Bytes that are free or can be freed.
        power_mode: Name of the active one: MAXN.
        power_modes: Names of all.
        clocks: Of the CPU and the GPU.
    """

    model: str | None
    l4t: tuple[int, ...] | None
    tensorrt: str | None
    memory: int | None
    power_mode: str | None
    power_modes: tuple[str, ...]
    clocks: tuple[Clock, ...]


def read(root: Path) -> DeviceFacts:
    """Read the files of the system whose root folder is ``root``; nothing is run, so any image can be asked."""
    packages = _packages(_text(root / "var/lib/dpkg/status"))
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    modes = dict(_MODES.findall(_text(root / "etc/nvpmodel.conf")))
    mode = _MODE.search(_text(root / "var/lib/nvpmodel/status"))
    cpu = _clocks(root / "sys/devices/system/cpu/cpufreq", "policy*", "scaling_{}_freq", 1e3)
    return DeviceFacts(
        model=_text(root / "proc/device-tree/model").strip("\0\n ") or None,
        l4t=_l4t(_text(root / "etc/nv_tegra_release"), packages),
        tensorrt=next((_upstream(packages[name]) for name in packages if _TENSORRT_PACKAGE.fullmatch(name)), None),
        memory=int(match[1]) * 1024 if match else None,
        power_mode=modes.get(mode[1]) if mode else None,
        power_modes=tuple(modes.values()),
        clocks=cpu + _clocks(root / "sys/class/devfreq", "*gpu*", "{}_freq", 1e6),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _packages(status: str) -> dict[str, str]:
    """Versions of the installed packages that are of interest."""
    installed = {}
    for stanza in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        name = fields.get("Package", "")
        wanted = name == _L4T_PACKAGE or _TENSORRT_PACKAGE.fullmatch(name)
        if wanted and fields.get("Status", "").endswith(" installed"):
            installed[name] = fields.get("Version", "")
    return installed


def _upstream(version: str) -> str:
    """The version of a Debian package without epoch and revision."""
    return version.split(":")[-1].split("-")[0]


def _l4t(release: str, packages: dict[str, str]) -> tuple[int, ...] | None:
    match = _RELEASE.search(release)
    text = f"{match[1]}.{match[2]}" if match else _upstream(packages.get(_L4T_PACKAGE, ""))
    numbers = tuple(int(part) for part in text.split(".") if part.isdigit())
    return numbers or None


def _clocks(folder: Path, pattern: str, file: str, per_mhz: float) -> tuple[Clock, ...]:
    clocks = []
    for place in sorted(folder.glob(pattern)):
        values = [_text(place / file.format(name)).strip() for name in ("min", "cur", "max")]
        if all(value.isdigit() for value in values):
            low, now, high = (int(value) / per_mhz for value in values)
            clocks.append(Clock(place.name, low, now, high))
    return tuple(clocks)


#: Jetson's mode without limits: MAXN, and MAXN_SUPER where there is one.
_UNLIMITED = "MAXN"


@dataclass(frozen=True)
class Findings:
    """Reasons not to go on, and what only makes figures worse."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def check(facts: DeviceFacts, target: Target, footprint: Footprint, building: bool) -> Findings:
    """Compare a device with the record of its target.

    ``footprint`` is predicted; ``building`` engines takes memory of its own.
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
