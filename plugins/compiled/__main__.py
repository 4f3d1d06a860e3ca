"""Compile the kernels for every GPU we name and compare what they take with the table. ``python -m compiled``.

The table is resources.json, one kernel on one GPU a line. Registers, shared memory, spills or local memory that grew,
occupancy that fell, kernels that came or went: each ends the command with 1 and a line that says which. What is better
than the table does so too, so that the table stays true: ``--write`` puts the new figures there. No kernel may touch
local memory or lack launch bounds, whatever the table says.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

from compiled import kernels, nvcc
from compiled.kernels import Kernel

TABLE = Path(__file__).with_name("resources.json")
BUILD = kernels.PLUGINS.parent / "build"
_WORSE_WHEN_MORE = ("registers", "shared", "stack", "spill_stores", "spill_loads", "ptx_local")
_WORSE_WHEN_LESS = ("blocks", "occupancy")


def faults(compiled: list[Kernel]) -> list[str]:
    """What no kernel may have."""
    lines = []
    for kernel in compiled:
        here = f"{kernel.source} {kernel.name} {kernel.arch}"
        if kernel.stack or kernel.spill_stores or kernel.spill_loads or kernel.ptx_local:
            lines.append(
                f"{here}: local memory: stack {kernel.stack} bytes, spills {kernel.spill_stores} stored and"
                f" {kernel.spill_loads} loaded, {kernel.ptx_local} places in its PTX"
            )
        if not kernel.threads:
            lines.append(f"{here}: no launch bounds")
    return lines


def differences(table: list[Kernel], compiled: list[Kernel]) -> list[str]:
    """Where ``compiled`` is not ``table``, a line each."""
    before, now = {kernel.key: kernel for kernel in table}, {kernel.key: kernel for kernel in compiled}
    lines = [f"{' '.join(key)}: it is not in the table" for key in sorted(now.keys() - before.keys())]
    lines += [f"{' '.join(key)}: it is gone" for key in sorted(before.keys() - now.keys())]
    for key in sorted(before.keys() & now.keys()):
        old, new = dataclasses.asdict(before[key]), dataclasses.asdict(now[key])
        for name in old:
            if old[name] == new[name]:
                continue
            worse = (name in _WORSE_WHEN_MORE and new[name] > old[name]) or (
                name in _WORSE_WHEN_LESS and new[name] < old[name]
            )
            lines.append(f"{' '.join(key)}: {name} {old[name]} -> {new[name]}{', worse' if worse else ''}")
    return lines


def read(path: Path = TABLE) -> list[Kernel]:
    """The committed table."""
    return [Kernel(**item) for item in json.loads(path.read_text(encoding="utf-8"))]


def write(compiled: list[Kernel], path: Path = TABLE) -> None:
    """Put ``compiled`` in the table's place."""
    lines = ",\n".join(json.dumps(dataclasses.asdict(kernel)) for kernel in compiled)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """0 where the kernels take what the table says."""
    parser = argparse.ArgumentParser(prog="python -m compiled", description=__doc__)
    parser.add_argument("--write", action="store_true", help="make the table what the compiler gives now")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at a time")
    chosen = parser.parse_args(arguments)
    begun = time.monotonic()
    try:
        compiler = nvcc.find(BUILD / "nvcc")
        kernels.compile_host(compiler, kernels.PLUGINS / "bench" / "bench.cpp")
        compiled = kernels.compile_all(compiler, kernels.sources(), BUILD / "compiled", chosen.jobs)
    except nvcc.CompilerError as error:
        print(error, file=sys.stderr)
        return 1
    lines = faults(compiled)
    if chosen.write and not lines:
        write(compiled)
    lines += differences(read(), compiled) if not chosen.write else []
    for line in lines:
        print(line, file=sys.stderr)
    archs = sorted({kernel.arch for kernel in compiled}, key=lambda arch: int(arch[3:]))
    print(
        f"{len({kernel.key[:2] for kernel in compiled})} kernels for {', '.join(archs)} with nvcc {nvcc.VERSION}"
        f" in {time.monotonic() - begun:.0f} s: {len(lines) or 'no'} differences from {TABLE.name}"
    )
    if lines:
        print(
            "mend the kernels, or say that it is meant: PYTHONPATH=plugins python -m compiled --write", file=sys.stderr
        )
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
