// One axis pass of OrthogonalMerge in three launches: neighbour products, decision, weighted means.
#pragma once

#include "common/axis.h"
#include "cuda/launch.h"

namespace luvc::cuda {

struct ConstUnits {
    const void* values;
    const float* sizes;
    const float* positions;
};

struct Units {
    void* values;
    float* sizes;
    float* positions;

    operator ConstUnits() const { return {values, sizes, positions}; }
};

struct AxisScratch {
    float* square;    // [units of from], squared norms
    float* dot;       // [units of from], product with the next unit of the line
    int32_t* target;  // [units of from], place in its line every unit moves to
    int32_t* kept;    // [units of to], place in its line of the unit that stays
};

struct UnitShape {
    luvc_dtype dtype;
    int channels;
    int position_planes;
    bool padded;
};

// Enqueues the merge of `from.length - to.length` > 0 units of every line.
void merge_axis(Chain& chain, const UnitShape& shape, const Axis& from, const Axis& to, const ConstUnits& in,
    const Units& out, const AxisScratch& scratch) noexcept;

}  // namespace luvc::cuda
