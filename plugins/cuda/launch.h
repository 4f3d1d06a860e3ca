// Enqueues a chain of kernels and copies on one stream and remembers whether all of them were accepted.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "luvc/abi.h"

namespace luvc::cuda {

class Chain {
public:
    explicit Chain(void* stream) noexcept : stream_(static_cast<cudaStream_t>(stream)) {}

    // An empty grid enqueues nothing.
    template <typename... Params, typename... Args>
    void launch(void (*kernel)(Params...), dim3 grid, int threads, Args... args) noexcept {
        if (!ok_ || grid.x == 0 || grid.y == 0 || grid.z == 0) return;
        cudaLaunchConfig_t config{};
        config.gridDim = grid;
        config.blockDim = dim3(static_cast<unsigned>(threads));
        config.stream = stream_;
        ok_ = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...) == cudaSuccess;
    }

    void copy(void* target, const void* source, int64_t bytes) noexcept {
        if (!ok_ || bytes == 0) return;
        const auto count = static_cast<size_t>(bytes);
        ok_ = cudaMemcpyAsync(target, source, count, cudaMemcpyDeviceToDevice, stream_) == cudaSuccess;
    }

    luvc_status status() const noexcept { return ok_ ? LUVC_OK : LUVC_CUDA_ERROR; }

private:
    cudaStream_t stream_;
    bool ok_ = true;
};

constexpr unsigned blocks_for(int64_t work, int64_t per_block) noexcept {
    return static_cast<unsigned>((work + per_block - 1) / per_block);
}

}  // namespace luvc::cuda
