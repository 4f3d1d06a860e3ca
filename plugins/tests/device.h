// Device memory for the GPU tests: copies of host arrays with guard bytes on both sides.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>
#include <vector>

#include "typed.h"

#ifndef LUVC_EMULATED
#define LUVC_EMULATED 0
#endif

namespace luvc::test {

// Why GPU tests cannot run here; empty where they can.
inline std::string no_gpu() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) return cudaGetErrorString(error);
    return count > 0 ? "" : "no CUDA device";
}

inline void check(cudaError_t error) {
    ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error);
}

// Allocates a copy of every array it is shown and brings the contents back on request.
class DeviceArrays {
public:
    DeviceArrays() = default;
    DeviceArrays(const DeviceArrays&) = delete;
    DeviceArrays& operator=(const DeviceArrays&) = delete;
    ~DeviceArrays() {
        for (const Entry& entry : entries_) cudaFree(entry.device);
    }

    template <typename T>
    void* operator()(std::vector<T>& array) {
        return add(array.data(), array.size() * sizeof(T));
    }

    // A workspace of exactly `bytes`.
    void* workspace(size_t bytes) { return add(nullptr, bytes); }

    // Copies back into the host arrays and checks that no guard byte changed.
    void fetch() {
        for (const Entry& entry : entries_) {
            Bytes all(entry.bytes + 2 * kGuard);
            check(cudaMemcpy(all.data(), entry.device, all.size(), cudaMemcpyDeviceToHost));
            for (size_t i = 0; i < kGuard; ++i) {
                ASSERT_EQ(all[i], kMark) << "written before an array";
                ASSERT_EQ(all[kGuard + entry.bytes + i], kMark) << "written past an array";
            }
            if (entry.host != nullptr && entry.bytes > 0) std::memcpy(entry.host, all.data() + kGuard, entry.bytes);
        }
    }

private:
    // The emulation knows the bounds of an allocation, and bytes in it that nobody wrote.
    static constexpr size_t kGuard = LUVC_EMULATED ? 0 : 256;
    static constexpr std::byte kMark{0xa5};

    struct Entry {
        std::byte* device;
        void* host;
        size_t bytes;
    };

    void* add(void* host, size_t bytes) {
        Entry entry{nullptr, host, bytes};
        check(cudaMalloc(reinterpret_cast<void**>(&entry.device), std::max<size_t>(bytes + 2 * kGuard, 1)));
        if (kGuard > 0) check(cudaMemset(entry.device, 0xa5, bytes + 2 * kGuard));
        if (host != nullptr && bytes > 0) check(cudaMemcpy(entry.device + kGuard, host, bytes, cudaMemcpyHostToDevice));
        entries_.push_back(entry);
        return entry.device + kGuard;
    }

    std::vector<Entry> entries_;
};

// Runs `call(stream)` once as it is, or captured in a graph that is launched twice.
inline void run_on_stream(bool captured, const std::function<luvc_status(void*)>& call) {
    cudaStream_t stream;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    if (captured) {
        cudaGraph_t graph;
        cudaGraphExec_t executable;
        check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
        EXPECT_EQ(call(stream), LUVC_OK);
        check(cudaStreamEndCapture(stream, &graph));
        check(cudaGraphInstantiate(&executable, graph, 0));
        for (int i = 0; i < 2; ++i) check(cudaGraphLaunch(executable, stream));
        check(cudaStreamSynchronize(stream));
        check(cudaGraphExecDestroy(executable));
        check(cudaGraphDestroy(graph));
    } else {
        EXPECT_EQ(call(stream), LUVC_OK);
        check(cudaStreamSynchronize(stream));
    }
    check(cudaStreamDestroy(stream));
#if LUVC_EMULATED
    EXPECT_STREQ(luvc_emulate_fault(), "");
#endif
}

class GpuTest : public testing::Test {
protected:
    void SetUp() override {
        if (const std::string reason = no_gpu(); !reason.empty()) GTEST_SKIP() << reason;
    }
};

}  // namespace luvc::test
