// Reference of SpectrumPrune: sums in double, one group at a time.
#include "host/spectrum_prune.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/arena.h"
#include "common/dtype.h"
#include "common/spectrum_prune.h"
#include "host/number.h"
#include "host/select.h"

namespace luvc::host {
namespace {

using Shape = luvc_spectrum_prune_shape;
using Tensors = luvc_spectrum_prune_tensors;

struct Workspace {
    float* scores;         // [tokens]
    int32_t* order;        // [tokens]
    float* weight;         // [channels]
    float* normed;         // [channels], one row of Z
    double* filtered;      // [channels], one row of Y
    double* coefficients;  // [frequencies, channels], F^T Z

    Workspace(Arena& arena, const Shape& shape) noexcept
        : scores(arena.take<float>(shape.tokens)),
          order(arena.take<int32_t>(shape.tokens)),
          weight(arena.take<float>(shape.channels)),
          normed(arena.take<float>(shape.channels)),
          filtered(arena.take<double>(shape.channels)),
          coefficients(arena.take<double>(shape.frequencies * shape.channels)) {}
};

template <typename T>
void normalise(const T* row, const float* weight, int64_t channels, float epsilon, float* normed) noexcept {
    double square = 0;
    for (int64_t c = 0; c < channels; ++c) {
        const double value = to_float(row[c]);
        square += value * value;
    }
    const auto scale = static_cast<float>(1 / std::sqrt(square / static_cast<double>(channels) + double{epsilon}));
    for (int64_t c = 0; c < channels; ++c) normed[c] = to_float(row[c]) * scale * weight[c];
}

float rank_by(luvc_score score, const float* normed, const double* filtered, int64_t channels) noexcept {
    double passed = 0;
    double removed = 0;
    double total = 0;
    for (int64_t c = 0; c < channels; ++c) {
        passed += filtered[c] * filtered[c];
        removed += (normed[c] - filtered[c]) * (normed[c] - filtered[c]);
        total += double{normed[c]} * normed[c];
    }
    switch (score) {
        case LUVC_SCORE_RESIDUAL: return static_cast<float>(std::sqrt(removed));
        case LUVC_SCORE_RATIO: return static_cast<float>(std::sqrt(passed) / std::sqrt(total));
        default: return static_cast<float>(std::sqrt(passed));
    }
}

template <typename T>
void score_group(const Shape& shape, const T* values, const float* basis, const Workspace& work) noexcept {
    const int64_t channels = shape.channels;
    const int64_t frequencies = shape.frequencies;
    std::fill_n(work.coefficients, frequencies * channels, 0.0);
    for (int64_t n = 0; n < shape.tokens; ++n) {
        normalise(values + n * channels, work.weight, channels, shape.epsilon, work.normed);
        for (int64_t m = 0; m < frequencies; ++m) {
            const double factor = basis[n * frequencies + m];
            double* row = work.coefficients + m * channels;
            for (int64_t c = 0; c < channels; ++c) row[c] += factor * work.normed[c];
        }
    }
    for (int64_t n = 0; n < shape.tokens; ++n) {
        normalise(values + n * channels, work.weight, channels, shape.epsilon, work.normed);
        std::fill_n(work.filtered, channels, 0.0);
        for (int64_t m = 0; m < frequencies; ++m) {
            const double factor = basis[n * frequencies + m];
            const double* row = work.coefficients + m * channels;
            for (int64_t c = 0; c < channels; ++c) work.filtered[c] += factor * row[c];
        }
        work.scores[n] = rank_by(shape.score, work.normed, work.filtered, channels);
    }
}

void gather(const Shape& shape, const luvc_payload& payload, int64_t group, const int32_t* kept) noexcept {
    const auto* source = static_cast<const std::byte*>(payload.source);
    auto* target = static_cast<std::byte*>(payload.target);
    const int64_t row = payload.row_bytes;
    for (int64_t plane = 0; plane < payload.planes; ++plane) {
        const int64_t block = plane * shape.groups + group;
        for (int64_t k = 0; k < shape.keep; ++k) {
            std::memcpy(target + (block * shape.keep + k) * row, source + (block * shape.tokens + kept[k]) * row,
                static_cast<size_t>(row));
        }
    }
}

template <typename T>
luvc_status prune(const Shape& shape, const Tensors& tensors, const Workspace& work) noexcept {
    const bool scored = needs_scores(shape, tensors);
    const auto* values = static_cast<const T*>(tensors.values);
    if (scored) {
        with_float_type(shape.weight_dtype, [&](auto zero) {
            const auto* weight = static_cast<const decltype(zero)*>(tensors.norm_weight);
            std::transform(weight, weight + shape.channels, work.weight, [](auto w) { return to_float(w); });
            return LUVC_OK;
        });
    } else {
        std::fill_n(work.scores, shape.tokens, 0.0f);
    }
    for (int64_t group = 0; group < shape.groups; ++group) {
        if (scored) score_group(shape, values + group * shape.tokens * shape.channels, tensors.basis, work);
        for (int64_t n = 0; scored && tensors.places != nullptr && n < shape.tokens; ++n) {
            if (tensors.places[group * shape.tokens + n] < 0) work.scores[n] = -std::numeric_limits<float>::infinity();
        }
        if (tensors.scores != nullptr) std::copy_n(work.scores, shape.tokens, tensors.scores + group * shape.tokens);
        if (shape.keep == 0) continue;
        select_top_k(work.scores, shape.tokens, shape.keep, work.order);
        if (shape.index_dtype == LUVC_INT32) {
            std::copy_n(work.order, shape.keep, static_cast<int32_t*>(tensors.indices) + group * shape.keep);
        } else {
            std::copy_n(work.order, shape.keep, static_cast<int64_t*>(tensors.indices) + group * shape.keep);
        }
        if (tensors.kept_values != nullptr) {
            const luvc_payload rows{tensors.values, tensors.kept_values, 1, shape.channels * bytes_of(shape.dtype)};
            gather(shape, rows, group, work.order);
        }
        for (int32_t i = 0; i < tensors.payload_count; ++i) gather(shape, tensors.payloads[i], group, work.order);
    }
    return LUVC_OK;
}

}  // namespace

size_t spectrum_prune_workspace(const Shape& shape) noexcept {
    Arena measure;
    Workspace(measure, shape);
    return measure.bytes();
}

}  // namespace luvc::host

extern "C" luvc_status luvc_spectrum_prune_host(const luvc_spectrum_prune_shape* shape,
    const luvc_spectrum_prune_tensors* tensors, void* workspace, size_t workspace_bytes) noexcept {
    if (shape == nullptr || tensors == nullptr) return LUVC_NULL_POINTER;
    luvc_status status = luvc::check_shape(*shape);
    if (status == LUVC_OK) status = luvc::check_tensors(*shape, *tensors);
    if (status == LUVC_OK) {
        const size_t needed = luvc::host::spectrum_prune_workspace(*shape);
        status = luvc::check_workspace(workspace, workspace_bytes, needed);
    }
    if (status != LUVC_OK || shape->groups == 0 || shape->tokens == 0) return status;
    luvc::Arena arena(workspace);
    const luvc::host::Workspace work(arena, *shape);
    return luvc::host::with_float_type(
        shape->dtype, [&](auto zero) { return luvc::host::prune<decltype(zero)>(*shape, *tensors, work); });
}
