#pragma once

#include <memory>

#include "luvc/orthogonal_merge.h"
#include "tensorrt/plugin.h"

namespace luvc::tensorrt {

// Inputs, outputs and attributes: common/contract.h.
class OrthogonalMergePlugin final : public Plugin<OrthogonalMergePlugin> {
public:
    static constexpr const char* kName = contract::orthogonal_merge::kName;
    static constexpr const auto& kAttributes = contract::orthogonal_merge::kAttributes;

    static std::unique_ptr<OrthogonalMergePlugin> create(const FieldReader& reader);
    void list_fields(FieldList& fields) const;

    int32_t getNbOutputs() const noexcept override;
    int32_t getOutputDataTypes(nvinfer1::DataType* outputs, int32_t output_count, const nvinfer1::DataType* inputs,
        int32_t input_count) const noexcept override;
    int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count, const nvinfer1::DimsExprs*, int32_t,
        nvinfer1::DimsExprs* outputs, int32_t output_count, nvinfer1::IExprBuilder& builder) noexcept override;
    bool supportsFormatCombination(int32_t place, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t input_count,
        int32_t output_count) noexcept override;
    size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t input_count,
        const nvinfer1::DynamicPluginTensorDesc*, int32_t) const noexcept override;
    int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, int32_t input_count,
        const nvinfer1::PluginTensorDesc*, int32_t) noexcept override;
    int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs, const nvinfer1::PluginTensorDesc* output_descs,
        const void* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;

private:
    luvc_orthogonal_merge_shape shape_of(
        const nvinfer1::Dims& values, const nvinfer1::Dims& positions, nvinfer1::DataType type) const;

    int32_t removed_columns_ = 0;
    int32_t removed_rows_ = 0;
    int32_t padded_ = 0;
};

}  // namespace luvc::tensorrt
