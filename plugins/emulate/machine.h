// CUDA's model of execution on one CPU thread: a fiber for every CUDA thread of a block, one block after the other.
//
// Fibers switch only where CUDA threads wait for each other: barriers, shuffles and matrix products. Between two such
// places every order of threads is allowed by CUDA, so the order is drawn from a seed. With LUVC_EMULATE_CHECK the
// compiler reports each memory access of the kernels (shadow.h), which are then checked and counted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace luvc::emulate {

constexpr int kWarp = 32;

struct Extent {
    unsigned x, y, z;
};

// threadIdx, blockIdx, blockDim and gridDim of the running thread.
struct Places {
    Extent thread, block, block_extent, grid_extent;
};
extern Places places;

// Where in the sources a thread waits.
struct Site {
    const char* file;
    int line;

    std::string text() const { return std::string(file) + ":" + std::to_string(line); }
};

// A kernel with its arguments.
class Kernel {
public:
    virtual ~Kernel() = default;
    virtual void run() const = 0;
    virtual const void* entry() const = 0;
    virtual size_t bytes() const = 0;
};

// What threads call. Each waits until the threads it needs are there.
void barrier(Site site);
// `bits` of lane `from` of the warp; `mask` names the lanes that take part.
unsigned long long shuffle(const char* what, unsigned mask, unsigned long long bits, int from, Site site);
// All lanes of a warp must name the same 32-byte aligned matrix, with rows of a multiple of 16 bytes.
void warp_address(const char* what, const float* address, unsigned stride, Site site);
// result [16, 16] = left [16, 8] right [8, 16] + sum, spread over the lanes as include/mma.h says.
void warp_product(float* result, const float* left, const float* right, const float* sum, Site site);
int shared_add(int* target, int value, const void* caller);

// One launch. False after a fault, whose text fault() holds.
bool run(const Kernel& kernel, Extent grid, Extent block);

// Ends the running block with a fault.
[[noreturn]] void stop(const std::string& text);

}  // namespace luvc::emulate

extern "C" {
// Draws the order of blocks and threads from `seed`; 0 is index order.
__attribute__((visibility("default"))) void luvc_emulate_order(uint64_t seed);
// The first fault since it was last asked for, with file and line; empty where there was none. Valid until the next call.
__attribute__((visibility("default"))) const char* luvc_emulate_fault();
// One line a kernel: name, launches, threads, bytes read and written (requested, then distinct), tensor-core
// multiply-adds, bytes of shared memory read and written. Bytes are 0 without LUVC_EMULATE_CHECK. Clears the counts.
__attribute__((visibility("default"))) const char* luvc_emulate_counts();
}
