"""What nvcc makes of the kernels is what the table says, and a kernel that got worse is told."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
sys.path.insert(0, str(PLUGINS))

from compiled import __main__ as command  # noqa: E402
from compiled import kernels, nvcc  # noqa: E402
from compiled.kernels import Kernel  # noqa: E402
from compiled.occupancy import LIMITS, blocks_at_once, occupancy  # noqa: E402

sys.path.pop(0)  # plugins/tensorrt is no package of that name

MANGLED = "_ZN4luvc4cuda41_GLOBAL__N__129ae2bd_9_gather_cu_918e073613gather_kernelIlEEvNS1_5ItemsEPKT_ii"
REPORT = f"""ptxas info    : 28 bytes gmem
ptxas info    : Compiling entry function '{MANGLED}' for 'sm_87'
ptxas info    : Function properties for {MANGLED}
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 30 registers, used 1 barriers, 1360 bytes smem, 632 bytes cmem[0], 12 bytes cmem[2]
ptxas info    : Compile time = 19.842 ms
"""
PTX = f""".version 9.0
.visible .entry {MANGLED}(
)
.maxntid 256, 1, 1
{{
    .local .align 8 .b8 __local_depot0[16];
    st.local.u32 [%rd1], %r1;
    ld.local.u32 %r2, [%rd1];
    ld.global.u32 %r3, [%rd2];
}}
"""


def nvcc_here() -> str:
    """An nvcc of the table's version that is there already; skips the test otherwise."""
    packaged = sorted((PLUGINS.parent / "build" / "nvcc").glob("lib/python*/site-packages/nvidia/cu13/bin/nvcc"))
    for candidate in (shutil.which("nvcc"), *map(str, packaged)):
        if candidate and nvcc.version_of(candidate) == nvcc.VERSION:
            return candidate
    pytest.skip(f"no nvcc {nvcc.VERSION}: make native")


def test_the_table_has_every_kernel_for_every_gpu() -> None:
    table = command.read()
    names = {kernel.key[:2] for kernel in table}
    assert len(table) == len(names) * len(LIMITS) and {kernel.arch for kernel in table} == set(LIMITS)
    sources = {path.name for path in kernels.sources() if "__global__" in path.read_text(encoding="utf-8")}
    assert {kernel.source for kernel in table} == sources
    assert command.faults(table) == []
    assert all(kernel.blocks >= 1 for kernel in table)


def test_what_ptxas_says_is_read() -> None:
    [kernel] = kernels.parse("gather.cu", REPORT, {"sm_87": PTX})
    assert kernel == Kernel("gather.cu", "gather_kernel<long>", "sm_87", 256, 30, 1360, 16, 8, 4, 3, 6, 1.0, "threads")
    [line] = command.faults([kernel])
    assert line == (
        "gather.cu gather_kernel<long> sm_87: local memory: stack 16 bytes, spills 8 stored and 4 loaded, 3 places in"
        " its PTX"
    )
    [unbound] = kernels.parse("gather.cu", REPORT, {"sm_87": PTX.replace(".maxntid 256, 1, 1\n", "")})
    assert "no launch bounds" in command.faults([unbound])[1]


@pytest.mark.parametrize(
    ("report", "ptx", "message"),
    [
        (REPORT.replace("Used 30 registers", "Used some"), PTX, "cannot be read"),
        ("", PTX, "says nothing of"),
        (REPORT, "", "cannot be read"),
    ],
    ids=["registers", "nothing", "no PTX"],
)
def test_a_report_that_cannot_be_read_is_no_clean_one(report: str, ptx: str, message: str) -> None:
    with pytest.raises(nvcc.CompilerError, match=message):
        list(kernels.parse("gather.cu", report, {"sm_87": ptx}))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"registers": 31}, "registers 30 -> 31, worse"),
        ({"registers": 29}, "registers 30 -> 29"),
        ({"shared": 2048}, "shared 1360 -> 2048, worse"),
        ({"spill_stores": 12}, "spill_stores 8 -> 12, worse"),
        ({"ptx_local": 4}, "ptx_local 3 -> 4, worse"),
        ({"occupancy": 0.5}, "occupancy 1.0 -> 0.5, worse"),
        ({"blocks": 7}, "blocks 6 -> 7"),
        ({"name": "gather_kernel<int>"}, "it is not in the table"),
    ],
)
def test_a_change_is_told(change: dict[str, Any], line: str) -> None:
    [kernel] = kernels.parse("gather.cu", REPORT, {"sm_87": PTX})
    assert command.differences([kernel], [kernel]) == []
    changes = command.differences([kernel], [dataclasses.replace(kernel, **change)])
    assert changes[0].endswith(line) and changes[0].startswith("gather.cu gather_kernel<")
    assert command.differences([kernel], []) == ["gather.cu gather_kernel<long> sm_87: it is gone"]


def test_the_command_ends_with_1_where_a_kernel_grew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And writes no table of kernels that touch local memory."""
    table = command.read()
    monkeypatch.setattr(command, "TABLE", tmp_path / "resources.json")
    monkeypatch.setattr(command.read, "__defaults__", (tmp_path / "resources.json",))
    monkeypatch.setattr(command.write, "__defaults__", (tmp_path / "resources.json",))
    monkeypatch.setattr(nvcc, "find", lambda folder: "nvcc")
    command.write(table)
    rows = list(table)
    monkeypatch.setattr(kernels, "compile_all", lambda *arguments: rows)
    monkeypatch.setattr(kernels, "compile_host", lambda *arguments: None)
    assert command.main([]) == 0
    rows[3] = dataclasses.replace(rows[3], registers=rows[3].registers + 1)
    assert command.main([]) == 1
    assert f"registers {table[3].registers} -> {table[3].registers + 1}, worse" in capsys.readouterr().err
    assert command.main(["--write"]) == 0 and command.main([]) == 0
    rows[3] = dataclasses.replace(rows[3], spill_stores=4)
    before = (tmp_path / "resources.json").read_text(encoding="utf-8")
    assert command.main(["--write"]) == 1
    assert (tmp_path / "resources.json").read_text(encoding="utf-8") == before


def test_blocks_of_a_multiprocessor() -> None:
    """By hand: 64 registers x 32 threads are 2,048, of 16,384 a part 8 warps, 32 in all, 4 blocks of 8 warps."""
    assert blocks_at_once("sm_90", 256, 64, 0) == (4, "registers")
    assert blocks_at_once("sm_90", 256, 65, 0) == (3, "registers")  # 72 a thread: 7 warps a part, 28 in all
    assert blocks_at_once("sm_89", 256, 32, 34816) == (2, "shared memory")  # 35,840 of 102,400 bytes
    assert blocks_at_once("sm_87", 32, 16, 0) == (16, "blocks")
    assert occupancy("sm_120", 1024, 32, 0) == pytest.approx(2 / 3)


def source(folder: Path, text: str) -> Path:
    unit = folder / "broken.cu"
    unit.write_text(text, encoding="utf-8")
    return unit


def test_the_compiler_finds_an_array_in_local_memory(tmp_path: Path) -> None:
    text = """__global__ void __launch_bounds__(64) broken_kernel(const int* in, int* out) {
    int table[32];
    for (int i = 0; i < 32; ++i) table[i] = in[i];
    for (int i = 0; i < 999; ++i) table[in[i] & 31] += table[in[i + 1] & 31];
    out[threadIdx.x] = table[in[threadIdx.x] & 31];
}"""
    [kernel] = kernels.compile_unit(nvcc_here(), source(tmp_path, text), ["sm_87"])
    assert kernel.stack == 128 and kernel.ptx_local > 2
    assert "local memory: stack 128 bytes" in command.faults([kernel])[0]


@pytest.mark.slow(beside="plugins/test_compiled.py::test_the_compiler_finds_an_array_in_local_memory")
def test_a_warning_is_an_error(tmp_path: Path) -> None:
    text = "__global__ void broken_kernel(int* out) {\n    int unused;\n    *out = 1;\n}"
    with pytest.raises(nvcc.CompilerError, match=r"broken.cu: nvcc refuses it\n(.|\n)*unused"):
        kernels.compile_unit(nvcc_here(), source(tmp_path, text), ["sm_87"])
    text = "struct Two { int one, other; };\nTwo half() { return Two{1}; }"  # a field that came later
    with pytest.raises(nvcc.CompilerError, match=r"broken.cu: nvcc refuses it\n(.|\n)*initializer"):
        kernels.compile_host(nvcc_here(), source(tmp_path, text))


def test_an_nvcc_of_another_version_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "nvcc"
    other.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.6, V12.6.85'\n", encoding="utf-8")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDACXX", str(other))
    monkeypatch.setattr(nvcc, "_from_packages", lambda folder: f"packages in {folder}")
    assert nvcc.version_of(str(other)) == "12.6.85"
    assert nvcc.find(tmp_path) == f"packages in {tmp_path}"
    other.write_text(f"#!/bin/sh\necho 'release 13.0, V{nvcc.VERSION}'\n", encoding="utf-8")
    assert nvcc.find(tmp_path) == str(other)
