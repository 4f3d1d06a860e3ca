// Problems run through the CUDA half of the ABI, and compared with the host half.
#pragma once

#include "device.h"
#include "merge_problem.h"
#include "prune_problem.h"

namespace luvc::test {

inline PruneResult prune_on_device(PruneProblem& problem, bool captured) {
    PruneResult result(problem.shape);
    size_t bytes = 0;
    EXPECT_EQ(luvc_spectrum_prune_workspace(&problem.shape, LUVC_CUDA, &bytes), LUVC_OK);
    DeviceArrays device;
    luvc_payload payloads[2];
    const auto tensors = prune_tensors(problem, result, payloads, [&](auto& array) -> void* { return device(array); });
    void* workspace = device.workspace(bytes);
    run_on_stream(captured,
        [&](void* stream) { return luvc_spectrum_prune_cuda(&problem.shape, &tensors, workspace, bytes, stream); });
    device.fetch();
    return result;
}

inline void expect_equal_to_host(PruneProblem& problem, bool captured) {
    const PruneResult host = prune_on_host(problem);
    const PruneResult device = prune_on_device(problem, captured);
    // Three TF32 products leave about 2^-21 of each term; sums of N terms in fp32 add their rounding.
    for (size_t i = 0; i < host.scores.size(); ++i) {
        if (std::isnan(host.scores[i])) {
            ASSERT_TRUE(std::isnan(device.scores[i])) << "token " << i;
        } else if (device.scores[i] != host.scores[i]) {
            ASSERT_NEAR(device.scores[i], host.scores[i], 2e-5f * host.scores[i] + 1e-4f) << "token " << i;
        }
    }
    expect_consistent(problem, device);
}

inline MergeResult merge_on_device(MergeProblem& problem, bool captured) {
    MergeResult result(problem.shape);
    size_t bytes = 0;
    EXPECT_EQ(luvc_orthogonal_merge_workspace(&problem.shape, LUVC_CUDA, &bytes), LUVC_OK);
    DeviceArrays device;
    const auto tensors = merge_tensors(problem, result, [&](auto& array) -> void* { return device(array); });
    void* workspace = device.workspace(bytes);
    run_on_stream(captured,
        [&](void* stream) { return luvc_orthogonal_merge_cuda(&problem.shape, &tensors, workspace, bytes, stream); });
    device.fetch();
    return result;
}

inline void expect_equal_to_host(MergeProblem& problem, bool captured) {
    const luvc_dtype dtype = problem.shape.dtype;
    const MergeResult host = merge_on_host(problem);
    const MergeResult device = merge_on_device(problem, captured);
    EXPECT_EQ(device.merged_into, host.merged_into);
    EXPECT_EQ(device.sizes, host.sizes);
    const auto expect_near = [](const Floats& got, const Floats& want, float step) {
        ASSERT_EQ(got.size(), want.size());
        for (size_t i = 0; i < got.size(); ++i) {
            if (std::isnan(want[i])) {
                ASSERT_TRUE(std::isnan(got[i])) << "element " << i;
            } else if (got[i] != want[i]) {
                ASSERT_NEAR(got[i], want[i], step * std::fabs(want[i]) + 1e-5f) << "element " << i;
            }
        }
    };
    // A sum in another order may round to the neighbouring number of the element type.
    const float step = dtype == LUVC_FLOAT16 ? 0x1p-10f : dtype == LUVC_BFLOAT16 ? 0x1p-7f : 1e-5f;
    expect_near(unpack(dtype, device.values), unpack(dtype, host.values), step);
    expect_near(device.positions, host.positions, 1e-5f);
}

}  // namespace luvc::test
