"""The native kernels through their C ABI against the Python functions that define them."""

from __future__ import annotations

from pathlib import Path

import native_kernels as native
import numpy as np
import pytest
import torch
from native_kernels.__main__ import main

from luvc_export.core.plan import MergePass
from luvc_export.errors import MachineError, UsageError
from luvc_export.export.compression import oim, scores, spu

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture
def library(native_library: native.Native) -> native.Native:
    return native_library


def normed(values: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    wide = values.float()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon) * weight.float()


def assert_same_choice(score: torch.Tensor, kept: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal sets, but for tokens whose score is within rounding of the last kept one."""
    keep = kept.shape[-1]
    for row, ours, theirs in zip(score, kept, expected, strict=True):
        assert ours.tolist() == sorted(set(ours.tolist()))
        last = row.sort(descending=True).values[keep - 1]
        clear = (row - last).abs() > 2e-5 * last.abs() + 2e-6
        assert set(ours[clear[ours]].tolist()) == set(theirs[clear[theirs]].tolist())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("score", native.SCORES)
@pytest.mark.parametrize("tokens", [1, 37, 144, 900])
def test_spectrum_prune_equals_the_python_functions(
    library: native.Native, tokens: int, score: str, dtype: str
) -> None:
    torch.manual_seed(tokens)
    groups, channels, keep = 2, 24, (tokens + 1) // 2
    values = torch.randn(groups, tokens, channels).to(DTYPES[dtype])
    weight = (1 + 0.1 * torch.randn(channels)).to(DTYPES[dtype])
    basis = spu.lowpass_basis(tokens, 0.25)
    positions = torch.rand(3, groups, tokens)
    cosines = torch.rand(groups, tokens, 16).to(DTYPES[dtype])
    expected = scores.find(score).score(scores.ScoreInput(normed(values, weight, 1e-6)[None], basis, "token"))

    kept_values = torch.empty(groups, keep, channels, dtype=values.dtype)
    indices = torch.empty(groups, keep, dtype=torch.int64)
    got = torch.empty(groups, tokens)
    kept_positions, kept_cosines = torch.empty(3, groups, keep), torch.empty(groups, keep, 16, dtype=values.dtype)
    library.spectrum_prune(
        values,
        weight,
        basis,
        kept_values,
        indices,
        score=score,
        scores=got,
        payloads=[
            native.Payload(positions, kept_positions, token_axis=2),
            native.Payload(cosines, kept_cosines, token_axis=1),
        ],
    )
    # The Python functions sum in float32, the reference in double.
    torch.testing.assert_close(got, expected[0], rtol=2e-5, atol=2e-6)
    assert_same_choice(expected[0], indices, spu.select(expected, keep)[0])
    for group, kept in enumerate(indices):
        assert torch.equal(kept_values[group], values[group, kept])
        assert torch.equal(kept_positions[:, group], positions[:, group, kept])
        assert torch.equal(kept_cosines[group], cosines[group, kept])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("grid", "removed"), [((8, 10), (3, 2)), ((7, 9), (4, 3)), ((24, 24), (6, 6)), ((4, 6), (0, 1))]
)
def test_orthogonal_merge_equals_the_python_functions(
    library: native.Native, grid: tuple[int, int], removed: tuple[int, int], dtype: str
) -> None:
    torch.manual_seed(grid[1])
    (height, width), (columns, rows) = grid, removed
    units = oim.start(torch.randn(2, height, width, 20).to(DTYPES[dtype]))
    units = units._replace(sizes=torch.randint(1, 5, (2, height, width)).float())
    expected = oim.merge(units, MergePass(block=0, rows=rows, columns=columns))

    merged = torch.empty_like(expected.x, memory_format=torch.contiguous_format)
    sizes = torch.empty(merged.shape[:3])
    positions = torch.empty(*merged.shape[:3], 2)
    into = torch.empty(2, height * width, dtype=torch.int32)
    library.orthogonal_merge(
        units.x, units.sizes, units.positions.contiguous(), merged, sizes, positions, merged_into=into
    )
    assert torch.equal(into.long(), expected.merged_into)
    assert torch.equal(sizes, expected.sizes)
    torch.testing.assert_close(positions, expected.positions)
    # A sum in another order may round to the neighbouring number of the dtype.
    step = {"float32": 1e-5, "float16": 2**-10, "bfloat16": 2**-7}[dtype]
    torch.testing.assert_close(merged.float(), expected.x.float(), rtol=step, atol=1e-5)


def test_selection_breaks_ties_by_index_and_ranks_nan_last(library: native.Native) -> None:
    scores = np.array([[1, 3, 3, np.nan, 3], [np.nan, np.nan, -np.inf, 0.0, -0.0]], dtype=np.float32)
    indices = np.empty((2, 3), dtype=np.int32)
    library.select_top_k(scores, indices)
    assert indices.tolist() == [[1, 2, 4], [0, 3, 4]]


@pytest.mark.parametrize("tokens", [1, 2, 3841, 20_000])
def test_selection_equals_a_stable_sort(library: native.Native, tokens: int) -> None:
    scores = np.random.default_rng(tokens).integers(0, 50, (1, tokens)).astype(np.float32)
    for keep in sorted({0, 1, tokens // 3, tokens}):
        indices = np.empty((1, keep), dtype=np.int64)
        library.select_top_k(scores, indices)
        expected = np.sort(np.argsort(-scores[0], kind="stable")[:keep])
        assert indices[0].tolist() == expected.tolist()


def test_a_workspace_of_the_caller_is_used_and_checked(library: native.Native) -> None:
    values, weight, basis = torch.randn(1, 8, 4), torch.ones(4), spu.lowpass_basis(8, 0.5)
    kept, indices = torch.empty(1, 3, 4), torch.empty(1, 3, dtype=torch.int32)
    library.spectrum_prune(values, weight, basis, kept, indices, workspace=torch.empty(4096, dtype=torch.uint8))
    with pytest.raises(UsageError, match="the workspace is smaller than the reported size"):
        library.spectrum_prune(values, weight, basis, kept, indices, workspace=torch.empty(16, dtype=torch.uint8))


def test_errors_name_the_tensor(library: native.Native) -> None:
    values, weight, basis = torch.randn(1, 8, 4), torch.ones(4), spu.lowpass_basis(8, 0.5)
    kept, indices = torch.empty(1, 3, 4), torch.empty(1, 3, dtype=torch.int64)
    with pytest.raises(UsageError, match=r"norm_weight\n.*float32 \[5\] on cpu"):
        library.spectrum_prune(values, torch.ones(5), basis, kept, indices)
    with pytest.raises(UsageError, match=r"wrong rank\n  where: values"):
        library.spectrum_prune(values[0], weight, basis, kept, indices)
    with pytest.raises(UsageError, match=r"not dense and row-major\n  where: values"):
        library.spectrum_prune(values.transpose(1, 2), weight, basis, kept, indices)
    with pytest.raises(UsageError, match=r"cannot be shared through DLPack\n  where: norm_weight"):
        library.spectrum_prune(values, weight.requires_grad_(), basis, kept, indices)
    with pytest.raises(UsageError, match="did you mean 'ratio'"):
        library.spectrum_prune(values, torch.ones(4), basis, kept, indices, score="ration")
    with pytest.raises(UsageError, match="epsilon must be finite and not negative"):
        library.spectrum_prune(values, torch.ones(4), basis, kept, indices, epsilon=-1.0)
    with pytest.raises(UsageError, match="a payload does not fit values"):
        payload = native.Payload(torch.rand(8, 2), torch.rand(3, 2), token_axis=1)
        library.spectrum_prune(values, torch.ones(4), basis, kept, indices, payloads=[payload])
    with pytest.raises(UsageError, match=r"keep must lie in 0\.\.tokens"):
        library.select_top_k(torch.rand(1, 2), torch.empty(1, 3, dtype=torch.int64))
    with pytest.raises(UsageError, match=r"removed_columns must lie in 0\.\.width/2"):
        grid = (torch.rand(1, 2, 4, 3), torch.ones(1, 2, 4), torch.rand(1, 2, 4, 2))
        library.orthogonal_merge(*grid, torch.rand(1, 2, 1, 3), torch.ones(1, 2, 1), torch.rand(1, 2, 1, 2))


def test_a_missing_library_says_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"libluvc_native.so is not built\n.*absent\n  fix: cmake --preset host"):
        native.Native(tmp_path / "absent")
    with pytest.raises(MachineError, match="build a CUDA preset"):
        native.load_plugins(object(), tmp_path / "absent")


def test_plugins_are_loaded_through_the_registry(tmp_path: Path) -> None:
    class Registry:
        def __init__(self, handle: object) -> None:
            self.handle, self.paths = handle, list[str]()
            self.known = {("SpectrumPrune", "1", "luvc"), ("OrthogonalMerge", "1", "luvc")}

        def load_library(self, path: str) -> object:
            self.paths.append(path)
            return self.handle

        def get_creator(self, *identity: str) -> object:
            return identity if identity in self.known else None

    file = tmp_path / native.PLUGINS_NAME
    file.touch()
    registry = Registry(object())
    assert native.load_plugins(registry, file) == file
    assert registry.paths == [str(file)]
    with pytest.raises(MachineError, match="TensorRT did not load the plugins"):
        native.load_plugins(Registry(None), file)
    registry.known.remove(("OrthogonalMerge", "1", "luvc"))
    with pytest.raises(
        UsageError, match=r"lacks plugins[\s\S]*got: no OrthogonalMerge\n[\s\S]*namespace luvc, version 1"
    ):
        native.load_plugins(registry, file)


def test_the_command_reports_and_fails_like_the_command_line(
    library: native.Native, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--library", str(library.path)]) == 0
    assert "CUDA kernels: no" in capsys.readouterr().out or library.has_cuda
    assert main(["--bench", "--library", str(tmp_path / "absent.so")]) == 3
    assert "luvc_bench is not built" in capsys.readouterr().err
