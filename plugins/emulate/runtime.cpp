// Streams, graphs and memory. A stream runs its work at once, or notes it while it is captured.
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "emulate/include/cuda_runtime.h"
#include "emulate/shadow.h"

using Work = std::function<bool()>;

struct CUgraph_st {
    std::vector<Work> work;
};
struct CUgraphExec_st : CUgraph_st {};
struct CUstream_st {
    bool capturing = false;
    CUgraph_st captured;
};

namespace {

constexpr size_t kAlignment = 256;  // of cudaMalloc

cudaError_t put(cudaStream_t stream, const Work& work) {
    if (stream != nullptr && stream->capturing) {
        stream->captured.work.push_back(work);
        return cudaSuccess;
    }
    return work() ? cudaSuccess : cudaErrorLaunchFailure;
}

bool on_device(const void* pointer, size_t bytes) {
    return bytes == 0 || luvc::emulate::shadow::contains(pointer, bytes);
}

}  // namespace

const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "no error";
        case cudaErrorInvalidValue: return "invalid argument";
        case cudaErrorMemoryAllocation: return "out of memory";
        case cudaErrorInvalidConfiguration: return "invalid configuration argument";
        case cudaErrorLaunchFailure: return "unspecified launch failure (luvc_emulate_fault() says which)";
        case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    }
    return "unrecognized error code";
}

cudaError_t cudaGetDeviceCount(int* count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
    if (bytes == 0) {
        *pointer = nullptr;
        return cudaSuccess;
    }
    if (posix_memalign(pointer, kAlignment, bytes) != 0) return cudaErrorMemoryAllocation;
    std::memset(*pointer, 0xff, bytes);
    luvc::emulate::shadow::add(*pointer, bytes);
    return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
    if (pointer == nullptr) return cudaSuccess;
    if (!luvc::emulate::shadow::remove(pointer)) return cudaErrorInvalidValue;
    std::free(pointer);
    return cudaSuccess;
}

cudaError_t cudaMemset(void* target, int value, size_t bytes) {
    if (!on_device(target, bytes)) return cudaErrorInvalidValue;
    if (bytes > 0) std::memset(target, value, bytes);
    luvc::emulate::shadow::fill(target, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind) {
    if (kind != cudaMemcpyHostToDevice && !on_device(source, bytes)) return cudaErrorInvalidValue;
    if (kind != cudaMemcpyDeviceToHost && !on_device(target, bytes)) return cudaErrorInvalidValue;
    if (bytes > 0) std::memcpy(target, source, bytes);
    if (kind != cudaMemcpyDeviceToHost) luvc::emulate::shadow::fill(target, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(
    void* target, const void* source, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    return put(stream, [=] { return cudaMemcpy(target, source, bytes, kind) == cudaSuccess; });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    *stream = new CUstream_st;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return stream != nullptr && stream->capturing ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    if (stream == nullptr || stream->capturing) return cudaErrorStreamCaptureUnsupported;
    stream->capturing = true;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    if (!stream->capturing) return cudaErrorInvalidValue;
    stream->capturing = false;
    *graph = new CUgraph_st(std::move(stream->captured));
    stream->captured = {};
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    *executable = new CUgraphExec_st{*graph};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    for (const Work& work : executable->work) {
        if (const cudaError_t error = put(stream, work); error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    delete executable;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t luvc_emulate_launch(const cudaLaunchConfig_t& config, std::unique_ptr<luvc::emulate::Kernel> kernel) {
    const dim3& grid = config.gridDim;
    const dim3& block = config.blockDim;
    constexpr unsigned kMaxThreads = 1024;
    constexpr unsigned kMaxGridYZ = 65535;
    const unsigned long long threads = 1ull * block.x * block.y * block.z;
    if (threads == 0 || threads > kMaxThreads || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu
        || grid.y > kMaxGridYZ || grid.z > kMaxGridYZ) {
        return cudaErrorInvalidConfiguration;
    }
    const std::shared_ptr<luvc::emulate::Kernel> shared(std::move(kernel));
    return put(config.stream, [shared, grid, block] {
        return luvc::emulate::run(*shared, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z});
    });
}
