// Runs every kernel once and says what the emulation found: linked with kernels in which one line was changed.
#include <cstdio>

#include "tests/merge_problem.h"
#include "tests/on_device.h"

int main(int, char** names) {
    using namespace luvc::test;
    testing::InitGoogleTest();
    PruneProblem prune = random_prune(prune_shape(1, 70, 40, 20, 30), 1);
    MergeProblem merge = random_merge(merge_shape(1, 5, 12, 8, 4, 2), 1);
    const auto run = [](const auto& call, auto& problem, auto& result, auto tensors_of, auto workspace_of) {
        size_t bytes = 0;
        workspace_of(&problem.shape, LUVC_CUDA, &bytes);
        DeviceArrays device;
        const auto tensors = tensors_of(device, result);
        return call(&problem.shape, &tensors, device.workspace(bytes), bytes, nullptr);
    };
    PruneResult pruned(prune.shape);
    MergeResult merged(merge.shape);
    luvc_payload payloads[2];
    const luvc_status first = run(luvc_spectrum_prune_cuda, prune, pruned,
        [&](DeviceArrays& device, PruneResult& result) {
            return prune_tensors(prune, result, payloads, [&](auto& array) -> void* { return device(array); });
        },
        luvc_spectrum_prune_workspace);
    const std::string prune_fault = luvc_emulate_fault();
    const luvc_status second = run(luvc_orthogonal_merge_cuda, merge, merged,
        [&](DeviceArrays& device, MergeResult& result) {
            return merge_tensors(merge, result, [&](auto& array) -> void* { return device(array); });
        },
        luvc_orthogonal_merge_workspace);
    const std::string merge_fault = luvc_emulate_fault();
    std::printf("%s: prune %d, merge %d\n%s%s\n", names[0], first, second, prune_fault.c_str(), merge_fault.c_str());
    if (first == LUVC_OK && second == LUVC_OK && prune_fault.empty() && merge_fault.empty()) std::puts("no fault");
}
