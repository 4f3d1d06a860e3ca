// The creators against common/contract.h, and that the comparison sees a contract that drifted.
#include <algorithm>

#include "common/contract.h"
#include "tensorrt_library.h"

using namespace luvc::testing;
using luvc::contract::Attribute;
using luvc::contract::Kind;
using luvc::contract::Tensor;

namespace merge_contract = luvc::contract::orthogonal_merge;
namespace prune_contract = luvc::contract::spectrum_prune;

namespace {

using Table = std::vector<Attribute>;
using Tensors = std::vector<Tensor>;

template <typename Table>
auto rows(const Table& table) {
    return std::vector<typename Table::value_type>(table.begin(), table.end());
}

PluginFieldType field_type(Kind kind) {
    return kind == Kind::kFloat    ? PluginFieldType::kFLOAT32
           : kind == Kind::kString ? PluginFieldType::kCHAR
                                   : PluginFieldType::kINT32;
}

// Where what a creator announces differs from a contract.
std::string differences(const PluginFieldCollection& fields, const Table& table) {
    std::string text;
    if (fields.nbFields != static_cast<int32_t>(table.size())) text += "another number of fields; ";
    for (int32_t i = 0; i < std::min(fields.nbFields, static_cast<int32_t>(table.size())); ++i) {
        const Attribute& wanted = table[static_cast<size_t>(i)];
        if (std::string(fields.fields[i].name) != wanted.name) text += std::string(wanted.name) + " has another name; ";
        if (fields.fields[i].type != field_type(wanted.kind)) text += std::string(wanted.name) + " has another type; ";
    }
    return text;
}

const std::vector<DataType> kTypes{  // by luvc_dtype
    DataType::kFLOAT, DataType::kHALF, DataType::kBF16, DataType::kINT32, DataType::kINT64};

// The first element type of a table's row, or that of the input it follows.
DataType first_type(const Tensor& tensor, const Tensors& inputs) {
    if (tensor.like >= 0) return first_type(inputs[static_cast<size_t>(tensor.like)], inputs);
    for (size_t i = 0; i < kTypes.size(); ++i) {
        if ((tensor.types >> i & 1u) != 0) return kTypes[i];
    }
    return DataType::kINT8;
}

// Where the element types a plugin takes differ from a contract, one tensor changed at a time; one payload.
std::string differences(IPluginV3OneBuild* plugin, const Tensors& inputs, const Tensors& outputs) {
    std::string text;
    Tensors all = inputs;
    all.insert(all.end(), outputs.begin(), outputs.end());
    std::vector<nvinfer1::DynamicPluginTensorDesc> descs(all.size());
    for (size_t i = 0; i < all.size(); ++i) descs[i].desc.type = first_type(all[i], inputs);
    for (size_t place = 0; place < all.size(); ++place) {
        const DataType usual = descs[place].desc.type;
        for (size_t i = 0; i < kTypes.size(); ++i) {
            descs[place].desc.type = kTypes[i];
            const bool wanted = all[place].like >= 0 ? kTypes[i] == usual : (all[place].types >> i & 1u) != 0;
            const bool taken = plugin->supportsFormatCombination(static_cast<int32_t>(place), descs.data(),
                static_cast<int32_t>(inputs.size()), static_cast<int32_t>(outputs.size()));
            if (taken != wanted) text += std::string(all[place].name) + " has other types; ";
        }
        descs[place].desc.type = usual;
    }
    if (plugin->getNbOutputs() != static_cast<int32_t>(outputs.size())) text += "another number of outputs; ";
    return text;
}

class Contract : public TensorRTPlugins {
protected:
    IPluginV3OneBuild* prune_with_one_payload() {
        Attributes attributes;
        attributes.token_axes = {1};
        return build(prune(attributes));
    }
};

TEST_F(Contract, CreatorsAnnounceItsFields) {
    for (const auto& [name, table] : {std::pair{prune_contract::kName, rows(prune_contract::kAttributes)},
             std::pair{merge_contract::kName, rows(merge_contract::kAttributes)}}) {
        IPluginCreatorV3One* found = creator(name);
        ASSERT_NE(found, nullptr);
        EXPECT_STREQ(found->getPluginNamespace(), luvc::contract::kNamespace);
        EXPECT_STREQ(found->getPluginVersion(), luvc::contract::kVersion);
        EXPECT_EQ(differences(*found->getFieldNames(), table), "");
    }
}

TEST_F(Contract, EveryFieldIsRead) {
    const Attributes attributes;
    const std::vector<PluginField> fields = attributes.fields();
    for (const Attribute& attribute : prune_contract::kAttributes) {
        std::vector<PluginField> fewer;
        std::copy_if(fields.begin(), fields.end(), std::back_inserter(fewer),
            [&](const PluginField& field) { return std::string(field.name) != attribute.name; });
        ASSERT_EQ(fewer.size() + 1, fields.size()) << attribute.name;
        IPluginV3* made = make(prune_contract::kName, {static_cast<int32_t>(fewer.size()), fewer.data()});
        EXPECT_EQ(made != nullptr, attribute.optional) << attribute.name;
    }
}

TEST_F(Contract, TypesAreTaken) {
    EXPECT_EQ(
        differences(prune_with_one_payload(), rows(prune_contract::kInputs), rows(prune_contract::kOutputs)), "");
    EXPECT_EQ(differences(build(merge(1, 1)), rows(merge_contract::kInputs), rows(merge_contract::kOutputs)), "");
}

TEST_F(Contract, DriftIsSeen) {
    const PluginFieldCollection& fields = *creator(prune_contract::kName)->getFieldNames();
    Table renamed = rows(prune_contract::kAttributes);
    renamed[0].name = "kept";
    EXPECT_EQ(differences(fields, renamed), "kept has another name; ");
    Table retyped = rows(prune_contract::kAttributes);
    retyped[2].kind = Kind::kInt;
    EXPECT_EQ(differences(fields, retyped), "epsilon has another type; ");
    Table longer = rows(prune_contract::kAttributes);
    longer.push_back({"rho", Kind::kFloat, false});
    EXPECT_EQ(differences(fields, longer), "another number of fields; ");

    Tensors outputs = rows(prune_contract::kOutputs);
    outputs[prune_contract::kIndices].types = luvc::contract::bit(LUVC_INT32);
    EXPECT_NE(differences(prune_with_one_payload(), rows(prune_contract::kInputs), outputs), "");
    Tensors fewer = rows(merge_contract::kOutputs);
    fewer.pop_back();
    EXPECT_EQ(
        differences(build(merge(1, 1)), rows(merge_contract::kInputs), fewer), "another number of outputs; ");
}

}  // namespace
