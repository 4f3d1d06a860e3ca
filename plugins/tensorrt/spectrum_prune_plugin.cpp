#include "tensorrt/spectrum_prune_plugin.h"

#include <algorithm>

#include "common/dtype.h"
#include "common/spectrum_prune.h"

namespace luvc::tensorrt {

using namespace contract::spectrum_prune;

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;

namespace {

// Dimensions [first, last) multiplied.
int64_t extent(const Dims& dims, int32_t first, int32_t last) {
    int64_t product = 1;
    for (int32_t i = first; i < last; ++i) product *= dims.d[i];
    return product;
}

}  // namespace

std::unique_ptr<SpectrumPrunePlugin> SpectrumPrunePlugin::create(const FieldReader& reader) {
    const auto keep = reader.integer(kKeepField);
    const auto score = reader.text(kScoreField);
    const auto epsilon = reader.number(kEpsilonField);
    const auto token_axes = reader.integers(kTokenAxesField);
    const auto padding = reader.integers(kPaddingPayloadField);
    if (!keep || !score || !epsilon || !token_axes || !padding) return nullptr;
    auto plugin = std::make_unique<SpectrumPrunePlugin>();
    plugin->keep_ = *keep;
    plugin->score_ = *score;
    plugin->epsilon_ = *epsilon;
    plugin->token_axes_ = *token_axes;
    const auto& scores = contract::kScores;
    const auto* found = std::find(scores.begin(), scores.end(), *score);
    plugin->score_code_ = static_cast<luvc_score>(found - scores.begin());
    if (found == scores.end()) {
        fail("score is '" + *score + "', expected low, residual or ratio");
        return nullptr;
    }
    if (token_axes->size() > LUVC_MAX_PAYLOADS) {
        fail("token_axes names " + std::to_string(token_axes->size()) + " payloads, at most "
             + std::to_string(LUVC_MAX_PAYLOADS) + " fit");
        return nullptr;
    }
    if (!padding->empty()) plugin->padding_payload_ = padding->front();
    if (plugin->padding_payload_ < -1 || plugin->padding_payload_ >= plugin->payload_count()) {
        fail("padding_payload is " + std::to_string(plugin->padding_payload_) + ", expected -1 or the place of one of "
             + std::to_string(plugin->payload_count()) + " payloads");
        return nullptr;
    }
    for (int32_t axis : *token_axes) {
        if (axis < 1 || axis >= Dims::MAX_DIMS) {
            fail("a token axis is " + std::to_string(axis) + ", expected 1..7 (the group axis stands before it)");
            return nullptr;
        }
    }
    const luvc_status status = check_shape(
        plugin->shape_of({3, {1, *keep, 1}}, {2, {*keep, *keep > 0 ? 1 : 0}}, DataType::kFLOAT, DataType::kFLOAT));
    return report(status) == 0 ? std::move(plugin) : nullptr;
}

void SpectrumPrunePlugin::list_fields(FieldList& fields) const {
    fields.add(kKeepField, &keep_, PluginFieldType::kINT32);
    fields.add(kScoreField, score_.data(), PluginFieldType::kCHAR, static_cast<int32_t>(score_.size()));
    fields.add(kEpsilonField, &epsilon_, PluginFieldType::kFLOAT32);
    if (!token_axes_.empty()) {
        fields.add(kTokenAxesField, token_axes_.data(), PluginFieldType::kINT32, payload_count());
    }
    fields.add(kPaddingPayloadField, &padding_payload_, PluginFieldType::kINT32);
}

int32_t SpectrumPrunePlugin::getNbOutputs() const noexcept {
    return kFirstKeptPayload + payload_count();
}

int32_t SpectrumPrunePlugin::getOutputDataTypes(
    DataType* outputs, int32_t output_count, const DataType* inputs, int32_t input_count) const noexcept {
    if (input_count != kFirstPayload + payload_count() || output_count != getNbOutputs()) {
        return fail("got " + std::to_string(input_count) + " inputs, expected 3 and one for each token axis");
    }
    outputs[kKeptValues] = inputs[kValues];
    outputs[kIndices] = DataType::kINT64;
    for (int32_t i = 0; i < payload_count(); ++i) outputs[kFirstKeptPayload + i] = inputs[kFirstPayload + i];
    return 0;
}

int32_t SpectrumPrunePlugin::getOutputShapes(const DimsExprs* inputs, int32_t input_count, const DimsExprs*, int32_t,
    DimsExprs* outputs, int32_t output_count, nvinfer1::IExprBuilder& builder) noexcept {
    if (input_count != kFirstPayload + payload_count() || output_count != getNbOutputs()) {
        return fail("got " + std::to_string(input_count) + " inputs, expected 3 and one for each token axis");
    }
    const DimsExprs& values = inputs[kValues];
    if (values.nbDims != 3 || inputs[kNormWeight].nbDims != 1 || inputs[kBasis].nbDims != 2) {
        return fail("values, norm_weight and basis must have 3, 1 and 2 dimensions");
    }
    const nvinfer1::IDimensionExpr* tokens = values.d[1];
    if (tokens->isConstant() && keep_ > tokens->getConstantValue()) {
        return fail(
            "keep is " + std::to_string(keep_) + " of " + std::to_string(tokens->getConstantValue()) + " tokens");
    }
    const nvinfer1::IDimensionExpr* keep = builder.constant(keep_);
    outputs[kKeptValues] = values;
    outputs[kKeptValues].d[1] = keep;
    outputs[kIndices].nbDims = 2;
    outputs[kIndices].d[0] = values.d[0];
    outputs[kIndices].d[1] = keep;
    for (int32_t i = 0; i < payload_count(); ++i) {
        const int32_t axis = token_axes_[static_cast<size_t>(i)];
        DimsExprs& kept = outputs[kFirstKeptPayload + i];
        kept = inputs[kFirstPayload + i];
        if (axis >= kept.nbDims) {
            return fail("token axis " + std::to_string(axis) + " of a payload with " + std::to_string(kept.nbDims)
                        + " dimensions");
        }
        kept.d[axis] = keep;
    }
    return 0;
}

bool SpectrumPrunePlugin::supportsFormatCombination(
    int32_t place, const DynamicPluginTensorDesc* tensors, int32_t input_count, int32_t) noexcept {
    const auto type_of = [tensors](int32_t i) { return tensors[i].desc.type; };
    if (tensors[place].desc.format != nvinfer1::TensorFormat::kLINEAR) return false;
    switch (place) {
        case kValues:
        case kNormWeight: return is_float(type_of(place));
        case kBasis: return type_of(place) == DataType::kFLOAT;
        default: break;
    }
    if (place == kFirstPayload + padding_payload_ && padding_payload_ >= 0) return type_of(place) == DataType::kINT64;
    if (place < input_count) return dtype_of(type_of(place)).has_value();
    const int32_t output = place - input_count;
    if (output == kIndices) return type_of(place) == DataType::kINT64;
    return type_of(place) == type_of(output == kKeptValues ? kValues : kFirstPayload + output - kFirstKeptPayload);
}

luvc_spectrum_prune_shape SpectrumPrunePlugin::shape_of(
    const Dims& values, const Dims& basis, DataType type, DataType weight_type) const {
    constexpr luvc_dtype kUnknown = -1;
    return {values.d[0], values.d[1], values.d[2], basis.d[1], keep_, dtype_of(type).value_or(kUnknown),
        dtype_of(weight_type).value_or(kUnknown), LUVC_INT64, score_code_, epsilon_};
}

size_t SpectrumPrunePlugin::getWorkspaceSize(
    const DynamicPluginTensorDesc* inputs, int32_t, const DynamicPluginTensorDesc*, int32_t) const noexcept {
    const auto shape =
        shape_of(inputs[kValues].max, inputs[kBasis].max, inputs[kValues].desc.type, inputs[kNormWeight].desc.type);
    size_t bytes = 0;
    report(luvc_spectrum_prune_workspace(&shape, LUVC_CUDA, &bytes));
    return bytes;
}

int32_t SpectrumPrunePlugin::onShapeChange(
    const PluginTensorDesc* inputs, int32_t, const PluginTensorDesc*, int32_t) noexcept {
    const Dims& values = inputs[kValues].dims;
    const Dims& basis = inputs[kBasis].dims;
    if (inputs[kNormWeight].dims.d[0] != values.d[2] || basis.d[0] != values.d[1]) {
        return fail("norm_weight must have as many entries as values has channels, and basis as many rows as tokens");
    }
    for (int32_t i = 0; i < payload_count(); ++i) {
        const Dims& dims = inputs[kFirstPayload + i].dims;
        const int32_t axis = token_axes_[static_cast<size_t>(i)];
        if (dims.d[axis - 1] != values.d[0] || dims.d[axis] != values.d[1]) {
            return fail("payload " + std::to_string(i) + " must have the groups and tokens of values at axes "
                        + std::to_string(axis - 1) + " and " + std::to_string(axis));
        }
        if (i == padding_payload_ && extent(dims, 0, dims.nbDims) != values.d[0] * values.d[1]) {
            return fail("payload " + std::to_string(i) + ", which marks padding, must have one number a token");
        }
    }
    return report(check_shape(shape_of(values, basis, inputs[kValues].type, inputs[kNormWeight].type)));
}

int32_t SpectrumPrunePlugin::enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc*,
    const void* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
    const auto shape = shape_of(
        input_descs[kValues].dims, input_descs[kBasis].dims, input_descs[kValues].type, input_descs[kNormWeight].type);
    luvc_payload payloads[LUVC_MAX_PAYLOADS];
    for (int32_t i = 0; i < payload_count(); ++i) {
        const PluginTensorDesc& desc = input_descs[kFirstPayload + i];
        const int32_t axis = token_axes_[static_cast<size_t>(i)];
        payloads[i] = {inputs[kFirstPayload + i], outputs[kFirstKeptPayload + i], extent(desc.dims, 0, axis - 1),
            extent(desc.dims, axis + 1, desc.dims.nbDims) * bytes_of(*dtype_of(desc.type))};
    }
    const luvc_spectrum_prune_tensors tensors{inputs[kValues], inputs[kNormWeight],
        static_cast<const float*>(inputs[kBasis]), outputs[kKeptValues], outputs[kIndices], nullptr, payloads,
        payload_count(),
        padding_payload_ < 0 ? nullptr : static_cast<const int64_t*>(inputs[kFirstPayload + padding_payload_])};
    size_t bytes = 0;
    luvc_status status = luvc_spectrum_prune_workspace(&shape, LUVC_CUDA, &bytes);
    if (status == LUVC_OK) status = luvc_spectrum_prune_cuda(&shape, &tensors, workspace, bytes, stream);
    return report(status);
}

}  // namespace luvc::tensorrt
