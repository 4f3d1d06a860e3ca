// An OrthogonalMerge call with its data, run through the host half of the ABI.
#pragma once

#include <gtest/gtest.h>

#include "luvc/orthogonal_merge.h"
#include "naive.h"
#include "random.h"
#include "typed.h"

namespace luvc::test {

struct MergeProblem {
    luvc_orthogonal_merge_shape shape;
    Bytes values;
    Floats sizes;
    Floats positions;
};

struct MergeResult {
    Bytes values;
    Floats sizes;
    Floats positions;
    std::vector<int32_t> merged_into;

    explicit MergeResult(const luvc_orthogonal_merge_shape& shape)
        : sizes(static_cast<size_t>(
            shape.batch * (shape.height - shape.removed_rows) * (shape.width - shape.removed_columns))),
          merged_into(static_cast<size_t>(shape.batch * shape.height * shape.width)) {
        values.resize(sizes.size() * static_cast<size_t>(shape.channels * bytes_of(shape.dtype)));
        positions.resize(sizes.size() * static_cast<size_t>(shape.position_planes));
    }
};

inline luvc_orthogonal_merge_shape merge_shape(
    int64_t batch, int64_t height, int64_t width, int64_t channels, int64_t removed_columns, int64_t removed_rows) {
    return {batch, height, width, channels, 2, removed_columns, removed_rows, LUVC_FLOAT32, 0};
}

// The same with a third of the units padding.
inline luvc_orthogonal_merge_shape padded(luvc_orthogonal_merge_shape shape) {
    shape.padded = 1;
    return shape;
}

inline MergeProblem random_merge(const luvc_orthogonal_merge_shape& shape, uint64_t seed) {
    Random random(seed);
    const int64_t units = shape.batch * shape.height * shape.width;
    MergeProblem problem{shape, pack(shape.dtype, random.normals(units * shape.channels)),
        Floats(static_cast<size_t>(units)), random.normals(units * shape.position_planes)};
    for (float& size : problem.sizes) size = static_cast<float>(1 + random.below(4));
    if (shape.padded != 0) {
        for (float& size : problem.sizes) size = random.below(3) == 0 ? 0x1p-24f : size;
    }
    return problem;
}

template <typename PointerTo>
luvc_orthogonal_merge_tensors merge_tensors(MergeProblem& problem, MergeResult& result, PointerTo pointer_to) {
    const auto floats = [&](Floats& array) { return static_cast<float*>(pointer_to(array)); };
    return {pointer_to(problem.values), floats(problem.sizes), floats(problem.positions), pointer_to(result.values),
        floats(result.sizes), floats(result.positions), static_cast<int32_t*>(pointer_to(result.merged_into))};
}

inline MergeResult merge_on_host(MergeProblem& problem) {
    MergeResult result(problem.shape);
    size_t bytes = 0;
    EXPECT_EQ(luvc_orthogonal_merge_workspace(&problem.shape, LUVC_HOST, &bytes), LUVC_OK);
    Bytes workspace(bytes);
    const auto tensors = merge_tensors(problem, result, [](auto& array) -> void* { return array.data(); });
    const luvc_status status = luvc_orthogonal_merge_host(&problem.shape, &tensors, workspace.data(), bytes);
    EXPECT_EQ(status, LUVC_OK) << luvc_status_string(status);
    return result;
}

}  // namespace luvc::test
