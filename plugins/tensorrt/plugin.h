// What both plugins share: identity, capabilities, and the translation of TensorRT's types.
#pragma once

#include <NvInferRuntime.h>

#include <exception>
#include <memory>
#include <optional>
#include <string>

#include "common/contract.h"
#include "luvc/abi.h"
#include "tensorrt/fields.h"
#include "tensorrt/log.h"

namespace luvc::tensorrt {

inline std::optional<luvc_dtype> dtype_of(nvinfer1::DataType type) {
    switch (type) {
        case nvinfer1::DataType::kFLOAT: return LUVC_FLOAT32;
        case nvinfer1::DataType::kHALF: return LUVC_FLOAT16;
        case nvinfer1::DataType::kBF16: return LUVC_BFLOAT16;
        case nvinfer1::DataType::kINT32: return LUVC_INT32;
        case nvinfer1::DataType::kINT64: return LUVC_INT64;
        default: return std::nullopt;
    }
}

inline bool is_float(nvinfer1::DataType type) {
    return type == nvinfer1::DataType::kFLOAT || type == nvinfer1::DataType::kHALF || type == nvinfer1::DataType::kBF16;
}

inline nvinfer1::PluginFieldType field_type(contract::Kind kind) {
    switch (kind) {
        case contract::Kind::kFloat: return nvinfer1::PluginFieldType::kFLOAT32;
        case contract::Kind::kString: return nvinfer1::PluginFieldType::kCHAR;
        default: return nvinfer1::PluginFieldType::kINT32;
    }
}

// `Derived` supplies kName, the build and run methods, and a copy constructor.
template <typename Derived>
class Plugin : public nvinfer1::IPluginV3,
               public nvinfer1::IPluginV3OneCore,
               public nvinfer1::IPluginV3OneBuild,
               public nvinfer1::IPluginV3OneRuntime {
public:
    Plugin() = default;
    // The field list points into the object it was made for, so a copy makes its own.
    Plugin(const Plugin&) : Plugin() {}
    Plugin& operator=(const Plugin&) = delete;

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept final {
        switch (type) {
            case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
            case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
            case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    nvinfer1::IPluginV3* clone() noexcept final {
        try {
            return new Derived(static_cast<const Derived&>(*this));
        } catch (const std::exception& error) {
            log_error(std::string(Derived::kName) + ": " + error.what());
            return nullptr;
        }
    }

    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept final { return clone(); }

    const char* getPluginName() const noexcept final { return Derived::kName; }
    const char* getPluginVersion() const noexcept final { return contract::kVersion; }
    const char* getPluginNamespace() const noexcept final { return contract::kNamespace; }

    int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc*, int32_t, const nvinfer1::DynamicPluginTensorDesc*,
        int32_t) noexcept final {
        return 0;
    }

    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept final {
        fields_.clear();
        fields_.add(kVersionField, &kSerialVersion, nvinfer1::PluginFieldType::kINT32);
        static_cast<Derived*>(this)->list_fields(fields_);
        return fields_.get();
    }

protected:
    static int32_t fail(const std::string& what) {
        log_error(std::string(Derived::kName) + ": " + what);
        return -1;
    }

    // TensorRT's 0 for success; a message and -1 otherwise.
    static int32_t report(luvc_status status) { return status == LUVC_OK ? 0 : fail(luvc_status_string(status)); }

private:
    FieldList fields_;
};

// Registers `Made` under its name; `Made` supplies static create(FieldReader) and kAttributes, its contract's.
template <typename Made>
class Creator final : public nvinfer1::IPluginCreatorV3One {
public:
    Creator() {
        for (const contract::Attribute& attribute : Made::kAttributes) {
            attributes_.add(attribute.name, nullptr, field_type(attribute.kind));
        }
    }

    nvinfer1::IPluginV3* createPlugin(
        const char* name, const nvinfer1::PluginFieldCollection* fields, nvinfer1::TensorRTPhase) noexcept override {
        try {
            const FieldReader reader(Made::kName, fields);
            std::unique_ptr<Made> plugin = reader.version_is_known() ? Made::create(reader) : nullptr;
            const char* layer = name == nullptr ? "" : name;
            if (plugin == nullptr) log_error(std::string(Made::kName) + ": cannot create layer '" + layer + "'");
            return plugin.release();
        } catch (const std::exception& error) {
            log_error(std::string(Made::kName) + ": " + error.what());
            return nullptr;
        }
    }

    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return attributes_.get(); }
    const char* getPluginName() const noexcept override { return Made::kName; }
    const char* getPluginVersion() const noexcept override { return contract::kVersion; }
    const char* getPluginNamespace() const noexcept override { return contract::kNamespace; }

private:
    FieldList attributes_;
};

}  // namespace luvc::tensorrt
