#pragma once

#include <memory>

#include "luvc/orthogonal_merge.h"
#include "tensorrt/plugin.h"

namespace luvc::tensorrt {

// Inputs:  values [B, H, W, C]; sizes float32 [B, H, W]; positions float32 [B, H, W, P].
// Outputs: merged values [B, H', W', C], sizes [B, H', W'], positions [B, H', W', P], and merged_into int32 [B, H, W],
//          the row-major place in (H', W') of every unit.
// Attributes: removed_columns, removed_rows.
class OrthogonalMergePlugin final : public Plugin<OrthogonalMergePlugin> {
public:
    static constexpr char kName[] = "OrthogonalMerge";

    static std::unique_ptr<OrthogonalMergePlugin> create(const FieldReader& reader);
    static void list_attributes(FieldList& attributes);
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
};

}  // namespace luvc::tensorrt
