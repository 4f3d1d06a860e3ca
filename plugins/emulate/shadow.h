// What is known of every byte of device and shared memory: who wrote and read it last, and whether it was ever written.
//
// Two accesses of one byte by different threads, one of them a write, race unless a barrier of their block lies between
// them: blocks of one launch are never ordered, launches always. Two atomic additions do not race. Both checks are
// exact for the run at hand, whatever the order of threads in it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace luvc::emulate {

// The thread whose accesses follow, and how many barriers it has passed.
struct Actor {
    uint32_t launch = 0;  // serial number over all launches
    uint32_t block = 0;   // serial number over all blocks
    uint32_t thread = 0;
    uint32_t step = 0;
};

enum class Kind { kRead, kWrite, kAdd };

struct Counts {
    uint64_t launches = 0, threads = 0;
    uint64_t read = 0, written = 0;                    // bytes of device memory, every access
    uint64_t distinct_read = 0, distinct_written = 0;  // bytes of device memory, once a launch
    uint64_t shared_read = 0, shared_written = 0;
    uint64_t products = 0;  // multiply-adds of tensor cores
};

namespace shadow {

// Device memory: `bytes` at `base`, nothing in it written yet. remove() gives false for what was never added.
void add(void* base, size_t bytes);
bool remove(void* base);
// Whether [base, base + bytes) lies in one allocation, and marks it written by the host or a copy engine.
bool contains(const void* base, size_t bytes);
void fill(const void* base, size_t bytes);

// A variable in shared memory. It holds nothing at the start of a block: poison is put into it and every byte counts as
// unwritten.
void add_shared(const std::string& name, char* first, size_t bytes);
void clear_shared();

bool is_shared(const void* address);

// One access by `actor`. Empty when it is allowed, what is wrong otherwise.
std::string access(
    const Actor& actor, const void* address, size_t bytes, Kind kind, const void* caller, Counts& counts);

}  // namespace shadow

// "file:line", innermost inlined function first, from an address of code.
std::string source_of(const void* caller);
// The function that starts at `entry`.
std::string name_of(const void* entry);

}  // namespace luvc::emulate
