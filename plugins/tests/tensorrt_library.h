// The plugin library loaded the way TensorRT does, and enough of TensorRT's side to drive its creators without it.
#pragma once

#include <NvInferRuntime.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

namespace luvc::testing {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::IDimensionExpr;
using nvinfer1::IPluginCreatorV3One;
using nvinfer1::IPluginV3;
using nvinfer1::IPluginV3OneBuild;
using nvinfer1::IPluginV3OneRuntime;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

class Constant : public IDimensionExpr, private nvinfer1::apiv::VDimensionExpr {
public:
    explicit Constant(int64_t value) : value_(value) { mImpl = this; }
    ~Constant() noexcept override = default;
    int64_t value() const { return value_; }

private:
    bool isConstant() const override { return true; }
    int64_t getConstantValue() const override { return value_; }
    bool isSizeTensor() const override { return false; }

    int64_t value_;
};

class Builder : public nvinfer1::IExprBuilder, private nvinfer1::apiv::VExprBuilder {
public:
    Builder() { mImpl = this; }
    ~Builder() noexcept override = default;

    const IDimensionExpr* make(int64_t value) { return &constants_.emplace_back(value); }
    DimsExprs dims(const std::vector<int64_t>& extents) {
        DimsExprs result{};
        for (int64_t extent : extents) result.d[result.nbDims++] = make(extent);
        return result;
    }

private:
    const IDimensionExpr* constant(int64_t value) override { return make(value); }
    const IDimensionExpr* operation(
        nvinfer1::DimensionOperation op, const IDimensionExpr& first, const IDimensionExpr& second) override {
        EXPECT_EQ(op, nvinfer1::DimensionOperation::kSUB);
        return make(first.getConstantValue() - second.getConstantValue());
    }
    const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
        return nullptr;
    }

    std::deque<Constant> constants_;
};

inline std::vector<int64_t> extents(const DimsExprs& dims) {
    std::vector<int64_t> result;
    for (int32_t i = 0; i < dims.nbDims; ++i) result.push_back(dims.d[i]->getConstantValue());
    return result;
}

class Messages : public nvinfer1::ILoggerFinder, private nvinfer1::ILogger {
public:
    nvinfer1::ILogger* findLogger() override { return this; }
    std::string text;

private:
    void log(Severity, const char* message) noexcept override { text += std::string(message) + "\n"; }
};

struct Attributes {
    int32_t keep = 4;
    std::string score = "low";
    float epsilon = 1e-6f;
    std::vector<int32_t> token_axes{2, 1};
    int32_t padding_payload = -1;
    int32_t version = 1;

    std::vector<PluginField> fields() const {
        return {{"keep", &keep, PluginFieldType::kINT32, 1},
            {"score", score.data(), PluginFieldType::kCHAR, static_cast<int32_t>(score.size())},
            {"epsilon", &epsilon, PluginFieldType::kFLOAT32, 1},
            {"token_axes", token_axes.data(), PluginFieldType::kINT32, static_cast<int32_t>(token_axes.size())},
            {"padding_payload", &padding_payload, PluginFieldType::kINT32, 1},
            {"serial_version", &version, PluginFieldType::kINT32, 1}};
    }
};

class TensorRTPlugins : public ::testing::Test {
protected:
    void SetUp() override {
        library_ = dlopen(LUVC_PLUGIN_LIBRARY, RTLD_NOW | RTLD_LOCAL);
        ASSERT_NE(library_, nullptr) << dlerror();
        using SetFinder = void (*)(nvinfer1::ILoggerFinder*);
        reinterpret_cast<SetFinder>(dlsym(library_, "setLoggerFinder"))(&messages_);
    }
    void TearDown() override {
        plugins_.clear();
        dlclose(library_);
    }

    IPluginCreatorV3One* creator(const std::string& name) {
        using GetCreators = nvinfer1::IPluginCreatorInterface* const* (*)(int32_t&);
        int32_t count = 0;
        auto* const* creators = reinterpret_cast<GetCreators>(dlsym(library_, "getCreators"))(count);
        EXPECT_EQ(count, 2);
        for (int32_t i = 0; i < count; ++i) {
            auto* found = static_cast<IPluginCreatorV3One*>(creators[i]);
            if (found->getPluginName() == name) return found;
        }
        return nullptr;
    }
    IPluginV3* make(const std::string& name, const PluginFieldCollection& fields) {
        plugins_.emplace_back(creator(name)->createPlugin("layer", &fields, nvinfer1::TensorRTPhase::kBUILD));
        return plugins_.back().get();
    }
    IPluginV3* prune(const Attributes& attributes) {
        std::vector<PluginField> fields = attributes.fields();
        return make("SpectrumPrune", {static_cast<int32_t>(fields.size()), fields.data()});
    }
    IPluginV3* merge(int32_t columns, int32_t rows) {
        PluginField fields[] = {{"removed_columns", &columns, PluginFieldType::kINT32, 1},
            {"removed_rows", &rows, PluginFieldType::kINT32, 1}};
        return make("OrthogonalMerge", {2, fields});
    }
    static IPluginV3OneBuild* build(IPluginV3* plugin) {
        return static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    }
    static IPluginV3OneRuntime* run(IPluginV3* plugin) {
        return static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    }

    Messages messages_;
    void* library_ = nullptr;
    std::vector<std::unique_ptr<IPluginV3>> plugins_;
};

}  // namespace luvc::testing
