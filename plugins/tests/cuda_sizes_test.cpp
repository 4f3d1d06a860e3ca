// Every kernel from 1 token to 4,096, against the host.
#include <limits>

#include "on_device.h"

namespace luvc::test {
namespace {

constexpr luvc_dtype kDtypes[] = {LUVC_FLOAT32, LUVC_FLOAT16, LUVC_BFLOAT16};

using CudaSizes = GpuTest;

TEST_F(CudaSizes, Prunes) {
    for (int64_t tokens : {1, 2, 3, 31, 32, 33, 63, 65, 127, 255, 256, 257, 1000, 1024, 4095, 4096}) {
        size_t turn = static_cast<size_t>(tokens);
        for (int64_t keep : {int64_t{0}, int64_t{1}, tokens / 2, tokens - 1, tokens}) {
            const luvc_dtype dtype = kDtypes[turn++ % 3];
            auto shape = prune_shape(1 + tokens % 2, tokens, 24, std::min<int64_t>(5, (tokens - 1) / 2), keep);
            shape.dtype = shape.weight_dtype = dtype;
            SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " N " << tokens << " K " << keep);
            PruneProblem problem = random_prune(shape, static_cast<uint64_t>(tokens + keep));
            expect_equal_to_host(problem, false);
        }
    }
}

TEST_F(CudaSizes, ScoresOfALongSpanWithAllItsTiles) {
    auto shape = prune_shape(1, 4096, 64, 31, 1024);
    for (luvc_score score : {LUVC_SCORE_LOW, LUVC_SCORE_RESIDUAL, LUVC_SCORE_RATIO}) {
        shape.score = score;
        PruneProblem problem = random_prune(shape, 4);
        expect_equal_to_host(problem, false);
    }
}

TEST_F(CudaSizes, EqualScoresOfALongSpan) {
    PruneProblem problem = random_prune(prune_shape(1, 4096, 8, 0, 1000), 1);
    problem.values = pack(LUVC_FLOAT32, Floats(4096 * 8, 1.0f));
    problem.basis = Floats(4096, 1.0f / 64);
    expect_equal_to_host(problem, false);
}

TEST_F(CudaSizes, InfinitiesAndNans) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    for (luvc_dtype dtype : kDtypes) {
        for (float odd : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
            auto prune = prune_shape(2, 70, 24, 9, 20);
            prune.dtype = dtype;
            PruneProblem pruned = random_prune(prune, 1);
            Floats values = unpack(dtype, pruned.values);
            values[50] = odd;
            pruned.values = pack(dtype, values);
            expect_equal_to_host(pruned, false);

            auto merge = merge_shape(1, 6, 10, 8, 3, 2);
            merge.dtype = dtype;
            MergeProblem merged = random_merge(merge, 2);
            values = unpack(dtype, merged.values);
            values[50] = odd;
            merged.values = pack(dtype, values);
            expect_equal_to_host(merged, false);
        }
    }
}

TEST_F(CudaSizes, Merges) {
    for (auto shape : {merge_shape(1, 1, 1, 8, 0, 0), merge_shape(1, 1, 2, 8, 1, 0), merge_shape(1, 3, 1, 8, 0, 1),
             merge_shape(1, 31, 33, 20, 9, 7), merge_shape(1, 64, 64, 64, 16, 16), merge_shape(1, 63, 65, 24, 31, 30),
             merge_shape(1, 1, 4096, 8, 2048, 0), merge_shape(1, 4096, 1, 8, 0, 1000)}) {
        for (luvc_dtype dtype : kDtypes) {
            shape.dtype = dtype;
            SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " " << shape.height << " x " << shape.width);
            MergeProblem problem = random_merge(shape, 1);
            expect_equal_to_host(problem, false);
        }
    }
}

}  // namespace
}  // namespace luvc::test
