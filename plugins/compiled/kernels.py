"""Kernels compiled for every GPU we name, warnings as errors, and what each takes there."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiled.nvcc import VERSION, CompilerError
from compiled.occupancy import LIMITS, blocks_at_once, occupancy

PLUGINS = Path(__file__).resolve().parents[1]
#: As plugins/CMakeLists.txt compiles them in a Release build.
FLAGS = (
    *("-std=c++17", "-O3", "-DNDEBUG", f"-I{PLUGINS}", f"-I{PLUGINS / 'include'}"),
    *("-Xcompiler=-Wall,-Wextra,-Wconversion,-fPIC", "-Werror", "all-warnings", "-Xptxas=-v"),
)

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\d+)'")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
_LOCAL = re.compile(r"\b(?:ld|st)\.(?:volatile\.)?local\b|\.local\s+\.align")


@dataclass(frozen=True, order=True)
class Kernel:
    """One kernel on one GPU.

    Attributes:
        source: File of plugins/cuda.
        name: With template arguments.
        arch: ``sm_NN``.
        threads: Of a block at most, by its launch bounds; 0 where it has none.
        registers: Of a thread.
        shared: Bytes of static shared memory of a block.
        stack: Bytes of local memory of a thread: arrays that no register holds.
        spill_stores: Bytes of registers put into local memory.
        spill_loads: Bytes of registers taken from there.
        ptx_local: Lines of its PTX that read, write or reserve local memory.
        blocks: How many a multiprocessor holds.
        occupancy: Share of the threads a multiprocessor can hold.
        limit: What stands against more.
    """

    source: str
    name: str
    arch: str
    threads: int
    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int
    ptx_local: int
    blocks: int
    occupancy: float
    limit: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is."""
        return self.source, self.name, self.arch


def sources(folder: Path = PLUGINS / "cuda") -> list[Path]:
    """Files of kernels."""
    return sorted(folder.glob("*.cu"))


def compile_all(nvcc: str, units: Sequence[Path], cache: Path, jobs: int = 2) -> list[Kernel]:
    """Kernels of ``units`` on every GPU of ``LIMITS``.

    Args:
        nvcc: Of ``VERSION``.
        units: Sources.
        cache: Folder for results; a unit whose sources and compiler are the same is not compiled again.
        jobs: Compilers at a time.

    Raises:
        CompilerError: A warning or an error.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        parts = pool.map(lambda unit: _cached(nvcc, unit, cache), units)
        return sorted(kernel for part in parts for kernel in part)


def _cached(nvcc: str, unit: Path, cache: Path) -> list[Kernel]:
    digest = hashlib.sha256(repr((VERSION, FLAGS, [*LIMITS.items()])).encode())
    for path in (unit, *sorted(unit.parent.glob("*.*h")), *sorted(PLUGINS.glob("common/*.h")), Path(__file__),
                 *sorted(PLUGINS.glob("include/luvc/*.h")), Path(__file__).with_name("occupancy.py")):  # fmt: skip
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    record = cache / f"{unit.stem}-{digest.hexdigest()[:16]}.json"
    if not record.is_file():
        compiled = compile_unit(nvcc, unit)
        fresh = record.with_suffix(".new")
        fresh.write_text(json.dumps([dataclasses.asdict(kernel) for kernel in compiled]), encoding="utf-8")
        fresh.replace(record)
    return [Kernel(**item) for item in json.loads(record.read_text(encoding="utf-8"))]


def compile_unit(nvcc: str, unit: Path, archs: Sequence[str] = tuple(LIMITS)) -> list[Kernel]:
    """Kernels of one source, compiled for each of ``archs``.

    Raises:
        CompilerError: A warning or an error, in nvcc's words.
    """
    with tempfile.TemporaryDirectory(prefix="luvc-nvcc-") as folder:
        numbers = [arch.removeprefix("sm_") for arch in archs]
        codes = [part for n in numbers for part in ("-gencode", f"arch=compute_{n},code=sm_{n}")]
        place = Path(folder)
        command = [nvcc, *FLAGS, *codes, "--keep", "--keep-dir", folder, "-c", str(unit), "-o", str(place / "unit.o")]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise CompilerError(f"{unit.name}: nvcc refuses it\n{(run.stdout + run.stderr).strip()}")
        ptx = {}
        for number, arch in zip(numbers, archs, strict=True):
            texts = sorted(place.glob(f"*compute_{number}.ptx")) or sorted(place.glob("*.ptx"))
            ptx[arch] = texts[0].read_text(encoding="utf-8")
    return sorted(parse(unit.name, run.stdout + run.stderr, ptx))


def compile_host(nvcc: str, unit: Path) -> None:
    """Compile a source without kernels of its own, such as the benchmark, which is built nowhere but for a GPU.

    Raises:
        CompilerError: A warning or an error, in nvcc's words.
    """
    with tempfile.TemporaryDirectory(prefix="luvc-nvcc-") as folder:
        command = [nvcc, *FLAGS, "-Xcompiler=-Werror", "-c", str(unit), "-o", str(Path(folder) / "unit.o")]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise CompilerError(f"{unit.name}: nvcc refuses it\n{(run.stdout + run.stderr).strip()}")


def parse(source: str, report: str, ptx: dict[str, str]) -> Iterator[Kernel]:
    """Kernels from what ptxas -v says and from PTX by arch.

    Raises:
        CompilerError: The report lacks a kernel of the PTX, or the other way round.
    """
    entries = {arch: dict(_entries(text)) for arch, text in ptx.items()}
    blocks = re.split(r"(?=ptxas info\s*: Compiling entry function)", report)
    seen = set()
    for block in blocks:
        entry, frame, used = _ENTRY.search(block), _FRAME.search(block), _USED.search(block)
        if entry is None:
            continue
        mangled, arch = entry[1], entry[2]
        if frame is None or used is None or mangled not in entries.get(arch, {}):
            raise CompilerError(f"{source}: what ptxas says of {mangled} on {arch} cannot be read:\n{block.strip()}")
        seen.add((mangled, arch))
        body = entries[arch][mangled]
        bound = re.search(r"\.maxntid\s+(\d+)", body)
        threads, registers, shared = int(bound[1]) if bound else 0, int(used[1]), int(used[2] or 0)
        count, limit = blocks_at_once(arch, max(threads, 1), registers, shared)
        share = round(occupancy(arch, max(threads, 1), registers, shared), 3)
        stack, stores, loads = (int(number) for number in frame.groups())
        local = len(_LOCAL.findall(body))
        yield Kernel(
            source,
            readable(mangled),
            arch,
            threads,
            registers,
            shared,
            stack,
            stores,
            loads,
            local,
            count,
            share,
            limit,
        )
    missing = {(name, arch) for arch, names in entries.items() for name in names} - seen
    if missing:
        raise CompilerError(f"{source}: ptxas says nothing of {sorted(missing)}")


def _entries(ptx: str) -> Iterator[tuple[str, str]]:
    """Mangled names of kernels, and their PTX."""
    for part in re.split(r"(?=^(?:\.visible )?\.(?:entry|func)\b)", ptx, flags=re.M):
        if name := re.match(r"(?:\.visible )?\.entry (\w+)", part):
            yield name[1], part


def readable(mangled: str) -> str:
    """Name and template arguments of a kernel, without namespaces and parameters."""
    plain = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout.strip()
    name = re.search(r"(\w+_kernel)(<[^(]*>)?", plain)
    return (name[1] + (name[2] or "")) if name else plain
