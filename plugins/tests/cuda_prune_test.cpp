#include <algorithm>

#include "on_device.h"

namespace luvc::test {
namespace {

using CudaPrune = GpuTest;

TEST_F(CudaPrune, EqualsTheHost) {
    for (luvc_dtype dtype : {LUVC_FLOAT32, LUVC_FLOAT16, LUVC_BFLOAT16}) {
        for (luvc_score score : {LUVC_SCORE_LOW, LUVC_SCORE_RESIDUAL, LUVC_SCORE_RATIO}) {
            for (const auto& [groups, tokens, channels, cutoff] :
                {std::tuple<int64_t, int64_t, int64_t, int64_t>{1, 1, 1, 0}, {2, 63, 65, 7}, {1, 64, 64, 16},
                    {3, 100, 130, 12}, {1, 257, 96, 32}}) {
                for (int64_t keep : {int64_t{0}, (tokens + 1) / 2, tokens}) {
                    auto shape = prune_shape(groups, tokens, channels, cutoff, keep);
                    shape.dtype = dtype;
                    shape.weight_dtype = score == LUVC_SCORE_LOW ? LUVC_FLOAT32 : dtype;
                    shape.index_dtype = tokens % 2 == 0 ? LUVC_INT32 : LUVC_INT64;
                    shape.score = score;
                    SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " " << score_name(score) << " N " << tokens
                                                    << " D " << channels << " K " << keep);
                    PruneProblem problem = random_prune(shape, static_cast<uint64_t>(tokens));
                    expect_equal_to_host(problem, tokens == 100);
                }
            }
        }
    }
}

TEST_F(CudaPrune, ALongSpan) {
    PruneProblem problem = random_prune(prune_shape(1, 20000, 8, 4, 5000), 7);
    expect_equal_to_host(problem, false);
}

TEST_F(CudaPrune, ANanPoisonsItsGroupOnly) {
    PruneProblem problem = random_prune(prune_shape(2, 80, 16, 9, 31), 3);
    Floats values = unpack(LUVC_FLOAT32, problem.values);
    values[40 * 16 + 3] = std::numeric_limits<float>::quiet_NaN();
    problem.values = pack(LUVC_FLOAT32, values);
    expect_equal_to_host(problem, false);
}

TEST_F(CudaPrune, ScoresRepeatBitForBit) {
    PruneProblem problem = random_prune(prune_shape(2, 300, 200, 37, 75), 5);
    EXPECT_EQ(prune_on_device(problem, false).scores, prune_on_device(problem, false).scores);
}

}  // namespace
}  // namespace luvc::test
