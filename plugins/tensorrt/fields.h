// Plugin attributes in and out: typed reading with messages, and storage that outlives getFieldsToSerialize.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace luvc::tensorrt {

// Version of what getFieldsToSerialize writes; a newer one is refused, a missing one (an ONNX node) is the current.
constexpr int32_t kSerialVersion = 1;
constexpr char kVersionField[] = "serial_version";

class FieldReader {
public:
    FieldReader(const char* plugin, const nvinfer1::PluginFieldCollection* fields) : plugin_(plugin), fields_(fields) {}

    // Each returns nothing, after a message, when the field is missing or of another type.
    std::optional<int32_t> integer(const char* name) const;
    std::optional<float> number(const char* name) const;
    std::optional<std::string> text(const char* name) const;
    // An absent list is empty.
    std::optional<std::vector<int32_t>> integers(const char* name) const;

    bool version_is_known() const;

private:
    const nvinfer1::PluginField* find(const char* name) const;
    const nvinfer1::PluginField* find(const char* name, nvinfer1::PluginFieldType type, int32_t length) const;
    void complain(const char* name, const std::string& what) const;

    const char* plugin_;
    const nvinfer1::PluginFieldCollection* fields_;
};

// A collection that points at values kept by the plugin.
class FieldList {
public:
    void add(const char* name, const void* data, nvinfer1::PluginFieldType type, int32_t length = 1) {
        fields_.emplace_back(name, data, type, length);
        collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
    }
    void clear() {
        fields_.clear();
        collection_ = {};
    }
    const nvinfer1::PluginFieldCollection* get() const { return &collection_; }

private:
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace luvc::tensorrt
