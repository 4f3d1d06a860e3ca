#pragma once

#include <memory>
#include <vector>

#include "luvc/spectrum_prune.h"
#include "tensorrt/plugin.h"

namespace luvc::tensorrt {

// Inputs, outputs and attributes: common/contract.h.
class SpectrumPrunePlugin final : public Plugin<SpectrumPrunePlugin> {
public:
    static constexpr const char* kName = contract::spectrum_prune::kName;
    static constexpr const auto& kAttributes = contract::spectrum_prune::kAttributes;

    static std::unique_ptr<SpectrumPrunePlugin> create(const FieldReader& reader);
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
    int32_t payload_count() const { return static_cast<int32_t>(token_axes_.size()); }
    luvc_spectrum_prune_shape shape_of(const nvinfer1::Dims& values, const nvinfer1::Dims& basis,
        nvinfer1::DataType type, nvinfer1::DataType weight_type) const;

    int32_t keep_ = 0;
    std::string score_;
    luvc_score score_code_ = LUVC_SCORE_LOW;
    float epsilon_ = 0;
    std::vector<int32_t> token_axes_;
    int32_t padding_payload_ = -1;
};

}  // namespace luvc::tensorrt
