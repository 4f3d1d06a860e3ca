#include "tensorrt/fields.h"

#include <cstring>

#include "tensorrt/log.h"

namespace luvc::tensorrt {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

void FieldReader::complain(const char* name, const std::string& what) const {
    log_error(std::string(plugin_) + ": attribute '" + name + "' " + what);
}

const PluginField* FieldReader::find(const char* name) const {
    const bool any = fields_ != nullptr && fields_->fields != nullptr;
    for (int32_t i = 0; any && i < fields_->nbFields; ++i) {
        const char* found = fields_->fields[i].name;
        if (found != nullptr && std::strcmp(found, name) == 0) return &fields_->fields[i];
    }
    return nullptr;
}

const PluginField* FieldReader::find(const char* name, PluginFieldType type, int32_t length) const {
    const PluginField* field = find(name);
    if (field == nullptr) {
        complain(name, "is missing");
    } else if (field->type != type || field->length < length || field->data == nullptr) {
        complain(name, "has the wrong type or is empty");
        field = nullptr;
    }
    return field;
}

std::optional<int32_t> FieldReader::integer(const char* name) const {
    const PluginField* field = find(name, PluginFieldType::kINT32, 1);
    if (field == nullptr) return std::nullopt;
    return *static_cast<const int32_t*>(field->data);
}

std::optional<float> FieldReader::number(const char* name) const {
    const PluginField* field = find(name, PluginFieldType::kFLOAT32, 1);
    if (field == nullptr) return std::nullopt;
    return *static_cast<const float*>(field->data);
}

std::optional<std::string> FieldReader::text(const char* name) const {
    const PluginField* field = find(name, PluginFieldType::kCHAR, 1);
    if (field == nullptr) return std::nullopt;
    const auto* first = static_cast<const char*>(field->data);
    return std::string(first, strnlen(first, static_cast<size_t>(field->length)));
}

std::optional<std::vector<int32_t>> FieldReader::integers(const char* name) const {
    if (find(name) == nullptr) return std::vector<int32_t>{};
    const PluginField* field = find(name, PluginFieldType::kINT32, 1);
    if (field == nullptr) return std::nullopt;
    const auto* first = static_cast<const int32_t*>(field->data);
    return std::vector<int32_t>(first, first + field->length);
}

bool FieldReader::version_is_known() const {
    if (find(kVersionField) == nullptr) return true;
    const std::optional<int32_t> version = integer(kVersionField);
    if (!version) return false;
    if (*version >= 1 && *version <= kSerialVersion) return true;
    complain(kVersionField, "is " + std::to_string(*version) + ", this library reads 1.."
                                + std::to_string(kSerialVersion) + "; rebuild the engine or update libluvc_plugins.so");
    return false;
}

}  // namespace luvc::tensorrt
