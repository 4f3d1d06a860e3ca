// A SpectrumPrune call with its data, run through the host half of the ABI.
#pragma once

#include <gtest/gtest.h>

#include <cstring>

#include "luvc/spectrum_prune.h"
#include "naive.h"
#include "random.h"
#include "typed.h"

namespace luvc::test {

// Payloads of every problem: position ids [3, G, N] float32 and rotary caches [2, G, N, 6] float32.
constexpr int64_t kPositionPlanes = 3;
constexpr int64_t kRotaryPlanes = 2;
constexpr int64_t kRotaryWidth = 6;

struct PruneProblem {
    luvc_spectrum_prune_shape shape;
    Bytes values;
    Bytes weight;
    Floats basis;
    Floats positions;
    Floats rotary;
    Indices places;  // empty where nothing is padding
};

struct PruneResult {
    Floats scores;
    Bytes indices;
    Bytes values;
    Floats positions;
    Floats rotary;

    explicit PruneResult(const luvc_spectrum_prune_shape& shape)
        : scores(static_cast<size_t>(shape.groups * shape.tokens)),
          indices(static_cast<size_t>(shape.groups * shape.keep * bytes_of(shape.index_dtype))),
          values(static_cast<size_t>(shape.groups * shape.keep * shape.channels * bytes_of(shape.dtype))),
          positions(static_cast<size_t>(kPositionPlanes * shape.groups * shape.keep)),
          rotary(static_cast<size_t>(kRotaryPlanes * shape.groups * shape.keep * kRotaryWidth)) {}

    Indices kept(luvc_dtype dtype) const {
        Indices result(indices.size() / static_cast<size_t>(bytes_of(dtype)));
        for (size_t i = 0; i < result.size(); ++i) {
            if (dtype == LUVC_INT64) {
                std::memcpy(&result[i], indices.data() + i * 8, 8);
            } else {
                int32_t index;
                std::memcpy(&index, indices.data() + i * 4, 4);
                result[i] = index;
            }
        }
        return result;
    }
};

inline const char* score_name(luvc_score score) {
    return score == LUVC_SCORE_LOW ? "low" : score == LUVC_SCORE_RESIDUAL ? "residual" : "ratio";
}

inline luvc_spectrum_prune_shape prune_shape(
    int64_t groups, int64_t tokens, int64_t channels, int64_t cutoff, int64_t keep) {
    return {groups, tokens, channels, tokens == 0 ? 0 : 2 * cutoff + 1, keep, LUVC_FLOAT32, LUVC_FLOAT32, LUVC_INT64,
        LUVC_SCORE_LOW, 1e-6f};
}

inline PruneProblem random_prune(const luvc_spectrum_prune_shape& shape, uint64_t seed) {
    Random random(seed);
    PruneProblem problem{shape, {}, {}, {}, {}, {}, {}};
    problem.values = pack(shape.dtype, random.normals(shape.groups * shape.tokens * shape.channels));
    Floats weight = random.normals(shape.channels);
    for (float& w : weight) w = 1 + 0.1f * w;
    problem.weight = pack(shape.weight_dtype, weight);
    if (shape.tokens > 0) problem.basis = lowpass_basis(shape.tokens, (shape.frequencies - 1) / 2);
    problem.positions = random.normals(kPositionPlanes * shape.groups * shape.tokens);
    problem.rotary = random.normals(kRotaryPlanes * shape.groups * shape.tokens * kRotaryWidth);
    return problem;
}

// `pointer_to` maps host storage to what the call shall see: itself, or its copy on a device.
template <typename PointerTo>
luvc_spectrum_prune_tensors prune_tensors(
    PruneProblem& problem, PruneResult& result, luvc_payload (&payloads)[2], PointerTo pointer_to) {
    constexpr int64_t kFloat = sizeof(float);
    payloads[0] = {pointer_to(problem.positions), pointer_to(result.positions), kPositionPlanes, kFloat};
    payloads[1] = {pointer_to(problem.rotary), pointer_to(result.rotary), kRotaryPlanes, kRotaryWidth * kFloat};
    return {pointer_to(problem.values), pointer_to(problem.weight),
        static_cast<const float*>(pointer_to(problem.basis)), pointer_to(result.values), pointer_to(result.indices),
        static_cast<float*>(pointer_to(result.scores)), payloads, 2,
        problem.places.empty() ? nullptr : static_cast<const int64_t*>(pointer_to(problem.places))};
}

inline PruneResult prune_on_host(PruneProblem& problem) {
    PruneResult result(problem.shape);
    size_t bytes = 0;
    EXPECT_EQ(luvc_spectrum_prune_workspace(&problem.shape, LUVC_HOST, &bytes), LUVC_OK);
    Bytes workspace(bytes);
    luvc_payload payloads[2];
    const auto tensors = prune_tensors(problem, result, payloads, [](auto& array) -> void* { return array.data(); });
    const luvc_status status = luvc_spectrum_prune_host(&problem.shape, &tensors, workspace.data(), bytes);
    EXPECT_EQ(status, LUVC_OK) << luvc_status_string(status);
    return result;
}

// The rows `kept` [groups, keep] of `all` [planes, groups, tokens, width].
template <typename T>
std::vector<T> rows_of(const std::vector<T>& all, const Indices& kept, int64_t planes, int64_t groups, int64_t tokens,
    int64_t keep, int64_t width) {
    std::vector<T> rows;
    for (int64_t plane = 0; plane < planes; ++plane) {
        for (int64_t group = 0; group < groups; ++group) {
            for (int64_t k = 0; k < keep; ++k) {
                const int64_t token = kept[static_cast<size_t>(group * keep + k)];
                const auto first = all.begin() + ((plane * groups + group) * tokens + token) * width;
                rows.insert(rows.end(), first, first + width);
            }
        }
    }
    return rows;
}

// Everything a prune returns must follow from its own scores.
inline void expect_consistent(const PruneProblem& problem, const PruneResult& result) {
    const auto& shape = problem.shape;
    const Indices kept = result.kept(shape.index_dtype);
    for (int64_t group = 0; group < shape.groups; ++group) {
        const Indices expected = naive_top_k(result.scores.data() + group * shape.tokens, shape.tokens, shape.keep);
        const auto first = kept.begin() + group * shape.keep;
        ASSERT_EQ(Indices(first, first + shape.keep), expected) << "group " << group;
    }
    const auto gathered = [&](const auto& all, int64_t planes, int64_t width) {
        return rows_of(all, kept, planes, shape.groups, shape.tokens, shape.keep, width);
    };
    EXPECT_EQ(result.values, gathered(problem.values, 1, shape.channels * bytes_of(shape.dtype)));
    EXPECT_EQ(result.positions, gathered(problem.positions, kPositionPlanes, 1));
    EXPECT_EQ(result.rotary, gathered(problem.rotary, kRotaryPlanes, kRotaryWidth));
}

}  // namespace luvc::test
