// The matrix product of a warp, in the arithmetic of the hardware's tensor cores.
#pragma once

#include <array>

#include "emulate/machine.h"

namespace luvc::emulate {

// One lane's part of result [16, 16] = left [16, 8] right [8, 16] + sum: 4 numbers of `left` and of `right`, 8 of the others.
struct Product {
    float* result;
    const float* left;
    const float* right;
    const float* sum;
};
using Products = std::array<Product, kWarp>;

// Factors lose the 13 bits that TF32 has not; sums are doubles, rounded to floats towards zero.
void multiply(const Products& lanes);

}  // namespace luvc::emulate
