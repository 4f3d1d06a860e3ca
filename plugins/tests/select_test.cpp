#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "luvc/abi.h"
#include "naive.h"
#include "random.h"

namespace {

using luvc::test::Floats;
using luvc::test::Indices;
using luvc::test::Random;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <typename Index>
std::vector<Index> select(const Floats& scores, int64_t groups, int64_t tokens, int64_t keep, luvc_dtype dtype) {
    size_t bytes = 0;
    EXPECT_EQ(luvc_select_top_k_host_workspace(tokens, &bytes), LUVC_OK);
    std::vector<int64_t> workspace(bytes / sizeof(int64_t));
    std::vector<Index> indices(static_cast<size_t>(groups * keep));
    EXPECT_EQ(
        luvc_select_top_k_host(scores.data(), groups, tokens, keep, dtype, indices.data(), workspace.data(), bytes),
        LUVC_OK);
    return indices;
}

Indices select(const Floats& scores, int64_t keep) {
    return select<int64_t>(scores, 1, static_cast<int64_t>(scores.size()), keep, LUVC_INT64);
}

TEST(SelectTopK, LowerIndexWinsATie) {
    EXPECT_EQ(select({1, 2, 1, 2, 1}, 3), (Indices{0, 1, 3}));
    EXPECT_EQ(select({5, 5, 5, 5}, 2), (Indices{0, 1}));
}

TEST(SelectTopK, NanRanksAsNegativeInfinity) {
    EXPECT_EQ(select({kNan, -1, -kNan, 3}, 2), (Indices{1, 3}));
    EXPECT_EQ(select({-kInfinity, kNan, -kInfinity}, 2), (Indices{0, 1}));
    EXPECT_EQ(select({kNan, -kInfinity, -kNan, -3e38f}, 2), (Indices{0, 3}));
    EXPECT_EQ(select({kNan, kNan, kNan}, 2), (Indices{0, 1}));
}

TEST(SelectTopK, NegativeZeroEqualsZero) {
    EXPECT_EQ(select({-0.0f, 0.0f, -0.0f}, 1), (Indices{0}));
    EXPECT_EQ(select({-1, -0.0f, 0.0f}, 1), (Indices{1}));
}

TEST(SelectTopK, KeepsNothingOrEverything) {
    EXPECT_EQ(select({3, 1, 2}, 0), Indices{});
    EXPECT_EQ(select({3, 1, 2}, 3), (Indices{0, 1, 2}));
    EXPECT_EQ(select<int64_t>({}, 0, 7, 3, LUVC_INT64), Indices{});
}

TEST(SelectTopK, GroupsAreIndependentAndInt32IsWritten) {
    EXPECT_EQ((select<int32_t>({1, 2, 3, 9, 8, 7}, 2, 3, 2, LUVC_INT32)), (std::vector<int32_t>{1, 2, 0, 1}));
}

TEST(SelectTopK, EqualsAFullStableSort) {
    Random random(1);
    for (int64_t tokens : {1, 2, 3, 255, 256, 257, 1024, 3840, 3841, 4097, 20000}) {
        // Few distinct values, so that ties decide, and some NaN and infinities.
        for (int64_t distinct : {2, 50, 1 << 24}) {
            Floats scores(static_cast<size_t>(tokens));
            for (float& score : scores) {
                const auto kind = random.below(50);
                score = kind == 0   ? kNan
                        : kind == 1 ? -kInfinity
                        : kind == 2 ? kInfinity
                                    : static_cast<float>(random.below(distinct)) - static_cast<float>(distinct) / 2;
            }
            for (int64_t keep : {int64_t{0}, int64_t{1}, tokens / 4, tokens / 2, tokens - 1, tokens}) {
                ASSERT_EQ(select(scores, keep), luvc::test::naive_top_k(scores.data(), tokens, keep))
                    << "tokens " << tokens << " keep " << keep;
            }
        }
    }
}

TEST(SelectTopK, EveryKeepOfASmallCase) {
    Random random(2);
    Floats scores(97);
    for (float& score : scores) score = static_cast<float>(random.below(9));
    for (int64_t keep = 0; keep <= 97; ++keep) {
        ASSERT_EQ(select(scores, keep), luvc::test::naive_top_k(scores.data(), 97, keep));
    }
}

TEST(SelectTopK, RefusesBadArguments) {
    const Floats scores{1, 2};
    alignas(16) char workspace[64];
    int32_t indices[2];
    const auto call = [&](const float* from, int64_t groups, int64_t tokens, int64_t keep, luvc_dtype dtype, void* to,
                          void* work, size_t bytes) {
        return luvc_select_top_k_host(from, groups, tokens, keep, dtype, to, work, bytes);
    };
    EXPECT_EQ(call(nullptr, 1, 2, 1, LUVC_INT32, indices, workspace, 64), LUVC_NULL_POINTER);
    EXPECT_EQ(call(scores.data(), 1, 2, 1, LUVC_INT32, nullptr, workspace, 64), LUVC_NULL_POINTER);
    EXPECT_EQ(call(scores.data(), -1, 2, 1, LUVC_INT32, indices, workspace, 64), LUVC_INVALID_SHAPE);
    EXPECT_EQ(call(scores.data(), 1, int64_t{1} << 40, 1, LUVC_INT32, indices, workspace, 64), LUVC_INVALID_SHAPE);
    EXPECT_EQ(call(scores.data(), 1, 2, 3, LUVC_INT32, indices, workspace, 64), LUVC_INVALID_KEEP);
    EXPECT_EQ(call(scores.data(), 1, 2, -1, LUVC_INT32, indices, workspace, 64), LUVC_INVALID_KEEP);
    EXPECT_EQ(call(scores.data(), 1, 2, 1, LUVC_FLOAT32, indices, workspace, 64), LUVC_INVALID_DTYPE);
    EXPECT_EQ(call(scores.data(), 1, 2, 1, LUVC_INT32, indices, workspace, 4), LUVC_WORKSPACE_TOO_SMALL);
    EXPECT_EQ(call(scores.data(), 1, 2, 1, LUVC_INT32, indices, workspace + 4, 60), LUVC_WORKSPACE_MISALIGNED);
    EXPECT_EQ(call(scores.data(), 1, 2, 1, LUVC_INT32, indices, nullptr, 64), LUVC_NULL_POINTER);
}

}  // namespace
