// Times the kernels on this GPU and prints one JSON object a line: median, bytes that must move, and how that compares
// with the measured speed of a copy. Exit code 3: no GPU.
#include <cstdio>

#include "bench/timing.h"
#include "host/number.h"
#include "luvc/orthogonal_merge.h"
#include "luvc/spectrum_prune.h"
#include "tests/random.h"

namespace luvc::bench {
namespace {

constexpr size_t kFlushBytes = size_t{256} << 20;  // more than the L2 cache of any target
constexpr double kRho = 0.25;                      // the plan's default share of the spectrum
constexpr int64_t kBf16 = 2;
constexpr int64_t kFloat = 4;

// Random numbers, repeated from a block so that filling a large array takes no time.
void fill(const DeviceBuffer& buffer, bool bf16) {
    constexpr size_t kBlock = size_t{1} << 20;
    test::Random random(1);
    std::vector<float> numbers = random.normals(static_cast<int64_t>(kBlock));
    std::vector<uint16_t> narrow;
    for (float number : numbers) narrow.push_back(host::from_float<host::BFloat16>(number).bits);
    const void* source = bf16 ? static_cast<const void*>(narrow.data()) : numbers.data();
    const size_t block = kBlock * (bf16 ? sizeof(uint16_t) : sizeof(float));
    for (size_t at = 0; at < buffer.bytes(); at += block) {
        const size_t count = std::min(block, buffer.bytes() - at);
        check(cudaMemcpy(static_cast<char*>(buffer.data()) + at, source, count, cudaMemcpyHostToDevice));
    }
}

// Bytes a second, reads and writes counted.
double copy_speed(const DeviceBuffer& flush) {
    constexpr size_t kBytes = size_t{512} << 20;
    const DeviceBuffer source(kBytes);
    const DeviceBuffer target(kBytes);
    const double ms = median_ms(
        [&](cudaStream_t stream) {
            check(cudaMemcpyAsync(target.data(), source.data(), kBytes, cudaMemcpyDeviceToDevice, stream));
        },
        flush);
    return 2.0 * static_cast<double>(kBytes) / (ms * 1e-3);
}

void report(const char* kernel, const std::string& shape, double ms, double bytes, double flops, double speed) {
    const double seconds = ms * 1e-3;
    const double floor_ms = bytes / speed * 1e3;
    std::printf(
        "{\"kernel\": \"%s\", %s, \"median_us\": %.2f, \"bytes\": %.0f, \"bytes_per_s\": %.4g, "
        "\"copy_bytes_per_s\": %.4g, \"bandwidth_floor_us\": %.2f, \"times_floor\": %.2f, \"flop_per_s\": %.4g}\n",
        kernel, shape.c_str(), ms * 1e3, bytes, bytes / seconds, speed, floor_ms * 1e3, ms / floor_ms, flops / seconds);
    std::fflush(stdout);
}

std::string field(const char* name, int64_t value) {
    return "\"" + std::string(name) + "\": " + std::to_string(value);
}

void bench_select(int64_t tokens, const DeviceBuffer& flush, double speed) {
    const int64_t keep = tokens / 2;
    const DeviceBuffer scores(static_cast<size_t>(tokens * kFloat));
    const DeviceBuffer indices(static_cast<size_t>(keep * kFloat));
    fill(scores, false);
    const double ms = median_ms(
        [&](cudaStream_t stream) {
            check_status(luvc_select_top_k_cuda(scores.floats(), 1, tokens, keep, LUVC_INT32, indices.data(), stream));
        },
        flush);
    report("select_top_k", field("N", tokens) + ", " + field("K", keep), ms,
        static_cast<double>((tokens + keep) * kFloat), 0, speed);
}

void bench_prune(int64_t tokens, int64_t channels, const DeviceBuffer& flush, double speed) {
    const auto cutoff = static_cast<int64_t>(kRho * static_cast<double>(tokens) / 2);
    const luvc_spectrum_prune_shape shape{1, tokens, channels, 2 * cutoff + 1, tokens / 2, LUVC_BFLOAT16, LUVC_BFLOAT16,
        LUVC_INT32, LUVC_SCORE_LOW, 1e-6f};
    size_t workspace_bytes = 0;
    check_status(luvc_spectrum_prune_workspace(&shape, LUVC_CUDA, &workspace_bytes));
    const DeviceBuffer values(static_cast<size_t>(tokens * channels * kBf16));
    const DeviceBuffer weight(static_cast<size_t>(channels * kBf16));
    const DeviceBuffer basis(static_cast<size_t>(tokens * shape.frequencies * kFloat));
    const DeviceBuffer kept(static_cast<size_t>(shape.keep * channels * kBf16));
    const DeviceBuffer indices(static_cast<size_t>(shape.keep * kFloat));
    const DeviceBuffer workspace(workspace_bytes);
    fill(values, true);
    fill(weight, true);
    fill(basis, false);
    const luvc_spectrum_prune_tensors tensors{
        values.data(), weight.data(), basis.floats(), kept.data(), indices.data(), nullptr, nullptr, 0, nullptr};
    const double ms = median_ms(
        [&](cudaStream_t stream) {
            check_status(luvc_spectrum_prune_cuda(&shape, &tensors, workspace.data(), workspace_bytes, stream));
        },
        flush);
    const auto bytes = static_cast<double>(values.bytes() + basis.bytes() + 2 * kept.bytes());
    const double flops = 4.0 * static_cast<double>(tokens * shape.frequencies) * static_cast<double>(channels);
    report("spectrum_prune",
        field("N", tokens) + ", " + field("D", channels) + ", " + field("K", shape.keep) + ", "
            + field("M", shape.frequencies),
        ms, bytes, flops, speed);
}

void bench_merge(int64_t side, int64_t channels, const DeviceBuffer& flush, double speed) {
    const luvc_orthogonal_merge_shape shape{1, side, side, channels, 2, side / 8, side / 8, LUVC_BFLOAT16, 0};
    size_t workspace_bytes = 0;
    check_status(luvc_orthogonal_merge_workspace(&shape, LUVC_CUDA, &workspace_bytes));
    const int64_t units = side * side;
    const int64_t merged = (side - side / 8) * (side - side / 8);
    const DeviceBuffer values(static_cast<size_t>(units * channels * kBf16));
    const DeviceBuffer sizes(static_cast<size_t>(units * kFloat));
    const DeviceBuffer positions(static_cast<size_t>(2 * units * kFloat));
    const DeviceBuffer merged_values(static_cast<size_t>(merged * channels * kBf16));
    const DeviceBuffer merged_sizes(static_cast<size_t>(merged * kFloat));
    const DeviceBuffer merged_positions(static_cast<size_t>(2 * merged * kFloat));
    const DeviceBuffer workspace(workspace_bytes);
    fill(values, true);
    fill(sizes, false);
    fill(positions, false);
    const luvc_orthogonal_merge_tensors tensors{values.data(), sizes.floats(), positions.floats(), merged_values.data(),
        merged_sizes.floats(), merged_positions.floats(), nullptr};
    const double ms = median_ms(
        [&](cudaStream_t stream) {
            check_status(luvc_orthogonal_merge_cuda(&shape, &tensors, workspace.data(), workspace_bytes, stream));
        },
        flush);
    // The second axis needs the first one's result: written once and read once in between.
    const int64_t between = side * (side - side / 8) * channels * kBf16;
    const auto bytes = static_cast<double>(values.bytes() + merged_values.bytes()) + 2.0 * static_cast<double>(between);
    report("orthogonal_merge", field("H", side) + ", " + field("W", side) + ", " + field("C", channels), ms, bytes, 0,
        speed);
}

void bench_all() {
    const DeviceBuffer flush(kFlushBytes);
    const double speed = copy_speed(flush);
    for (int64_t tokens : {1024, 4096, 16384}) bench_select(tokens, flush, speed);
    for (int64_t tokens : {1024, 4096, 16384}) {
        for (int64_t channels : {2048, 3584, 5120}) bench_prune(tokens, channels, flush, speed);
    }
    for (int64_t side : {16, 32, 64}) bench_merge(side, 5120, flush, speed);
}

}  // namespace
}  // namespace luvc::bench

int main() {
    constexpr int kNoGpu = 3;
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0) {
        std::fprintf(stderr, "luvc_bench: no GPU: %s\n", cudaGetErrorString(error));
        return kNoGpu;
    }
    try {
        cudaDeviceProp properties{};
        luvc::bench::check(cudaGetDeviceProperties(&properties, 0));
        std::fprintf(
            stderr, "luvc_bench: %s, compute capability %d.%d\n", properties.name, properties.major, properties.minor);
        luvc::bench::bench_all();
    } catch (const std::exception& failure) {
        std::fprintf(stderr, "luvc_bench: %s\n", failure.what());
        return 1;
    }
    return 0;
}
