#include "on_device.h"

namespace luvc::test {
namespace {

using CudaMerge = GpuTest;

TEST_F(CudaMerge, EqualsTheHost) {
    for (luvc_dtype dtype : {LUVC_FLOAT32, LUVC_FLOAT16, LUVC_BFLOAT16}) {
        for (auto shape :
            {merge_shape(2, 6, 8, 5, 3, 2), merge_shape(1, 7, 9, 16, 4, 3), merge_shape(3, 4, 12, 8, 1, 0),
                merge_shape(1, 12, 4, 8, 0, 6), merge_shape(2, 5, 7, 6, 0, 0), merge_shape(1, 1, 64, 12, 32, 0),
                merge_shape(1, 24, 24, 320, 6, 6), merge_shape(1, 2, 600, 4, 300, 1), merge_shape(0, 4, 4, 4, 1, 1)}) {
            shape.dtype = dtype;
            SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " " << shape.height << " x " << shape.width
                                            << " less " << shape.removed_columns << ", " << shape.removed_rows);
            MergeProblem problem = random_merge(shape, static_cast<uint64_t>(shape.width));
            expect_equal_to_host(problem, shape.width == 9);
        }
    }
}

// In fp32: a mean of merged units may cancel, and what rounding left in half precision stays.
TEST_F(CudaMerge, PaddingEqualsTheHost) {
    for (auto shape : {merge_shape(2, 6, 8, 5, 3, 2), merge_shape(1, 7, 9, 16, 4, 3), merge_shape(3, 4, 12, 8, 1, 0),
             merge_shape(1, 12, 4, 8, 0, 6), merge_shape(1, 1, 64, 12, 32, 0), merge_shape(1, 24, 24, 8, 6, 6)}) {
        SCOPED_TRACE(testing::Message() << shape.height << " x " << shape.width);
        MergeProblem problem = random_merge(padded(shape), static_cast<uint64_t>(shape.width));
        expect_equal_to_host(problem, shape.width == 9);
    }
}

TEST_F(CudaMerge, EqualSimilarityTakesTheLeftNeighbourAndTheFirstUnits) {
    auto shape = merge_shape(1, 3, 600, 4, 100, 1);
    MergeProblem problem = random_merge(shape, 1);
    problem.values = pack(LUVC_FLOAT32, Floats(3 * 600 * 4, 1.0f));
    expect_equal_to_host(problem, false);
}

TEST_F(CudaMerge, ANanUnitMergesLast) {
    MergeProblem problem = random_merge(merge_shape(1, 4, 12, 4, 3, 1), 6);
    Floats values = unpack(LUVC_FLOAT32, problem.values);
    values[17] = std::numeric_limits<float>::quiet_NaN();
    problem.values = pack(LUVC_FLOAT32, values);
    expect_equal_to_host(problem, false);
}

}  // namespace
}  // namespace luvc::test
