// Bounds of tensor extents, checked before anything is multiplied or indexed.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace luvc {

constexpr int64_t kMaxInt32 = INT32_MAX;
constexpr int64_t kMaxGridYZ = 65535;
constexpr int64_t kMaxTokens = int64_t{1} << 21;    // 64 tokens a block fit kMaxGridYZ blocks
constexpr int64_t kMaxChannels = int64_t{1} << 24;  // an index one tile past the end stays an int
constexpr int64_t kMaxPlanes = 4096;                // of all payloads together they fit kMaxGridYZ

constexpr bool within(int64_t value, int64_t low, int64_t high) noexcept {
    return low <= value && value <= high;
}

// True when the product of non-negative extents is at most `limit`.
constexpr bool product_within(std::initializer_list<int64_t> extents, int64_t limit) noexcept {
    int64_t product = 1;
    for (int64_t extent : extents) {
        if (extent == 0) return true;
    }
    for (int64_t extent : extents) {
        if (product > limit / extent) return false;
        product *= extent;
    }
    return true;
}

}  // namespace luvc
