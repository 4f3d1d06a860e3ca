"""The CUDA kernels through Python: equal to the host reference, on any stream, inside a CUDA graph."""

from __future__ import annotations

import native_kernels as native
import pytest
import torch

from luvc_export.errors import MachineError, UsageError
from luvc_export.export.compression import oim, spu

pytestmark = pytest.mark.gpu

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module")
def library() -> native.Native:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    try:
        kernels = native.Native()
    except MachineError as error:
        pytest.skip(str(error))
    if not kernels.has_cuda:
        pytest.skip(f"{kernels.path} has no CUDA kernels; build a CUDA preset")
    return kernels


def prune(
    library: native.Native, values: torch.Tensor, basis: torch.Tensor, keep: int, score: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Kept rows, indices and scores, on the device and the current stream of ``values``."""
    groups, tokens, channels = values.shape
    weight = torch.ones(channels, device=values.device, dtype=values.dtype)
    kept = torch.empty(groups, keep, channels, device=values.device, dtype=values.dtype)
    indices = torch.empty(groups, keep, device=values.device, dtype=torch.int64)
    scores = torch.empty(groups, tokens, device=values.device)
    workspace = torch.empty(1 << 26, device=values.device, dtype=torch.uint8)
    stream = torch.cuda.current_stream().cuda_stream if values.is_cuda else 0
    library.spectrum_prune(
        values, weight, basis, kept, indices, score=score, scores=scores, workspace=workspace, stream=stream
    )
    return kept, indices, scores


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("score", native.SCORES)
def test_prune_equals_the_host(library: native.Native, score: str, dtype: str) -> None:
    torch.manual_seed(1)
    values, basis = torch.randn(2, 577, 256).to(DTYPES[dtype]), spu.lowpass_basis(577, 0.25)
    _, _, expected = prune(library, values, basis, 288, score)
    with torch.cuda.stream(torch.cuda.Stream()):
        kept, indices, scores = prune(library, values.cuda(), basis.cuda(), 288, score)
        torch.cuda.current_stream().synchronize()
    torch.testing.assert_close(scores.cpu(), expected, rtol=2e-5, atol=1e-4)
    ranked = torch.empty_like(indices, device="cpu")
    library.select_top_k(scores.cpu(), ranked)
    assert torch.equal(indices.cpu(), ranked)
    for group, row in enumerate(ranked):
        assert torch.equal(kept[group].cpu(), values[group, row])


def test_prune_repeats_in_a_graph(library: native.Native) -> None:
    values, basis = torch.randn(1, 1024, 512, device="cuda"), spu.lowpass_basis(1024, 0.25).cuda()
    expected = prune(library, values, basis, 512, "low")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = prune(library, values, basis, 512, "low")
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(left, right) for left, right in zip(got, expected, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_merge_equals_the_host(library: native.Native, dtype: str) -> None:
    torch.manual_seed(2)
    units = oim.start(torch.randn(2, 24, 32, 320).to(DTYPES[dtype]))
    state = (units.x, units.sizes.contiguous(), units.positions.contiguous())
    results = []
    for device in ("cpu", "cuda"):
        inputs = [tensor.to(device) for tensor in state]
        outputs = [
            torch.empty(2, 20, 24, 320, dtype=units.x.dtype, device=device),
            torch.empty(2, 20, 24, device=device),
            torch.empty(2, 20, 24, 2, device=device),
        ]
        into = torch.empty(2, 24 * 32, dtype=torch.int32, device=device)
        workspace = torch.empty(1 << 25, dtype=torch.uint8, device=device)
        library.orthogonal_merge(*inputs, *outputs, merged_into=into, workspace=workspace)
        results.append([tensor.cpu() for tensor in (into, *outputs)])
    (into, values, sizes, positions), (their_into, their_values, their_sizes, their_positions) = results
    assert torch.equal(into, their_into)
    assert torch.equal(sizes, their_sizes)
    torch.testing.assert_close(positions, their_positions)
    step = {"float32": 1e-5, "float16": 2**-10, "bfloat16": 2**-7}[dtype]
    torch.testing.assert_close(values.float(), their_values.float(), rtol=step, atol=1e-5)


def test_a_missing_workspace_names_its_size(library: native.Native) -> None:
    values, basis = torch.randn(1, 64, 32, device="cuda"), spu.lowpass_basis(64, 0.25).cuda()
    kept, indices = torch.empty(1, 8, 32, device="cuda"), torch.empty(1, 8, dtype=torch.int64, device="cuda")
    with pytest.raises(UsageError, match=r"workspace=, a uint8 tensor of \d+ bytes"):
        library.spectrum_prune(values, torch.ones(32, device="cuda"), basis, kept, indices)
