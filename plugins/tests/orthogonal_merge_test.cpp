#include <gtest/gtest.h>

#include <limits>
#include <numeric>

#include "merge_problem.h"

namespace luvc::test {
namespace {

NaiveGrid naive_grid(const MergeProblem& problem, int64_t image) {
    const auto& shape = problem.shape;
    const int64_t units = shape.height * shape.width;
    const auto slice = [&](const Floats& all, int64_t width) {
        const auto first = all.begin() + image * units * width;
        return std::vector<double>(first, first + units * width);
    };
    NaiveGrid grid{shape.height, shape.width, shape.channels, shape.position_planes,
        slice(unpack(shape.dtype, problem.values), shape.channels), slice(problem.sizes, 1),
        slice(problem.positions, shape.position_planes), {}, shape.padded != 0};
    grid.merged_into.resize(static_cast<size_t>(units));
    std::iota(grid.merged_into.begin(), grid.merged_into.end(), 0);
    return grid;
}

void expect_naive(MergeProblem& problem) {
    const auto& shape = problem.shape;
    const MergeResult result = merge_on_host(problem);
    const Floats values = unpack(shape.dtype, result.values);
    for (int64_t image = 0; image < shape.batch; ++image) {
        const NaiveGrid expected = naive_merge(naive_grid(problem, image), shape.removed_columns, shape.removed_rows);
        const auto expect_near = [&](const Floats& got, const std::vector<double>& want) {
            const size_t first = static_cast<size_t>(image) * want.size();
            for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[first + i], want[i], 1e-5) << "element " << i;
        };
        expect_near(result.sizes, expected.sizes);
        expect_near(values, expected.values);
        expect_near(result.positions, expected.positions);
        const auto first = result.merged_into.begin() + image * shape.height * shape.width;
        EXPECT_EQ(Indices(first, first + shape.height * shape.width), expected.merged_into);
    }
}

TEST(OrthogonalMerge, EqualsTheOneHotForm) {
    for (const auto& shape :
        {merge_shape(2, 6, 8, 5, 3, 2), merge_shape(1, 7, 9, 16, 4, 3), merge_shape(1, 5, 4, 3, 2, 2),
            merge_shape(3, 4, 12, 8, 1, 0), merge_shape(1, 12, 4, 8, 0, 6), merge_shape(1, 1, 64, 12, 32, 0),
            merge_shape(1, 24, 24, 32, 6, 6), merge_shape(1, 2, 2, 4, 1, 1), merge_shape(1, 2, 600, 4, 300, 1)}) {
        SCOPED_TRACE(testing::Message() << shape.height << " x " << shape.width << " less " << shape.removed_columns
                                        << ", " << shape.removed_rows);
        MergeProblem problem = random_merge(shape, static_cast<uint64_t>(shape.width));
        expect_naive(problem);
        problem = random_merge(padded(shape), static_cast<uint64_t>(shape.width));
        expect_naive(problem);
    }
}

TEST(OrthogonalMerge, PaddingIsZeroOrOne) {
    for (int32_t value : {-1, 2}) {
        auto shape = merge_shape(1, 2, 2, 1, 1, 1);
        shape.padded = value;
        size_t bytes = 0;
        EXPECT_EQ(luvc_orthogonal_merge_workspace(&shape, LUVC_HOST, &bytes), LUVC_INVALID_SHAPE);
    }
}

TEST(OrthogonalMerge, RemovingNothingChangesNothing) {
    for (luvc_dtype dtype : {LUVC_FLOAT32, LUVC_FLOAT16, LUVC_BFLOAT16}) {
        auto shape = merge_shape(2, 5, 7, 6, 0, 0);
        shape.dtype = dtype;
        MergeProblem problem = random_merge(shape, 4);
        const MergeResult result = merge_on_host(problem);
        EXPECT_EQ(result.values, problem.values);
        EXPECT_EQ(result.sizes, problem.sizes);
        EXPECT_EQ(result.positions, problem.positions);
    }
}

TEST(OrthogonalMerge, MassIsConserved) {
    MergeProblem problem = random_merge(merge_shape(2, 10, 14, 6, 7, 5), 8);
    const MergeResult result = merge_on_host(problem);
    EXPECT_EQ(std::accumulate(result.sizes.begin(), result.sizes.end(), 0.0),
        std::accumulate(problem.sizes.begin(), problem.sizes.end(), 0.0));
}

TEST(OrthogonalMerge, EqualSimilarityTakesTheLeftNeighbourAndTheFirstUnits) {
    auto shape = merge_shape(1, 1, 7, 2, 2, 0);
    MergeProblem problem{shape, pack(LUVC_FLOAT32, Floats(14, 1.0f)), Floats(7, 1.0f), Floats(14, 0.0f)};
    const MergeResult result = merge_on_host(problem);
    EXPECT_EQ(result.merged_into, (std::vector<int32_t>{0, 0, 1, 1, 2, 3, 4}));
    EXPECT_EQ(result.sizes, (Floats{2, 2, 1, 1, 1}));
}

TEST(OrthogonalMerge, AnEvenUnitMayTakeBothNeighbours) {
    auto shape = merge_shape(1, 1, 5, 2, 2, 0);
    MergeProblem problem{shape, pack(LUVC_FLOAT32, {1, 0, 0, 1, 0, 2, 0, 1, 1, 0}), Floats(5, 1.0f),
        Floats{0, 0, 1, 0, 2, 0, 3, 0, 4, 0}};
    const MergeResult result = merge_on_host(problem);
    EXPECT_EQ(result.merged_into, (std::vector<int32_t>{0, 1, 1, 1, 2}));
    EXPECT_EQ(result.sizes, (Floats{1, 3, 1}));
    EXPECT_FLOAT_EQ(unpack(LUVC_FLOAT32, result.values)[3], 4.0f / 3.0f);
    EXPECT_EQ(result.positions, (Floats{0, 0, 2, 0, 4, 0}));
}

TEST(OrthogonalMerge, ANanUnitMergesLast) {
    auto shape = merge_shape(1, 1, 8, 2, 3, 0);
    MergeProblem problem{shape, pack(LUVC_FLOAT32, Floats(16, 1.0f)), Floats(8, 1.0f), Floats(16, 0.0f)};
    Floats values(16, 1.0f);
    values[2] = std::numeric_limits<float>::quiet_NaN();
    problem.values = pack(LUVC_FLOAT32, values);
    EXPECT_EQ(merge_on_host(problem).merged_into, (std::vector<int32_t>{0, 1, 2, 2, 3, 3, 4, 4}));
}

TEST(OrthogonalMerge, AZeroUnitIsDissimilarToAll) {
    auto shape = merge_shape(1, 1, 4, 2, 1, 0);
    MergeProblem problem{shape, pack(LUVC_FLOAT32, {1, 1, 0, 0, 1, 1, 1, 1}), Floats(4, 1.0f), Floats(8, 0.0f)};
    EXPECT_EQ(merge_on_host(problem).merged_into, (std::vector<int32_t>{0, 1, 2, 2}));
}

TEST(OrthogonalMerge, RefusesBadArguments) {
    const auto status_of = [](auto change) {
        auto shape = merge_shape(1, 4, 6, 4, 3, 2);
        change(shape);
        size_t bytes = 0;
        return luvc_orthogonal_merge_workspace(&shape, LUVC_HOST, &bytes);
    };
    EXPECT_EQ(status_of([](auto&) {}), LUVC_OK);
    EXPECT_EQ(status_of([](auto& s) { s.batch = -1; }), LUVC_INVALID_SHAPE);
    EXPECT_EQ(status_of([](auto& s) { s.height = 0; }), LUVC_INVALID_SHAPE);
    EXPECT_EQ(status_of([](auto& s) { s.width = 65536; }), LUVC_INVALID_SHAPE);
    EXPECT_EQ(status_of([](auto& s) { s.channels = 0; }), LUVC_INVALID_SHAPE);
    EXPECT_EQ(status_of([](auto& s) { s.position_planes = -1; }), LUVC_INVALID_SHAPE);
    EXPECT_EQ(status_of([](auto& s) { s.batch = s.height = s.width = 60000; }), LUVC_INVALID_SHAPE);
    EXPECT_EQ(status_of([](auto& s) { s.removed_columns = 4; }), LUVC_INVALID_REMOVED);
    EXPECT_EQ(status_of([](auto& s) { s.removed_rows = -1; }), LUVC_INVALID_REMOVED);
    EXPECT_EQ(status_of([](auto& s) { s.dtype = LUVC_INT32; }), LUVC_INVALID_DTYPE);

    MergeProblem problem = random_merge(merge_shape(1, 4, 6, 4, 3, 2), 1);
    MergeResult result(problem.shape);
    size_t bytes = 0;
    ASSERT_EQ(luvc_orthogonal_merge_workspace(&problem.shape, LUVC_HOST, &bytes), LUVC_OK);
    Bytes workspace(bytes);
    auto tensors = merge_tensors(problem, result, [](auto& array) -> void* { return array.data(); });
    EXPECT_EQ(
        luvc_orthogonal_merge_host(&problem.shape, &tensors, workspace.data(), bytes - 1), LUVC_WORKSPACE_TOO_SMALL);
    tensors.positions = nullptr;
    EXPECT_EQ(luvc_orthogonal_merge_host(&problem.shape, &tensors, workspace.data(), bytes), LUVC_NULL_POINTER);
    EXPECT_EQ(luvc_orthogonal_merge_host(&problem.shape, nullptr, workspace.data(), bytes), LUVC_NULL_POINTER);
}

}  // namespace
}  // namespace luvc::test
