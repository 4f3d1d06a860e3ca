#include "emulate/tensor_core.h"

namespace luvc::emulate {

namespace {

double truncated(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    bits &= 0xffffe000u;
    std::memcpy(&value, &bits, sizeof(value));
    return double{value};
}

float towards_zero(double value) {
    uint64_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    bits &= ~uint64_t{0x1fffffff};  // where a float is normal
    std::memcpy(&value, &bits, sizeof(bits));
    return static_cast<float>(value);
}

}  // namespace

void multiply(const Products& lanes) {
    float left[16][8];
    float right[8][16];
    for (unsigned i = 0; i < kWarp; ++i) {
        std::memcpy(&left[0][0] + i * 4, lanes[i].left, 16);
        std::memcpy(&right[0][0] + i * 4, lanes[i].right, 16);
    }
    for (unsigned i = 0; i < kWarp; ++i) {
        const unsigned row = i / 2;
        const unsigned first = i % 2 * 8;
        double sums[8];
        for (unsigned j = 0; j < 8; ++j) sums[j] = lanes[i].sum[j];
        for (unsigned k = 0; k < 8; ++k) {
            const double factor = truncated(left[row][k]);
            for (unsigned j = 0; j < 8; ++j) sums[j] += factor * truncated(right[k][first + j]);
        }
        for (unsigned j = 0; j < 8; ++j) lanes[i].result[j] = towards_zero(sums[j]);
    }
}

}  // namespace luvc::emulate
