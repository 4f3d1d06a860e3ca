// What plugins/cuda and its tests use of the CUDA runtime, on the host: found instead of NVIDIA's when LUVC_EMULATE is
// on. Nothing else is declared, so a kernel that uses more fails to compile with the name of what is missing.
#pragma once

#include <math.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <tuple>

#include "emulate/machine.h"

#define __host__
#define __device__
#define __global__
#define __launch_bounds__(...)
// One variable a block, and one block at a time: shared_variables.cpp finds it, and it is refilled before each.
#define __shared__ static

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned width = 1, unsigned height = 1, unsigned depth = 1) : x(width), y(height), z(depth) {}
};

struct alignas(8) uint2 {
    unsigned x, y;
};

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

static constexpr const luvc::emulate::Extent& threadIdx = luvc::emulate::places.thread;
static constexpr const luvc::emulate::Extent& blockIdx = luvc::emulate::places.block;
static constexpr const luvc::emulate::Extent& blockDim = luvc::emulate::places.block_extent;
static constexpr const luvc::emulate::Extent& gridDim = luvc::emulate::places.grid_extent;

inline int min(int left, int right) {
    return right < left ? right : left;
}

inline unsigned max(unsigned left, unsigned right) {
    return left < right ? right : left;
}

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    luvc::emulate::barrier({file, line});
}

inline float __shfl_xor_sync(
    unsigned mask, float value, int offset, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    unsigned bits;
    memcpy(&bits, &value, sizeof(bits));
    const auto from = static_cast<int>(threadIdx.x % luvc::emulate::kWarp) ^ offset;
    bits = static_cast<unsigned>(luvc::emulate::shuffle("__shfl_xor_sync", mask, bits, from, {file, line}));
    memcpy(&value, &bits, sizeof(value));
    return value;
}

// Of shared memory only.
inline int atomicAdd(int* target, int value) {
    return luvc::emulate::shared_add(target, value, __builtin_return_address(0));
}

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal = 0 };
constexpr unsigned cudaStreamNonBlocking = 1;

using cudaStream_t = struct CUstream_st*;
using cudaGraph_t = struct CUgraph_st*;
using cudaGraphExec_t = struct CUgraphExec_st*;

struct cudaLaunchConfig_t {
    dim3 gridDim;
    dim3 blockDim;
    cudaStream_t stream = nullptr;
};

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaMalloc(void** pointer, size_t bytes);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaMemset(void* target, int value, size_t bytes);
cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(
    void* target, const void* source, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);

// Runs the kernel at once, or notes it where the stream is being captured.
cudaError_t luvc_emulate_launch(const cudaLaunchConfig_t& config, std::unique_ptr<luvc::emulate::Kernel> kernel);

template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args... args) {
    struct Call final : luvc::emulate::Kernel {
        void (*function)(Params...);
        std::tuple<Params...> params;

        Call(void (*called)(Params...), Args... given) : function(called), params(given...) {}
        void run() const override { std::apply(function, params); }
        const void* entry() const override { return reinterpret_cast<const void*>(function); }
        size_t bytes() const override { return sizeof(Call); }
    };
    return luvc_emulate_launch(*config, std::make_unique<Call>(kernel, args...));
}
