// Seeded test data, the same on every platform.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace luvc::test {

class Random {
public:
    explicit Random(uint64_t seed) : state_(seed * 2654435761u + 1) {}

    uint32_t next() {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return static_cast<uint32_t>(state_ >> 33);
    }
    int64_t below(int64_t bound) { return next() % bound; }
    // Roughly normal: the sum of four uniform numbers, standard deviation about 1.15.
    float normal() {
        float sum = 0;
        for (int i = 0; i < 4; ++i) sum += static_cast<float>(next() & 0xffffffu) * 0x1p-23f - 1;
        return sum;
    }
    std::vector<float> normals(int64_t count) {
        std::vector<float> values(static_cast<size_t>(count));
        for (float& value : values) value = normal();
        return values;
    }

private:
    uint64_t state_;
};

}  // namespace luvc::test
