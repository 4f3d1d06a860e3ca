#include "tensorrt/orthogonal_merge_plugin.h"

#include "common/orthogonal_merge.h"

namespace luvc::tensorrt {

using namespace contract::orthogonal_merge;

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;

namespace {

constexpr int32_t kInputCount = kInputs.size();
constexpr int32_t kOutputCount = kOutputs.size();
constexpr int32_t kHeightAxis = 1;
constexpr int32_t kWidthAxis = 2;

}  // namespace

std::unique_ptr<OrthogonalMergePlugin> OrthogonalMergePlugin::create(const FieldReader& reader) {
    const auto columns = reader.integer(kRemovedColumnsField);
    const auto rows = reader.integer(kRemovedRowsField);
    const auto padded = reader.integers(kPaddedField);
    if (!columns || !rows || !padded) return nullptr;
    if (!padded->empty() && padded->front() != 0 && padded->front() != 1) {
        fail("padded is " + std::to_string(padded->front()) + ", expected 0 or 1");
        return nullptr;
    }
    if (*columns < 0 || *rows < 0) {
        report(LUVC_INVALID_REMOVED);
        return nullptr;
    }
    auto plugin = std::make_unique<OrthogonalMergePlugin>();
    plugin->removed_columns_ = *columns;
    plugin->removed_rows_ = *rows;
    plugin->padded_ = padded->empty() ? 0 : padded->front();
    return plugin;
}

void OrthogonalMergePlugin::list_fields(FieldList& fields) const {
    fields.add(kRemovedColumnsField, &removed_columns_, PluginFieldType::kINT32);
    fields.add(kRemovedRowsField, &removed_rows_, PluginFieldType::kINT32);
    fields.add(kPaddedField, &padded_, PluginFieldType::kINT32);
}

int32_t OrthogonalMergePlugin::getNbOutputs() const noexcept {
    return kOutputCount;
}

int32_t OrthogonalMergePlugin::getOutputDataTypes(
    DataType* outputs, int32_t output_count, const DataType* inputs, int32_t input_count) const noexcept {
    if (input_count != kInputCount || output_count != kOutputCount) return fail("expected 3 inputs and 4 outputs");
    outputs[kMergedValues] = inputs[kValues];
    outputs[kMergedSizes] = DataType::kFLOAT;
    outputs[kMergedPositions] = DataType::kFLOAT;
    outputs[kMergedInto] = DataType::kINT32;
    return 0;
}

int32_t OrthogonalMergePlugin::getOutputShapes(const DimsExprs* inputs, int32_t input_count, const DimsExprs*, int32_t,
    DimsExprs* outputs, int32_t output_count, nvinfer1::IExprBuilder& builder) noexcept {
    if (input_count != kInputCount || output_count != kOutputCount) return fail("expected 3 inputs and 4 outputs");
    if (inputs[kValues].nbDims != 4 || inputs[kSizes].nbDims != 3 || inputs[kPositions].nbDims != 4) {
        return fail("values, sizes and positions must have 4, 3 and 4 dimensions");
    }
    const auto less = [&](int32_t axis, int32_t removed) {
        return builder.operation(
            nvinfer1::DimensionOperation::kSUB, *inputs[kValues].d[axis], *builder.constant(removed));
    };
    const nvinfer1::IDimensionExpr* height = less(kHeightAxis, removed_rows_);
    const nvinfer1::IDimensionExpr* width = less(kWidthAxis, removed_columns_);
    for (int32_t i : {kMergedValues, kMergedSizes, kMergedPositions}) {
        outputs[i] = inputs[i];
        outputs[i].d[kHeightAxis] = height;
        outputs[i].d[kWidthAxis] = width;
    }
    outputs[kMergedInto] = inputs[kSizes];
    return 0;
}

bool OrthogonalMergePlugin::supportsFormatCombination(
    int32_t place, const DynamicPluginTensorDesc* tensors, int32_t, int32_t) noexcept {
    if (tensors[place].desc.format != nvinfer1::TensorFormat::kLINEAR) return false;
    const DataType type = tensors[place].desc.type;
    switch (place) {
        case kValues: return is_float(type);
        case kInputCount + kMergedValues: return type == tensors[kValues].desc.type;
        case kInputCount + kMergedInto: return type == DataType::kINT32;
        default: return type == DataType::kFLOAT;
    }
}

luvc_orthogonal_merge_shape OrthogonalMergePlugin::shape_of(
    const Dims& values, const Dims& positions, DataType type) const {
    constexpr luvc_dtype kUnknown = -1;
    return {values.d[0], values.d[1], values.d[2], values.d[3], positions.d[3], removed_columns_, removed_rows_,
        dtype_of(type).value_or(kUnknown), padded_};
}

size_t OrthogonalMergePlugin::getWorkspaceSize(
    const DynamicPluginTensorDesc* inputs, int32_t, const DynamicPluginTensorDesc*, int32_t) const noexcept {
    const auto shape = shape_of(inputs[kValues].max, inputs[kPositions].max, inputs[kValues].desc.type);
    size_t bytes = 0;
    report(luvc_orthogonal_merge_workspace(&shape, LUVC_CUDA, &bytes));
    return bytes;
}

int32_t OrthogonalMergePlugin::onShapeChange(
    const PluginTensorDesc* inputs, int32_t, const PluginTensorDesc*, int32_t) noexcept {
    for (int32_t axis = 0; axis < inputs[kSizes].dims.nbDims; ++axis) {
        const int64_t extent = inputs[kValues].dims.d[axis];
        if (inputs[kSizes].dims.d[axis] != extent || inputs[kPositions].dims.d[axis] != extent) {
            return fail("values, sizes and positions differ at axis " + std::to_string(axis));
        }
    }
    return report(check_shape(shape_of(inputs[kValues].dims, inputs[kPositions].dims, inputs[kValues].type)));
}

int32_t OrthogonalMergePlugin::enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc*,
    const void* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
    const auto shape = shape_of(input_descs[kValues].dims, input_descs[kPositions].dims, input_descs[kValues].type);
    const luvc_orthogonal_merge_tensors tensors{inputs[kValues], static_cast<const float*>(inputs[kSizes]),
        static_cast<const float*>(inputs[kPositions]), outputs[kMergedValues],
        static_cast<float*>(outputs[kMergedSizes]), static_cast<float*>(outputs[kMergedPositions]),
        static_cast<int32_t*>(outputs[kMergedInto])};
    size_t bytes = 0;
    luvc_status status = luvc_orthogonal_merge_workspace(&shape, LUVC_CUDA, &bytes);
    if (status == LUVC_OK) status = luvc_orthogonal_merge_cuda(&shape, &tensors, workspace, bytes, stream);
    return report(status);
}

}  // namespace luvc::tensorrt
