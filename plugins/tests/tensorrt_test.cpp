// The plugins' shapes, types, messages and serialisation, without TensorRT and without a GPU.
#include "tensorrt_library.h"

using namespace luvc::testing;

namespace {

TEST_F(TensorRTPlugins, CreatorsNameThemselves) {
    for (const char* name : {"SpectrumPrune", "OrthogonalMerge"}) {
        IPluginCreatorV3One* found = creator(name);
        ASSERT_NE(found, nullptr);
        EXPECT_STREQ(found->getPluginNamespace(), "luvc");
        EXPECT_STREQ(found->getPluginVersion(), "1");
        EXPECT_GT(found->getFieldNames()->nbFields, 0);
    }
}

TEST_F(TensorRTPlugins, PruneInfersShapesAndTypes) {
    IPluginV3* plugin = prune({});
    ASSERT_NE(plugin, nullptr) << messages_.text;
    Builder builder;
    const std::vector<DimsExprs> inputs{builder.dims({2, 16, 8}), builder.dims({8}), builder.dims({16, 5}),
        builder.dims({3, 2, 16}), builder.dims({2, 16, 6})};
    DimsExprs outputs[4]{};
    ASSERT_EQ(build(plugin)->getOutputShapes(inputs.data(), 5, nullptr, 0, outputs, 4, builder), 0);
    EXPECT_EQ(extents(outputs[0]), (std::vector<int64_t>{2, 4, 8}));
    EXPECT_EQ(extents(outputs[1]), (std::vector<int64_t>{2, 4}));
    EXPECT_EQ(extents(outputs[2]), (std::vector<int64_t>{3, 2, 4}));
    EXPECT_EQ(extents(outputs[3]), (std::vector<int64_t>{2, 4, 6}));
    const DataType given[] = {DataType::kHALF, DataType::kHALF, DataType::kFLOAT, DataType::kFLOAT, DataType::kBF16};
    DataType types[4];
    ASSERT_EQ(build(plugin)->getOutputDataTypes(types, 4, given, 5), 0);
    EXPECT_EQ(types[0], DataType::kHALF);
    EXPECT_EQ(types[1], DataType::kINT64);
    EXPECT_EQ(types[3], DataType::kBF16);
}

TEST_F(TensorRTPlugins, PruneTakesLinearFloatsOnly) {
    IPluginV3OneBuild* plugin = build(prune({}));
    std::vector<nvinfer1::DynamicPluginTensorDesc> tensors(9);
    const DataType types[] = {DataType::kBF16, DataType::kFLOAT, DataType::kFLOAT, DataType::kFLOAT, DataType::kHALF,
        DataType::kBF16, DataType::kINT64, DataType::kFLOAT, DataType::kHALF};
    for (size_t i = 0; i < tensors.size(); ++i) tensors[i].desc.type = types[i];
    const auto supports = [&](int32_t place) { return plugin->supportsFormatCombination(place, tensors.data(), 5, 4); };
    for (int32_t place = 0; place < 9; ++place) EXPECT_TRUE(supports(place)) << place;
    tensors[5].desc.type = DataType::kHALF;
    EXPECT_FALSE(supports(5));
    tensors[2].desc.type = DataType::kHALF;
    EXPECT_FALSE(supports(2));
    tensors[0].desc.format = nvinfer1::TensorFormat::kCHW32;
    EXPECT_FALSE(supports(0));
}

TEST_F(TensorRTPlugins, FieldsSurviveSerialisation) {
    Attributes attributes;
    attributes.keep = 7;
    attributes.score = "ratio";
    IPluginV3* first = prune(attributes);
    ASSERT_NE(first, nullptr) << messages_.text;
    const PluginFieldCollection* saved = run(first)->getFieldsToSerialize();
    IPluginV3* second = make("SpectrumPrune", *saved);
    ASSERT_NE(second, nullptr) << messages_.text;
    const PluginFieldCollection* again = run(second)->getFieldsToSerialize();
    ASSERT_EQ(again->nbFields, saved->nbFields);
    for (int32_t i = 0; i < saved->nbFields; ++i) {
        const PluginField& left = saved->fields[i];
        const PluginField& right = again->fields[i];
        EXPECT_STREQ(left.name, right.name);
        ASSERT_EQ(left.length, right.length);
        const size_t width = left.type == PluginFieldType::kCHAR ? 1 : 4;
        EXPECT_EQ(std::string(static_cast<const char*>(left.data), width * static_cast<size_t>(left.length)),
            std::string(static_cast<const char*>(right.data), width * static_cast<size_t>(right.length)));
    }
}

TEST_F(TensorRTPlugins, CloneOutlivesItsOriginal) {
    plugins_.emplace_back(prune({})->clone());
    plugins_.erase(plugins_.begin());
    EXPECT_EQ(build(plugins_.front().get())->getNbOutputs(), 4);
    EXPECT_EQ(run(plugins_.front().get())->getFieldsToSerialize()->nbFields, 6);
}

TEST_F(TensorRTPlugins, PruneSaysWhatIsWrong) {
    const auto message_of = [&](auto change) {
        Attributes attributes;
        change(attributes);
        messages_.text.clear();
        EXPECT_EQ(prune(attributes), nullptr);
        return messages_.text;
    };
    EXPECT_NE(message_of([](auto& a) { a.score = "high"; }).find("score is 'high', expected low, residual or ratio"),
        std::string::npos);
    EXPECT_NE(message_of([](auto& a) { a.keep = -1; }).find("a dimension is out of range"), std::string::npos);
    EXPECT_NE(message_of([](auto& a) { a.epsilon = -1; }).find("epsilon must be finite"), std::string::npos);
    EXPECT_NE(message_of([](auto& a) { a.token_axes = {0}; }).find("a token axis is 0"), std::string::npos);
    for (int32_t payload : {-2, 2}) {
        EXPECT_NE(message_of([=](auto& a) { a.padding_payload = payload; }).find("expected -1 or the place of one of 2"),
            std::string::npos);
    }
    EXPECT_NE(message_of([](auto& a) { a.version = 2; }).find("is 2, this library reads 1..1"), std::string::npos);
    const PluginFieldCollection nothing{0, nullptr};
    EXPECT_EQ(make("SpectrumPrune", nothing), nullptr);
    EXPECT_NE(messages_.text.find("attribute 'keep' is missing"), std::string::npos);
}

TEST_F(TensorRTPlugins, PruneRefusesToKeepMoreThanThereIs) {
    IPluginV3* plugin = prune({});
    Builder builder;
    const std::vector<DimsExprs> inputs{builder.dims({2, 3, 8}), builder.dims({8}), builder.dims({3, 1}),
        builder.dims({3, 2, 3}), builder.dims({2, 3, 6})};
    DimsExprs outputs[4]{};
    EXPECT_NE(build(plugin)->getOutputShapes(inputs.data(), 5, nullptr, 0, outputs, 4, builder), 0);
    EXPECT_NE(messages_.text.find("keep is 4 of 3 tokens"), std::string::npos);
}

TEST_F(TensorRTPlugins, PaddingIsMarkedByOneInt64PayloadWithANumberAToken) {
    Attributes attributes;
    attributes.padding_payload = 1;
    attributes.token_axes = {1, 1};
    IPluginV3* plugin = prune(attributes);
    ASSERT_NE(plugin, nullptr) << messages_.text;
    nvinfer1::DynamicPluginTensorDesc types[9]{};
    for (const auto& [type, taken] : {std::pair{nvinfer1::DataType::kINT64, true}, {nvinfer1::DataType::kFLOAT, false}}) {
        types[4].desc.type = type;
        EXPECT_EQ(build(plugin)->supportsFormatCombination(4, types, 5, 4), taken);
    }
    nvinfer1::PluginTensorDesc inputs[5]{};
    inputs[0].dims = {3, {2, 6, 8}};
    inputs[1].dims = {1, {8}};
    inputs[2].dims = {2, {6, 3}};
    inputs[3].dims = inputs[4].dims = {3, {2, 6, 1}};
    EXPECT_EQ(run(plugin)->onShapeChange(inputs, 5, nullptr, 0), 0) << messages_.text;
    inputs[4].dims.d[2] = 2;
    EXPECT_NE(run(plugin)->onShapeChange(inputs, 5, nullptr, 0), 0);
    EXPECT_NE(messages_.text.find("payload 1, which marks padding, must have one number a token"), std::string::npos);
}

TEST_F(TensorRTPlugins, PaddedIsZeroOrOne) {
    const int32_t removed = 1;
    for (int32_t value : {-1, 0, 1, 2}) {
        PluginField fields[] = {{"removed_columns", &removed, PluginFieldType::kINT32, 1},
            {"removed_rows", &removed, PluginFieldType::kINT32, 1}, {"padded", &value, PluginFieldType::kINT32, 1}};
        EXPECT_EQ(make("OrthogonalMerge", {3, fields}) != nullptr, value == 0 || value == 1) << value;
    }
}

TEST_F(TensorRTPlugins, MergeInfersShapes) {
    IPluginV3* plugin = merge(3, 2);
    ASSERT_NE(plugin, nullptr) << messages_.text;
    Builder builder;
    const std::vector<DimsExprs> inputs{
        builder.dims({1, 8, 10, 32}), builder.dims({1, 8, 10}), builder.dims({1, 8, 10, 2})};
    DimsExprs outputs[4]{};
    ASSERT_EQ(build(plugin)->getOutputShapes(inputs.data(), 3, nullptr, 0, outputs, 4, builder), 0);
    EXPECT_EQ(extents(outputs[0]), (std::vector<int64_t>{1, 6, 7, 32}));
    EXPECT_EQ(extents(outputs[1]), (std::vector<int64_t>{1, 6, 7}));
    EXPECT_EQ(extents(outputs[2]), (std::vector<int64_t>{1, 6, 7, 2}));
    EXPECT_EQ(extents(outputs[3]), (std::vector<int64_t>{1, 8, 10}));
}

TEST_F(TensorRTPlugins, MergeChecksShapesAtRunTime) {
    IPluginV3* plugin = merge(3, 2);
    nvinfer1::PluginTensorDesc inputs[3]{};
    inputs[0].dims = {4, {1, 8, 10, 32}};
    inputs[1].dims = {3, {1, 8, 10}};
    inputs[2].dims = {4, {1, 8, 10, 2}};
    EXPECT_EQ(run(plugin)->onShapeChange(inputs, 3, nullptr, 0), 0) << messages_.text;
    inputs[0].dims.d[2] = inputs[1].dims.d[2] = inputs[2].dims.d[2] = 5;
    EXPECT_NE(run(plugin)->onShapeChange(inputs, 3, nullptr, 0), 0);
    EXPECT_NE(messages_.text.find("removed_columns must lie in 0..width/2"), std::string::npos);
    inputs[1].dims.d[1] = 7;
    EXPECT_NE(run(plugin)->onShapeChange(inputs, 3, nullptr, 0), 0);
    EXPECT_NE(messages_.text.find("differ at axis 1"), std::string::npos);
    EXPECT_EQ(merge(-1, 0), nullptr);
}

TEST_F(TensorRTPlugins, WorkspaceIsReportedForTheLargestShape) {
    IPluginV3* plugin = merge(3, 2);
    nvinfer1::DynamicPluginTensorDesc inputs[3]{};
    inputs[0].max = {4, {1, 8, 10, 32}};
    inputs[2].max = {4, {1, 8, 10, 2}};
    EXPECT_GT(build(plugin)->getWorkspaceSize(inputs, 3, nullptr, 4), size_t{8 * 7 * 32 * 4});
}

}  // namespace
