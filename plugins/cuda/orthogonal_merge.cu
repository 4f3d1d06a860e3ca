#include "common/orthogonal_merge.h"

#include "common/arena.h"
#include "common/dtype.h"
#include "cuda/merge_axis.cuh"
#include "cuda/workspace.h"

namespace luvc::cuda {
namespace {

using Shape = luvc_orthogonal_merge_shape;
using Tensors = luvc_orthogonal_merge_tensors;

constexpr int kThreads = 256;

struct Workspace {
    AxisScratch rows;
    AxisScratch columns;
    Units between;

    Workspace(Arena& arena, const Shape& shape) noexcept {
        const int64_t width = shape.width - shape.removed_columns;
        const int64_t before = shape.batch * shape.height * shape.width;
        const int64_t middle = shape.batch * shape.height * width;
        const int64_t after = shape.batch * (shape.height - shape.removed_rows) * width;
        auto* square = arena.take<float>(before);
        auto* dot = arena.take<float>(before);
        auto* kept = arena.take<int32_t>(middle);
        rows = {square, dot, arena.take<int32_t>(before), kept};
        columns = {square, dot, arena.take<int32_t>(middle), arena.take<int32_t>(after)};
        between.values = arena.take<char>(middle * shape.channels * bytes_of(shape.dtype));
        between.sizes = arena.take<float>(middle);
        between.positions = arena.take<float>(middle * shape.position_planes);
    }
};

// Joins the decisions of both axes; a null target is an axis that removed nothing. Grid: x over units.
__global__ void __launch_bounds__(kThreads) place_kernel(int64_t units, int height, int width, int merged_width,
    const int32_t* row_target, const int32_t* column_target, int32_t* merged_into) {
    const int64_t unit = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (unit >= units) return;
    const auto column = row_target != nullptr ? row_target[unit] : static_cast<int>(unit % width);
    const int64_t line = unit / width;
    const auto row =
        column_target != nullptr ? column_target[line * merged_width + column] : static_cast<int>(line % height);
    merged_into[unit] = row * merged_width + column;
}

void copy_all(Chain& chain, const Shape& shape, const ConstUnits& in, const Units& out) {
    const int64_t units = shape.batch * shape.height * shape.width;
    constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
    chain.copy(out.values, in.values, units * shape.channels * bytes_of(shape.dtype));
    chain.copy(out.sizes, in.sizes, units * kFloat);
    chain.copy(out.positions, in.positions, units * shape.position_planes * kFloat);
}

luvc_status merge(const Shape& shape, const Tensors& tensors, const Workspace& work, void* stream) {
    const int64_t width = shape.width - shape.removed_columns;
    const int64_t height = shape.height - shape.removed_rows;
    const UnitShape unit{shape.dtype, static_cast<int>(shape.channels), static_cast<int>(shape.position_planes),
        shape.padded != 0};
    const bool merges_columns = shape.removed_columns > 0;
    const bool merges_rows = shape.removed_rows > 0;
    const Units out{tensors.merged_values, tensors.merged_sizes, tensors.merged_positions};
    ConstUnits in{tensors.values, tensors.sizes, tensors.positions};
    Chain chain(stream);
    if (!merges_columns && !merges_rows) copy_all(chain, shape, in, out);
    if (merges_columns) {
        const Units target = merges_rows ? work.between : out;
        merge_axis(chain, unit, along_rows(shape.batch, shape.height, shape.width),
            along_rows(shape.batch, shape.height, width), in, target, work.rows);
        in = target;
    }
    if (merges_rows) {
        merge_axis(chain, unit, along_columns(shape.batch, shape.height, width),
            along_columns(shape.batch, height, width), in, out, work.columns);
    }
    if (tensors.merged_into != nullptr) {
        const int64_t units = shape.batch * shape.height * shape.width;
        chain.launch(place_kernel, dim3(blocks_for(units, kThreads)), kThreads, units, shape.height, shape.width, width,
            merges_columns ? work.rows.target : nullptr, merges_rows ? work.columns.target : nullptr,
            tensors.merged_into);
    }
    return chain.status();
}

}  // namespace

size_t orthogonal_merge_workspace(const Shape& shape) noexcept {
    Arena measure;
    Workspace(measure, shape);
    return measure.bytes();
}

}  // namespace luvc::cuda

extern "C" luvc_status luvc_orthogonal_merge_cuda(const luvc_orthogonal_merge_shape* shape,
    const luvc_orthogonal_merge_tensors* tensors, void* workspace, size_t workspace_bytes, void* stream) noexcept {
    if (shape == nullptr || tensors == nullptr) return LUVC_NULL_POINTER;
    luvc_status status = luvc::check_shape(*shape);
    if (status == LUVC_OK) status = luvc::check_tensors(*shape, *tensors);
    if (status == LUVC_OK) {
        const size_t needed = luvc::cuda::orthogonal_merge_workspace(*shape);
        status = luvc::check_workspace(workspace, workspace_bytes, needed);
    }
    if (status != LUVC_OK || shape->batch == 0) return status;
    luvc::Arena arena(workspace);
    const luvc::cuda::Workspace work(arena, *shape);
    return luvc::cuda::merge(*shape, *tensors, work, stream);
}
