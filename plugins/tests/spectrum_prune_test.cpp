#include <gtest/gtest.h>

#include <limits>
#include <tuple>

#include "prune_problem.h"

namespace luvc::test {
namespace {

constexpr luvc_score kScores[] = {LUVC_SCORE_LOW, LUVC_SCORE_RESIDUAL, LUVC_SCORE_RATIO};

Score naive_of(luvc_score score) {
    return score == LUVC_SCORE_LOW ? Score::low : score == LUVC_SCORE_RESIDUAL ? Score::residual : Score::ratio;
}

void expect_naive_scores(const PruneProblem& problem, const PruneResult& result) {
    const auto& shape = problem.shape;
    const Floats values = unpack(shape.dtype, problem.values);
    const Floats weight = unpack(shape.weight_dtype, problem.weight);
    for (int64_t group = 0; group < shape.groups; ++group) {
        const auto first = values.begin() + group * shape.tokens * shape.channels;
        const Floats expected =
            naive_scores(Floats(first, first + shape.tokens * shape.channels), weight, problem.basis, shape.tokens,
                shape.channels, shape.frequencies, double{shape.epsilon}, naive_of(shape.score));
        for (int64_t n = 0; n < shape.tokens; ++n) {
            const float got = result.scores[static_cast<size_t>(group * shape.tokens + n)];
            const float want = expected[static_cast<size_t>(n)];
            // A residual below the rounding of Z, when everything passes, is noise on both sides.
            ASSERT_NEAR(got, want, 1e-5f * want + 1e-5f) << "group " << group << " token " << n;
        }
    }
}

class PruneShapes : public testing::TestWithParam<std::tuple<luvc_dtype, luvc_score>> {};

TEST_P(PruneShapes, ScoresEqualTheFormulaAndTheRestFollows) {
    const auto [dtype, score] = GetParam();
    for (const auto& [groups, tokens, channels, cutoff] : {std::tuple<int64_t, int64_t, int64_t, int64_t>{1, 1, 1, 0},
             {1, 2, 5, 0}, {3, 17, 33, 2}, {2, 64, 16, 8}, {2, 100, 48, 12}, {1, 301, 24, 150}}) {
        for (int64_t keep : {int64_t{0}, int64_t{1}, tokens / 2, tokens}) {
            auto shape = prune_shape(groups, tokens, channels, cutoff, std::min(keep, tokens));
            shape.dtype = dtype;
            shape.weight_dtype = dtype;
            shape.score = score;
            shape.index_dtype = keep % 2 == 0 ? LUVC_INT64 : LUVC_INT32;
            PruneProblem problem = random_prune(shape, static_cast<uint64_t>(tokens));
            const PruneResult result = prune_on_host(problem);
            SCOPED_TRACE(testing::Message() << tokens << " tokens, keep " << shape.keep);
            expect_naive_scores(problem, result);
            expect_consistent(problem, result);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(All, PruneShapes,
    testing::Combine(testing::Values(LUVC_FLOAT32, LUVC_FLOAT16, LUVC_BFLOAT16), testing::ValuesIn(kScores)),
    [](const auto& info) {
        return std::string(dtype_name(std::get<0>(info.param))) + "_" + score_name(std::get<1>(info.param));
    });

TEST(SpectrumPrune, LongSpans) {
    for (int64_t tokens : {3841, 20000}) {
        PruneProblem problem = random_prune(prune_shape(1, tokens, 8, 4, tokens / 2), 5);
        const PruneResult result = prune_on_host(problem);
        expect_naive_scores(problem, result);
        expect_consistent(problem, result);
    }
}

TEST(SpectrumPrune, EqualScoresKeepTheFirstTokens) {
    PruneProblem problem = random_prune(prune_shape(2, 40, 8, 0, 7), 1);
    problem.values = pack(LUVC_FLOAT32, Floats(2 * 40 * 8, 1.5f));
    const Indices kept = prune_on_host(problem).kept(LUVC_INT64);
    EXPECT_EQ(kept, (Indices{0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6}));
}

TEST(SpectrumPrune, ANanPoisonsItsGroupOnly) {
    PruneProblem problem = random_prune(prune_shape(2, 16, 4, 3, 5), 3);
    Floats values = unpack(LUVC_FLOAT32, problem.values);
    values[9 * 4 + 1] = std::numeric_limits<float>::quiet_NaN();
    problem.values = pack(LUVC_FLOAT32, values);
    const PruneResult result = prune_on_host(problem);
    for (size_t n = 0; n < 16; ++n) {
        EXPECT_TRUE(std::isnan(result.scores[n]));
        EXPECT_FALSE(std::isnan(result.scores[16 + n]));
    }
    const Indices kept = result.kept(LUVC_INT64);
    EXPECT_EQ(Indices(kept.begin(), kept.begin() + 5), (Indices{0, 1, 2, 3, 4}));
    const Indices second = naive_top_k(result.scores.data() + 16, 16, 5);
    EXPECT_EQ(Indices(kept.begin() + 5, kept.end()), second);
}

TEST(SpectrumPrune, AZeroTokenHasAnInfiniteRatioAndIsKept) {
    auto shape = prune_shape(1, 12, 4, 2, 1);
    shape.score = LUVC_SCORE_RATIO;
    PruneProblem problem = random_prune(shape, 3);
    Floats values = unpack(LUVC_FLOAT32, problem.values);
    std::fill_n(values.begin() + 5 * 4, 4, 0.0f);
    problem.values = pack(LUVC_FLOAT32, values);
    EXPECT_EQ(prune_on_host(problem).kept(LUVC_INT64), (Indices{5}));
}

TEST(SpectrumPrune, NothingToDoIsFine) {
    for (const auto& shape : {prune_shape(0, 16, 4, 1, 8), prune_shape(2, 0, 4, 0, 0), prune_shape(2, 16, 4, 1, 0)}) {
        PruneProblem problem = random_prune(shape, 1);
        prune_on_host(problem);
    }
}

TEST(SpectrumPrune, KeepingEverythingNeedsNoBasis) {
    PruneProblem problem = random_prune(prune_shape(1, 9, 4, 1, 9), 1);
    PruneResult result(problem.shape);
    size_t bytes = 0;
    ASSERT_EQ(luvc_spectrum_prune_workspace(&problem.shape, LUVC_HOST, &bytes), LUVC_OK);
    Bytes workspace(bytes);
    luvc_spectrum_prune_tensors tensors{};
    tensors.values = problem.values.data();
    tensors.kept_values = result.values.data();
    tensors.indices = result.indices.data();
    ASSERT_EQ(luvc_spectrum_prune_host(&problem.shape, &tensors, workspace.data(), bytes), LUVC_OK);
    EXPECT_EQ(result.values, problem.values);
}

TEST(SpectrumPrune, RefusesBadShapes) {
    const auto status_of = [](auto change) {
        auto shape = prune_shape(1, 8, 4, 1, 2);
        change(shape);
        size_t bytes = 0;
        return luvc_spectrum_prune_workspace(&shape, LUVC_HOST, &bytes);
    };
    EXPECT_EQ(status_of([](auto&) {}), LUVC_OK);
    EXPECT_EQ(status_of([](auto& s) { s.groups = -1; }), LUVC_INVALID_SHAPE);
    EXPECT_EQ(status_of([](auto& s) { s.groups = 65536; }), LUVC_INVALID_SHAPE);
    EXPECT_EQ(status_of([](auto& s) { s.tokens = -1; }), LUVC_INVALID_SHAPE);
    EXPECT_EQ(status_of([](auto& s) { s.channels = 0; }), LUVC_INVALID_SHAPE);
    EXPECT_EQ(status_of([](auto& s) { s.frequencies = 0; }), LUVC_INVALID_SHAPE);
    EXPECT_EQ(status_of([](auto& s) { s.frequencies = 9; }), LUVC_INVALID_SHAPE);
    EXPECT_EQ(status_of([](auto& s) { s.tokens = 1 << 21, s.channels = 1 << 24; }), LUVC_INVALID_SHAPE);
    EXPECT_EQ(status_of([](auto& s) { s.groups = 65535, s.tokens = 1 << 21; }), LUVC_INVALID_SHAPE);
    EXPECT_EQ(status_of([](auto& s) { s.keep = 9; }), LUVC_INVALID_KEEP);
    EXPECT_EQ(status_of([](auto& s) { s.keep = -1; }), LUVC_INVALID_KEEP);
    EXPECT_EQ(status_of([](auto& s) { s.dtype = LUVC_INT32; }), LUVC_INVALID_DTYPE);
    EXPECT_EQ(status_of([](auto& s) { s.weight_dtype = LUVC_INT64; }), LUVC_INVALID_DTYPE);
    EXPECT_EQ(status_of([](auto& s) { s.index_dtype = LUVC_FLOAT32; }), LUVC_INVALID_DTYPE);
    EXPECT_EQ(status_of([](auto& s) { s.score = 3; }), LUVC_INVALID_SCORE);
    EXPECT_EQ(status_of([](auto& s) { s.epsilon = -1e-6f; }), LUVC_INVALID_EPSILON);
    EXPECT_EQ(status_of([](auto& s) { s.epsilon = std::numeric_limits<float>::infinity(); }), LUVC_INVALID_EPSILON);
    const auto shape = prune_shape(1, 8, 4, 1, 2);
    size_t bytes = 0;
    EXPECT_EQ(luvc_spectrum_prune_workspace(&shape, 2, &bytes), LUVC_INVALID_DEVICE);
    EXPECT_EQ(luvc_spectrum_prune_workspace(nullptr, LUVC_HOST, &bytes), LUVC_NULL_POINTER);
    EXPECT_EQ(luvc_spectrum_prune_workspace(&shape, LUVC_HOST, nullptr), LUVC_NULL_POINTER);
}

TEST(SpectrumPrune, RefusesBadTensors) {
    PruneProblem problem = random_prune(prune_shape(1, 8, 4, 1, 2), 1);
    PruneResult result(problem.shape);
    size_t bytes = 0;
    ASSERT_EQ(luvc_spectrum_prune_workspace(&problem.shape, LUVC_HOST, &bytes), LUVC_OK);
    Bytes workspace(bytes);
    const auto status_of = [&](auto change, size_t given) {
        luvc_payload payloads[2];
        auto tensors = prune_tensors(problem, result, payloads, [](auto& array) -> void* { return array.data(); });
        change(tensors, payloads);
        return luvc_spectrum_prune_host(&problem.shape, &tensors, workspace.data(), given);
    };
    EXPECT_EQ(status_of([](auto&, auto&) {}, bytes), LUVC_OK);
    EXPECT_EQ(status_of([](auto&, auto&) {}, bytes - 1), LUVC_WORKSPACE_TOO_SMALL);
    EXPECT_EQ(status_of([](auto& t, auto&) { t.values = nullptr; }, bytes), LUVC_NULL_POINTER);
    EXPECT_EQ(status_of([](auto& t, auto&) { t.norm_weight = nullptr; }, bytes), LUVC_NULL_POINTER);
    EXPECT_EQ(status_of([](auto& t, auto&) { t.basis = nullptr; }, bytes), LUVC_NULL_POINTER);
    EXPECT_EQ(status_of([](auto& t, auto&) { t.indices = nullptr; }, bytes), LUVC_NULL_POINTER);
    EXPECT_EQ(status_of([](auto& t, auto&) { t.payloads = nullptr; }, bytes), LUVC_NULL_POINTER);
    EXPECT_EQ(status_of([](auto&, auto& p) { p[1].target = nullptr; }, bytes), LUVC_NULL_POINTER);
    EXPECT_EQ(status_of([](auto& t, auto&) { t.payload_count = 8; }, bytes), LUVC_INVALID_PAYLOAD);
    EXPECT_EQ(status_of([](auto& t, auto&) { t.payload_count = -1; }, bytes), LUVC_INVALID_PAYLOAD);
    EXPECT_EQ(status_of([](auto&, auto& p) { p[0].planes = 0; }, bytes), LUVC_INVALID_PAYLOAD);
    EXPECT_EQ(status_of([](auto&, auto& p) { p[0].row_bytes = int64_t{1} << 30; }, bytes), LUVC_INVALID_PAYLOAD);
}

}  // namespace
}  // namespace luvc::test
