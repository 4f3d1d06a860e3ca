// The emulation against plain loops, and what it refuses.
#include <cub/block/block_scan.cuh>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <gtest/gtest.h>
#include <mma.h>

#include <cmath>
#include <limits>
#include <vector>

#include "cuda/launch.h"
#include "tests/random.h"

namespace luvc::cuda::test {
namespace {

namespace wmma = nvcuda::wmma;

constexpr unsigned kThreads = 96;

template <typename T>
class Array {
public:
    explicit Array(const std::vector<T>& values) : count_(values.size()) {
        cudaMalloc(reinterpret_cast<void**>(&data_), count_ * sizeof(T));
        cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice);
    }
    Array(const Array&) = delete;
    Array& operator=(const Array&) = delete;
    ~Array() { cudaFree(data_); }

    operator T*() const { return data_; }
    std::vector<T> host() const {
        std::vector<T> values(count_);
        cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost);
        return values;
    }

private:
    T* data_ = nullptr;
    size_t count_;
};

template <typename... Params, typename... Args>
std::string fault_of(void (*kernel)(Params...), dim3 grid, Args... args) {
    Chain chain(nullptr);
    chain.launch(kernel, grid, kThreads, args...);
    const std::string fault = luvc_emulate_fault();
    EXPECT_EQ(chain.status() == LUVC_OK, fault.empty());
    return fault;
}

template <typename T>
__global__ void scan_kernel(const T* values, T* before, T* totals) {
    using Scan = cub::BlockScan<T, kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
    __shared__ typename Scan::TempStorage storage;
    const auto thread = threadIdx.x;
    T items[4], sums[4], total;
    for (int i = 0; i < 4; ++i) items[i] = values[thread * 4 + i];
    Scan(storage).ExclusiveSum(items, sums, total);
    for (int i = 0; i < 4; ++i) before[thread * 4 + i] = sums[i];
    totals[thread] = total;
    __syncthreads();
    Scan(storage).ExclusiveSum(items[0], sums[0]);
    totals[kThreads + thread] = sums[0];
}

template <typename T>
void expect_scanned(T step) {
    std::vector<T> values(4 * kThreads), expected(values.size());
    luvc::test::Random random(1);
    for (T& value : values) value = static_cast<T>(random.below(1000)) * step;
    T sum = 0;
    for (size_t i = 0; i < values.size(); ++i) {
        expected[i] = sum;
        sum += values[i];
    }
    const Array<T> given(values), before(values);
    const Array<T> totals(std::vector<T>(2 * kThreads));
    ASSERT_EQ(fault_of(scan_kernel<T>, dim3(1), static_cast<const T*>(given), static_cast<T*>(before),
                  static_cast<T*>(totals)),
        "");
    EXPECT_EQ(before.host(), expected);
    T firsts = 0;
    for (unsigned thread = 0; thread < kThreads; ++thread) {
        EXPECT_EQ(totals.host()[thread], sum);
        EXPECT_EQ(totals.host()[kThreads + thread], firsts);
        firsts += values[thread * 4];
    }
}

TEST(Machine, BlockScansAddInOrder) {
    expect_scanned<int>(-3);
    expect_scanned<unsigned long long>(1ull << 33);
}

template <typename Layout>
__global__ void product_kernel(const float* left, const float* right, float* sum) {
    alignas(32) __shared__ float a[16 * 16];
    alignas(32) __shared__ float b[16 * 16];
    alignas(32) __shared__ float c[16 * 16];
    for (unsigned i = threadIdx.x; i < 256; i += kThreads) {
        a[i] = left[i];
        b[i] = right[i];
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        wmma::fragment<wmma::matrix_a, 16, 16, 8, wmma::precision::tf32, Layout> x;
        wmma::fragment<wmma::matrix_b, 16, 16, 8, wmma::precision::tf32, wmma::row_major> y;
        wmma::fragment<wmma::accumulator, 16, 16, 8, float> z;
        wmma::fill_fragment(z, 1.0f);
        wmma::load_matrix_sync(x, a, 16);
        wmma::load_matrix_sync(y, b, 16);
        wmma::mma_sync(z, x, y, z);
        wmma::store_matrix_sync(c, z, 16, wmma::mem_row_major);
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < 256; i += kThreads) sum[i] = c[i];
}

TEST(Machine, MatrixProductsAreExactForSmallIntegers) {
    std::vector<float> left(256), right(256);
    luvc::test::Random random(2);
    for (float& value : left) value = static_cast<float>(random.below(64)) - 32;
    for (float& value : right) value = static_cast<float>(random.below(64)) - 32;
    const Array<float> a(left), b(right), c(left);
    const auto expect = [&](auto kernel, bool row_major) {
        ASSERT_EQ(fault_of(kernel, dim3(1), static_cast<const float*>(a), static_cast<const float*>(b),
                      static_cast<float*>(c)),
            "");
        for (size_t row = 0; row < 16; ++row) {
            for (size_t column = 0; column < 16; ++column) {
                float sum = 1;
                for (size_t k = 0; k < 8; ++k) {
                    sum += left[row_major ? row * 16 + k : k * 16 + row] * right[k * 16 + column];
                }
                ASSERT_EQ(c.host()[row * 16 + column], sum) << row << ", " << column;
            }
        }
    };
    expect(product_kernel<wmma::row_major>, true);
    expect(product_kernel<wmma::col_major>, false);
}

TEST(Machine, MatrixProductsSeeTenBitsOfAnOperand) {
    std::vector<float> left(256, 0.0f), right(256, 0.0f);
    left[0] = 1 + 0x1p-11f;  // not rounded by the kernel, so cut off
    right[0] = 1;
    const Array<float> a(left), b(right), c(left);
    ASSERT_EQ(fault_of(product_kernel<wmma::row_major>, dim3(1), static_cast<const float*>(a),
                  static_cast<const float*>(b), static_cast<float*>(c)),
        "");
    EXPECT_EQ(c.host()[0], 2.0f);
}

TEST(Machine, NumbersRoundAsCudaSays) {
    EXPECT_EQ(wmma::__float_to_tf32(1 + 0x1p-11f), 1 + 0x1p-10f);  // ties go away from zero
    EXPECT_EQ(wmma::__float_to_tf32(-1 - 0x1p-11f), -1 - 0x1p-10f);
    EXPECT_EQ(wmma::__float_to_tf32(1 + 0x1.fp-12f), 1.0f);
    EXPECT_TRUE(std::isnan(wmma::__float_to_tf32(NAN)));
    EXPECT_EQ(wmma::__float_to_tf32(INFINITY), INFINITY);
    EXPECT_EQ(__float2half_rn(NAN).bits, 0x7fff);
    EXPECT_EQ(__float2bfloat16_rn(-NAN).bits, 0x7fff);
    EXPECT_EQ(__half2float(__float2half_rn(1 + 0x1p-11f)), 1.0f);  // ties go to even
    EXPECT_EQ(__half2float(__float2half_rn(1 + 0x3p-11f)), 1 + 0x1p-9f);
    EXPECT_EQ(__bfloat162float(__float2bfloat16_rn(1 + 0x3p-8f)), 1 + 0x1p-6f);
}

__global__ void count_kernel(int* count, bool shared) {
    __shared__ int sum;
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    atomicAdd(shared ? &sum : count, 1);
    __syncthreads();
    if (threadIdx.x == 0) count[blockIdx.x] = sum;
}

TEST(Machine, AdditionsDoNotRace) {
    const Array<int> count(std::vector<int>(3));
    ASSERT_EQ(fault_of(count_kernel, dim3(3), static_cast<int*>(count), true), "");
    EXPECT_EQ(count.host(), std::vector<int>(3, kThreads));
    EXPECT_NE(fault_of(count_kernel, dim3(1), static_cast<int*>(count), false).find("memory that is not shared"),
        std::string::npos);
}

__global__ void early_kernel(int* data, int waiting) {
    if (threadIdx.x == 40) return;
    if (waiting == 1) __syncthreads();
    if (waiting == 2) data[threadIdx.x] = static_cast<int>(__shfl_xor_sync(0xffffffffu, 1.0f, 1));
    if (waiting == 3 && threadIdx.x < 8) __shfl_xor_sync(0x000000ffu, 1.0f, 8);
}

TEST(Machine, SaysWhoWaitsForWhom) {
    const Array<int> data(std::vector<int>(kThreads, 0));
    const auto fault = [&](int waiting) { return fault_of(early_kernel, dim3(1), static_cast<int*>(data), waiting); };
    EXPECT_EQ(fault(0), "");
    EXPECT_NE(fault(1).find("waits in __syncthreads at"), std::string::npos);
    EXPECT_NE(fault(1).find("thread 40 has returned"), std::string::npos);
    EXPECT_NE(fault(2).find("for lane 8, which has returned"), std::string::npos);
    EXPECT_NE(fault(3).find("which the mask of __shfl_xor_sync does not name"), std::string::npos);
    EXPECT_NE(fault(3).find("machine_test.cu:"), std::string::npos);
}

__global__ void blocks_kernel(int* data, bool same) {
    if (threadIdx.x == 0) data[same ? 0 : blockIdx.x] = 1;
}

TEST(Machine, BlocksAreNotOrdered) {
    const Array<int> data(std::vector<int>(4));
    EXPECT_EQ(fault_of(blocks_kernel, dim3(4), static_cast<int*>(data), false), "");
    const std::string fault = fault_of(blocks_kernel, dim3(4), static_cast<int*>(data), true);
    if (LUVC_EMULATE_CHECK) {
        EXPECT_NE(fault.find("race: thread 0"), std::string::npos) << fault;
    }
}

__global__ void pointer_kernel(const int* source, int* target) {
    if (threadIdx.x == 0) target[0] = source[0];
}

TEST(Machine, KernelsSeeDeviceMemoryOnly) {
    if (!LUVC_EMULATE_CHECK) GTEST_SKIP() << "accesses are not looked at in this build";
    const Array<int> data(std::vector<int>(1));
    const std::vector<int> host(1);
    EXPECT_NE(fault_of(pointer_kernel, dim3(1), host.data(), static_cast<int*>(data)).find("out of bounds"),
        std::string::npos);
}

TEST(Runtime, RefusesWhatCudaRefuses) {
    int value = 0;
    EXPECT_EQ(cudaFree(&value), cudaErrorInvalidValue);
    EXPECT_EQ(cudaMemcpy(&value, &value, 4, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
    const Array<int> data(std::vector<int>(4));
    EXPECT_EQ(cudaMemset(data, 0, 17), cudaErrorInvalidValue);
    cudaLaunchConfig_t config{};
    config.blockDim = dim3(1025);
    EXPECT_EQ(cudaLaunchKernelEx(&config, blocks_kernel, static_cast<int*>(data), false), cudaErrorInvalidConfiguration);
    config.blockDim = dim3(32);
    config.gridDim = dim3(1, 65536);
    EXPECT_EQ(cudaLaunchKernelEx(&config, blocks_kernel, static_cast<int*>(data), false), cudaErrorInvalidConfiguration);
    cudaStream_t stream;
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorStreamCaptureUnsupported);
    cudaGraph_t graph;
    ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
}

}  // namespace
}  // namespace luvc::cuda::test
