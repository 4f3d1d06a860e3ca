// Reference of OrthogonalMerge: decide a line, then move its units; sums in double.
#include "host/orthogonal_merge.h"

#include <algorithm>
#include <cmath>

#include "common/arena.h"
#include "common/axis.h"
#include "common/orthogonal_merge.h"
#include "common/padding.h"
#include "host/number.h"
#include "host/select.h"

namespace luvc::host {
namespace {

using Shape = luvc_orthogonal_merge_shape;
using Tensors = luvc_orthogonal_merge_tensors;

template <typename T, typename F>
struct Grid {
    T* values;
    F* sizes;
    F* positions;
};

template <typename T>
using Source = Grid<const T, const float>;
template <typename T>
using Target = Grid<T, float>;

// Scratch of one line.
struct Line {
    float* cosines;   // [length], of neighbours place and place + 1
    float* best;      // [length / 2], of every odd unit
    int32_t* order;   // [length / 2]
    int32_t* target;  // [length], place each unit moves to
};

struct Workspace {
    Line line;
    int32_t* row_target;     // [batch, height, width]
    int32_t* column_target;  // [batch, height, W']
    std::byte* values;       // dtype [batch, height, W', channels]
    float* sizes;            // [batch, height, W']
    float* positions;        // [batch, height, W', position_planes]

    Workspace(Arena& arena, const Shape& shape) noexcept {
        const int64_t longest = std::max(shape.height, shape.width);
        const int64_t units = shape.batch * shape.height * shape.width;
        const int64_t between = shape.batch * shape.height * (shape.width - shape.removed_columns);
        line = {arena.take<float>(longest), arena.take<float>(longest / 2), arena.take<int32_t>(longest / 2),
            arena.take<int32_t>(longest)};
        row_target = arena.take<int32_t>(units);
        column_target = arena.take<int32_t>(between);
        const int64_t width = shape.dtype == LUVC_FLOAT32 ? 4 : 2;
        values = arena.take<std::byte>(between * shape.channels * width);
        sizes = arena.take<float>(between);
        positions = arena.take<float>(between * shape.position_planes);
    }
};

// Dot product of neighbours over their clamped norms.
template <typename T>
float cosine(const T* left, const T* right, int64_t channels) noexcept {
    double dot = 0;
    double left_square = 0;
    double right_square = 0;
    for (int64_t c = 0; c < channels; ++c) {
        const double a = to_float(left[c]);
        const double b = to_float(right[c]);
        dot += a * b;
        left_square += a * a;
        right_square += b * b;
    }
    const auto clamp = [](double square) { return std::max(std::sqrt(square), double{kMinNorm}); };
    return static_cast<float>(dot / (clamp(left_square) * clamp(right_square)));
}

// Fills line.target from line.cosines.
void decide(int64_t length, int64_t removed, const Line& line) noexcept {
    const int64_t odds = length / 2;
    const auto left_of = [&](int64_t odd) { return line.cosines[2 * odd]; };
    const auto prefers_right = [&](int64_t odd) {
        if (2 * odd + 2 >= length) return false;
        return rank_key(line.cosines[2 * odd + 1]) > rank_key(left_of(odd));
    };
    for (int64_t odd = 0; odd < odds; ++odd) {
        line.best[odd] = prefers_right(odd) ? line.cosines[2 * odd + 1] : left_of(odd);
    }
    select_top_k(line.best, odds, removed, line.order);
    int64_t merged = 0;
    for (int64_t odd = 0; odd < odds; ++odd) {
        const bool joins = merged < removed && line.order[merged] == odd;
        const int64_t even_place = 2 * odd - merged;
        line.target[2 * odd] = static_cast<int32_t>(even_place);
        // Surviving, or joining its right neighbour, it moves to the place after its left neighbour's.
        line.target[2 * odd + 1] = static_cast<int32_t>(joins && !prefers_right(odd) ? even_place : even_place + 1);
        merged += joins ? 1 : 0;
    }
    if (length % 2 != 0) line.target[length - 1] = static_cast<int32_t>(length - 1 - removed);
}

// Weighted mean of members [first, last) of a line for each of `width` numbers of a unit.
template <typename T>
void average(const Axis& from, int64_t image, int64_t line, int64_t first, int64_t last, const T* values,
    const float* sizes, double mass, int64_t width, T* merged) noexcept {
    for (int64_t c = 0; c < width; ++c) {
        double sum = 0;
        for (int64_t place = first; place < last; ++place) {
            const int64_t unit = from.unit(image, line, place);
            sum += double{to_float(values[unit * width + c])} * sizes[unit];
        }
        merged[c] = from_float<T>(static_cast<float>(sum / mass));
    }
}

// One axis pass. `target` receives the place in its line every unit moved to, laid out as `from`.
template <typename T>
void merge_axis(const Shape& shape, const Axis& from, const Axis& to, const Source<T>& in, const Target<T>& out,
    const Line& scratch, int32_t* target) noexcept {
    const int64_t removed = from.length - to.length;
    for (int64_t image = 0; image < from.batch; ++image) {
        for (int64_t line = 0; line < from.lines; ++line) {
            const auto values_of = [&](int64_t place) {
                return in.values + from.unit(image, line, place) * shape.channels;
            };
            for (int64_t place = 0; place + 1 < from.length; ++place) {
                scratch.cosines[place] = cosine(values_of(place), values_of(place + 1), shape.channels);
                if (shape.padded == 0) continue;
                const auto size_of = [&](int64_t unit) { return in.sizes[from.unit(image, line, unit)]; };
                scratch.cosines[place] = beside_padding(scratch.cosines[place], size_of(place), size_of(place + 1),
                    static_cast<int>(place), static_cast<int>(from.length - 1));
            }
            decide(from.length, removed, scratch);
            for (int64_t place = 0; place < from.length; ++place) {
                target[from.unit(image, line, place)] = scratch.target[place];
            }
            for (int64_t first = 0, last = 0; first < from.length; first = last) {
                double mass = 0;
                for (; last < from.length && scratch.target[last] == scratch.target[first]; ++last) {
                    mass += in.sizes[from.unit(image, line, last)];
                }
                const int64_t unit = to.unit(image, line, scratch.target[first]);
                out.sizes[unit] = static_cast<float>(mass);
                average(from, image, line, first, last, in.values, in.sizes, mass, shape.channels,
                    out.values + unit * shape.channels);
                average(from, image, line, first, last, in.positions, in.sizes, mass, shape.position_planes,
                    out.positions + unit * shape.position_planes);
            }
        }
    }
}

template <typename T>
luvc_status merge(const Shape& shape, const Tensors& tensors, const Workspace& work) noexcept {
    const int64_t width = shape.width - shape.removed_columns;
    const int64_t height = shape.height - shape.removed_rows;
    const Source<T> in{static_cast<const T*>(tensors.values), tensors.sizes, tensors.positions};
    const Target<T> between{reinterpret_cast<T*>(work.values), work.sizes, work.positions};
    const Target<T> out{static_cast<T*>(tensors.merged_values), tensors.merged_sizes, tensors.merged_positions};
    merge_axis<T>(shape, along_rows(shape.batch, shape.height, shape.width),
        along_rows(shape.batch, shape.height, width), in, between, work.line, work.row_target);
    merge_axis<T>(shape, along_columns(shape.batch, shape.height, width), along_columns(shape.batch, height, width),
        {between.values, between.sizes, between.positions}, out, work.line, work.column_target);
    if (tensors.merged_into == nullptr) return LUVC_OK;
    for (int64_t unit = 0; unit < shape.batch * shape.height * shape.width; ++unit) {
        const int64_t column = work.row_target[unit];
        const int64_t row = work.column_target[unit / shape.width * width + column];
        tensors.merged_into[unit] = static_cast<int32_t>(row * width + column);
    }
    return LUVC_OK;
}

}  // namespace

size_t orthogonal_merge_workspace(const Shape& shape) noexcept {
    Arena measure;
    Workspace(measure, shape);
    return measure.bytes();
}

}  // namespace luvc::host

extern "C" luvc_status luvc_orthogonal_merge_host(const luvc_orthogonal_merge_shape* shape,
    const luvc_orthogonal_merge_tensors* tensors, void* workspace, size_t workspace_bytes) noexcept {
    if (shape == nullptr || tensors == nullptr) return LUVC_NULL_POINTER;
    luvc_status status = luvc::check_shape(*shape);
    if (status == LUVC_OK) status = luvc::check_tensors(*shape, *tensors);
    if (status == LUVC_OK) {
        const size_t needed = luvc::host::orthogonal_merge_workspace(*shape);
        status = luvc::check_workspace(workspace, workspace_bytes, needed);
    }
    if (status != LUVC_OK || shape->batch == 0) return status;
    luvc::Arena arena(workspace);
    const luvc::host::Workspace work(arena, *shape);
    return luvc::host::with_float_type(
        shape->dtype, [&](auto zero) { return luvc::host::merge<decltype(zero)>(*shape, *tensors, work); });
}
