// Medians over CUDA events of work captured in a graph, with the L2 cache flushed before every run.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "luvc/abi.h"

namespace luvc::bench {

inline void check(cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

inline void check_status(luvc_status status) {
    if (status != LUVC_OK) throw std::runtime_error(luvc_status_string(status));
}

class DeviceBuffer {
public:
    explicit DeviceBuffer(size_t bytes) : bytes_(bytes) { check(cudaMalloc(&data_, std::max<size_t>(bytes, 1))); }
    DeviceBuffer(const DeviceBuffer&) = delete;
    DeviceBuffer& operator=(const DeviceBuffer&) = delete;
    ~DeviceBuffer() { cudaFree(data_); }

    void* data() const { return data_; }
    float* floats() const { return static_cast<float*>(data_); }
    size_t bytes() const { return bytes_; }

private:
    void* data_ = nullptr;
    size_t bytes_;
};

// Median milliseconds of one launch of what `enqueue` puts on its stream.
inline double median_ms(const std::function<void(cudaStream_t)>& enqueue, const DeviceBuffer& flush) {
    constexpr int kWarmUps = 5;
    constexpr int kRuns = 51;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    cudaEvent_t start;
    cudaEvent_t stop;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    check(cudaEventCreate(&start));
    check(cudaEventCreate(&stop));
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    enqueue(stream);
    check(cudaStreamEndCapture(stream, &graph));
    check(cudaGraphInstantiate(&executable, graph, 0));
    std::vector<float> times;
    for (int run = 0; run < kWarmUps + kRuns; ++run) {
        float elapsed = 0;
        check(cudaMemsetAsync(flush.data(), run, flush.bytes(), stream));
        check(cudaEventRecord(start, stream));
        check(cudaGraphLaunch(executable, stream));
        check(cudaEventRecord(stop, stream));
        check(cudaEventSynchronize(stop));
        check(cudaEventElapsedTime(&elapsed, start, stop));
        if (run >= kWarmUps) times.push_back(elapsed);
    }
    check(cudaGraphExecDestroy(executable));
    check(cudaGraphDestroy(graph));
    check(cudaEventDestroy(start));
    check(cudaEventDestroy(stop));
    check(cudaStreamDestroy(stream));
    std::nth_element(times.begin(), times.begin() + kRuns / 2, times.end());
    return double{times[kRuns / 2]};
}

}  // namespace luvc::bench
