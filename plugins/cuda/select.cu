#include "cuda/select.cuh"

#include "common/rank_key.h"
#include "common/select.h"
#include "cuda/block_top_k.cuh"

namespace luvc::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kCopyThreads = 256;

// One block a group. There are few groups, so one block a multiprocessor: two would leave a thread too few registers.
template <typename Index>
__global__ void __launch_bounds__(kThreads, 1)
    select_kernel(const float* scores, int tokens, int keep, Index* indices) {
    using TopK = BlockTopK<kThreads>;
    __shared__ typename TopK::Storage storage;
    const float* group_scores = scores + int64_t{blockIdx.x} * tokens;
    Index* group_indices = indices + int64_t{blockIdx.x} * keep;
    const auto key_at = [group_scores](int i) { return rank_key(group_scores[i]); };
    TopK top_k(storage);
    const Cut cut = top_k.find(key_at, tokens, keep);
    top_k.visit(key_at, tokens, cut, [group_indices](int i, bool selected, int before) {
        if (selected) group_indices[before] = i;
    });
}

template <typename Index>
__global__ void __launch_bounds__(kCopyThreads) keep_all_kernel(int tokens, Index* indices) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < tokens) indices[int64_t{blockIdx.y} * tokens + i] = i;
}

template <typename Index>
void enqueue(Chain& chain, const float* scores, int64_t groups, int64_t tokens, int64_t keep, Index* indices) {
    const auto count = static_cast<unsigned>(groups);
    if (keep == tokens) {
        const dim3 grid(blocks_for(tokens, kCopyThreads), count);
        chain.launch(keep_all_kernel<Index>, grid, kCopyThreads, tokens, indices);
    } else {
        chain.launch(select_kernel<Index>, dim3(count), kThreads, scores, tokens, keep, indices);
    }
}

}  // namespace

void select_top_k(Chain& chain, const float* scores, int64_t groups, int64_t tokens, int64_t keep,
    luvc_dtype index_dtype, void* indices) noexcept {
    if (index_dtype == LUVC_INT32) {
        enqueue(chain, scores, groups, tokens, keep, static_cast<int32_t*>(indices));
    } else {
        enqueue(chain, scores, groups, tokens, keep, static_cast<int64_t*>(indices));
    }
}

}  // namespace luvc::cuda

extern "C" luvc_status luvc_select_top_k_cuda(const float* scores, int64_t groups, int64_t tokens, int64_t keep,
    luvc_dtype index_dtype, void* indices, void* stream) noexcept {
    const luvc_status status = luvc::check_select(scores, groups, tokens, keep, index_dtype, indices);
    if (status != LUVC_OK || groups == 0 || keep == 0) return status;
    luvc::cuda::Chain chain(stream);
    luvc::cuda::select_top_k(chain, scores, groups, tokens, keep, index_dtype, indices);
    return chain.status();
}
