// TensorRT's part in the life of a plugin, as its documentation tells it, callable from Python (tests/plugins): a layer is
// created for a build, saved, created again from what was saved, given shapes, attached and enqueued.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "NvInferRuntime.h"

namespace {

using namespace nvinfer1;

#define LUVC_HOST extern "C" __attribute__((visibility("default")))

struct Field {
    const char* name;
    const void* data;
    int32_t type;
    int32_t length;
};

struct Tensor {
    void* data;  // on the host
    int64_t bytes;
    int32_t type;
    int32_t rank;
    int64_t extents[Dims::MAX_DIMS];
};

class Messages final : public ILoggerFinder, public ILogger {
public:
    ILogger* findLogger() override { return this; }
    void log(Severity, const char* message) noexcept override { text += std::string(message) + "\n"; }
    std::string text;
};

Messages messages;
std::string asked;

class Constant final : public IDimensionExpr, private apiv::VDimensionExpr {
public:
    explicit Constant(int64_t value) : value_(value) { mImpl = this; }

private:
    bool isConstant() const override { return true; }
    int64_t getConstantValue() const override { return value_; }
    bool isSizeTensor() const override { return false; }
    int64_t value_;
};

class Builder final : public IExprBuilder, private apiv::VExprBuilder {
public:
    Builder() { mImpl = this; }
    DimsExprs dims(const Tensor& tensor) {
        DimsExprs result{};
        for (; result.nbDims < tensor.rank; ++result.nbDims) {
            result.d[result.nbDims] = constant(tensor.extents[result.nbDims]);
        }
        return result;
    }

private:
    const IDimensionExpr* constant(int64_t value) override { return &constants_.emplace_back(value); }
    const IDimensionExpr* operation(
        DimensionOperation, const IDimensionExpr& first, const IDimensionExpr& second) override {
        return constant(first.getConstantValue() - second.getConstantValue());  // kSUB, the one the plugins build
    }
    const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
        return nullptr;
    }
    std::deque<Constant> constants_;
};

PluginTensorDesc desc_of(const Tensor& tensor) {
    PluginTensorDesc desc{};
    desc.dims.nbDims = tensor.rank;
    for (int32_t i = 0; i < tensor.rank; ++i) desc.dims.d[i] = tensor.extents[i];
    desc.type = static_cast<DataType>(tensor.type);
    return desc;
}

template <typename Interface>
Interface* part(IPluginV3* plugin, PluginCapabilityType type) {
    return static_cast<Interface*>(plugin->getCapabilityInterface(type));
}

int64_t width_of(PluginFieldType type) {
    return type == PluginFieldType::kCHAR ? 1 : 4;
}

// A copy that shares no memory with the plugin it came from, as an engine file would not.
struct Saved {
    explicit Saved(const PluginFieldCollection& list) {
        for (int32_t i = 0; i < list.nbFields; ++i) {
            const PluginField& field = list.fields[i];
            const auto* first = static_cast<const char*>(field.data);
            bytes.emplace_back(first, first + width_of(field.type) * field.length);
            names.emplace_back(field.name);
            fields.emplace_back(names.back().c_str(), bytes.back().data(), field.type, field.length);
        }
    }
    std::deque<std::string> names;
    std::deque<std::vector<char>> bytes;
    std::vector<PluginField> fields;
};

IPluginCreatorV3One* creator_of(void* library, const std::string& name) {
    using GetCreators = IPluginCreatorInterface* const* (*)(int32_t&);
    int32_t count = 0;
    auto* const* creators = reinterpret_cast<GetCreators>(dlsym(library, "getCreators"))(count);
    for (int32_t i = 0; i < count; ++i) {
        auto* creator = static_cast<IPluginCreatorV3One*>(creators[i]);
        if (creator->getPluginName() == name) return creator;
    }
    return nullptr;
}

class DeviceCopy {
public:
    explicit DeviceCopy(int64_t bytes) { cudaMalloc(&data, static_cast<size_t>(bytes > 0 ? bytes : 1)); }
    DeviceCopy(const DeviceCopy&) = delete;
    DeviceCopy& operator=(const DeviceCopy&) = delete;
    ~DeviceCopy() { cudaFree(data); }
    void* data = nullptr;
};

}  // namespace

LUVC_HOST const char* luvc_host_messages() {
    asked = std::exchange(messages.text, {});
    return asked.c_str();
}

// Null, with a message, where it is no library of plugins.
LUVC_HOST void* luvc_host_open(const char* path) {
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        messages.text += dlerror();
        return nullptr;
    }
    reinterpret_cast<void (*)(ILoggerFinder*)>(dlsym(library, "setLoggerFinder"))(&messages);
    return library;
}

// A layer as an engine holds it: made from what the layer of the build saved.
LUVC_HOST void* luvc_host_create(void* library, const char* name, const Field* given, int32_t count) {
    IPluginCreatorV3One* creator = creator_of(library, name);
    if (creator == nullptr) return nullptr;
    std::vector<PluginField> fields;
    for (int32_t i = 0; i < count; ++i) {
        fields.emplace_back(given[i].name, given[i].data, static_cast<PluginFieldType>(given[i].type), given[i].length);
    }
    const PluginFieldCollection list{count, fields.data()};
    const std::unique_ptr<IPluginV3> built(creator->createPlugin("layer", &list, TensorRTPhase::kBUILD));
    if (built == nullptr) return nullptr;
    const Saved saved(*part<IPluginV3OneRuntime>(built.get(), PluginCapabilityType::kRUNTIME)->getFieldsToSerialize());
    const PluginFieldCollection again{static_cast<int32_t>(saved.fields.size()), saved.fields.data()};
    return creator->createPlugin("layer", &again, TensorRTPhase::kRUNTIME);
}

LUVC_HOST void luvc_host_destroy(void* layer) {
    delete static_cast<IPluginV3*>(layer);
}

// Types and extents of the outputs; -1 with a message where the layer refuses.
LUVC_HOST int32_t luvc_host_infer(void* layer, const Tensor* inputs, int32_t input_count, Tensor* outputs, int32_t output_count) {
    auto* build = part<IPluginV3OneBuild>(static_cast<IPluginV3*>(layer), PluginCapabilityType::kBUILD);
    if (build->getNbOutputs() != output_count) return -1;
    Builder builder;
    std::vector<DimsExprs> in, out(static_cast<size_t>(output_count));
    std::vector<DataType> in_types, out_types(static_cast<size_t>(output_count));
    for (int32_t i = 0; i < input_count; ++i) {
        in.push_back(builder.dims(inputs[i]));
        in_types.push_back(static_cast<DataType>(inputs[i].type));
    }
    if (build->getOutputDataTypes(out_types.data(), output_count, in_types.data(), input_count) != 0
        || build->getOutputShapes(in.data(), input_count, nullptr, 0, out.data(), output_count, builder) != 0) {
        return -1;
    }
    for (size_t i = 0; i < out.size(); ++i) {
        outputs[i].type = static_cast<int32_t>(out_types[i]);
        outputs[i].rank = out[i].nbDims;
        for (int32_t axis = 0; axis < out[i].nbDims; ++axis) {
            outputs[i].extents[axis] = out[i].d[axis]->getConstantValue();
        }
    }
    return 0;
}

// Runs the layer; the outputs are as luvc_host_infer says, with memory for them.
LUVC_HOST int32_t luvc_host_run(void* layer, const Tensor* inputs, int32_t input_count, Tensor* outputs, int32_t output_count) {
    auto* original = static_cast<IPluginV3*>(layer);
    auto* build = part<IPluginV3OneBuild>(original, PluginCapabilityType::kBUILD);
    std::vector<DynamicPluginTensorDesc> all;
    std::vector<PluginTensorDesc> descs;
    const auto describe = [&](const Tensor& tensor) {
        const PluginTensorDesc desc = desc_of(tensor);
        descs.push_back(desc);
        all.push_back({desc, desc.dims, desc.dims, desc.dims});
    };
    for (int32_t i = 0; i < input_count; ++i) describe(inputs[i]);
    for (int32_t i = 0; i < output_count; ++i) describe(outputs[i]);
    for (int32_t place = 0; place < input_count + output_count; ++place) {
        if (!build->supportsFormatCombination(place, all.data(), input_count, output_count)) {
            messages.text += "no format for tensor " + std::to_string(place) + "\n";
            return -1;
        }
    }
    if (build->configurePlugin(all.data(), input_count, all.data() + input_count, output_count) != 0) return -1;
    const size_t scratch = build->getWorkspaceSize(all.data(), input_count, all.data() + input_count, output_count);

    auto* runtime = part<IPluginV3OneRuntime>(original, PluginCapabilityType::kRUNTIME);
    const std::unique_ptr<IPluginV3> attached(runtime->attachToContext(nullptr));
    runtime = part<IPluginV3OneRuntime>(attached.get(), PluginCapabilityType::kRUNTIME);
    if (runtime->onShapeChange(descs.data(), input_count, descs.data() + input_count, output_count) != 0) return -1;

    std::deque<DeviceCopy> memory;
    std::vector<const void*> in;
    std::vector<void*> out;
    for (int32_t i = 0; i < input_count; ++i) {
        in.push_back(memory.emplace_back(inputs[i].bytes).data);
        cudaMemcpy(memory.back().data, inputs[i].data, static_cast<size_t>(inputs[i].bytes), cudaMemcpyHostToDevice);
    }
    for (int32_t i = 0; i < output_count; ++i) out.push_back(memory.emplace_back(outputs[i].bytes).data);
    void* workspace = memory.emplace_back(static_cast<int64_t>(scratch)).data;
    const int32_t status =
        runtime->enqueue(descs.data(), descs.data() + input_count, in.data(), out.data(), workspace, nullptr);
    messages.text += luvc_emulate_fault();
    for (size_t i = 0; status == 0 && i < out.size(); ++i) {
        cudaMemcpy(outputs[i].data, out[i], static_cast<size_t>(outputs[i].bytes), cudaMemcpyDeviceToHost);
    }
    return status;
}
