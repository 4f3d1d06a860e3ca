// Fields of a damaged or hostile engine: refused with a message or understood, never a crash (run under sanitizers).
#include <limits>

#include "random.h"
#include "tensorrt_library.h"

using namespace luvc::testing;

namespace {

TEST_F(TensorRTPlugins, NullNamesAndDataAreRefused) {
    const PluginField nameless[] = {{nullptr, nullptr, PluginFieldType::kINT32, 1}};
    EXPECT_EQ(make("SpectrumPrune", {1, nameless}), nullptr);
    EXPECT_NE(messages_.text.find("attribute 'keep' is missing"), std::string::npos);
    const PluginField empty[] = {{"keep", nullptr, PluginFieldType::kINT32, 1}};
    EXPECT_EQ(make("SpectrumPrune", {1, empty}), nullptr);
    EXPECT_NE(messages_.text.find("has the wrong type or is empty"), std::string::npos);
    EXPECT_EQ(make("OrthogonalMerge", {1, nullptr}), nullptr);
    EXPECT_EQ(make("OrthogonalMerge", {-1, nullptr}), nullptr);
    EXPECT_EQ(creator("OrthogonalMerge")->createPlugin(nullptr, nullptr, nvinfer1::TensorRTPhase::kRUNTIME), nullptr);
}

TEST_F(TensorRTPlugins, RandomFieldsAreRefusedOrUnderstood) {
    const char* names[] = {"keep", "score", "epsilon", "token_axes", "serial_version", "removed_columns", "removed_rows",
        "padding_payload", "padded", "unknown", nullptr};
    luvc::test::Random random(7);
    int created = 0;
    for (int trial = 0; trial < 3000; ++trial) {
        // Each value fills its memory to the last byte, so that reading past it is seen.
        std::vector<std::vector<char>> values;
        std::vector<PluginField> fields;
        const bool prune = random.below(2) == 0;
        const auto add = [&](const char* name, PluginFieldType type, std::vector<char> bytes, int32_t length) {
            values.push_back(std::move(bytes));
            fields.emplace_back(name, values.back().data(), type, length);
        };
        const auto number = [&]() -> int32_t {
            return random.below(3) == 0 ? static_cast<int32_t>(random.next()) - (1 << 30)
                                        : static_cast<int32_t>(random.below(9)) - 1;
        };
        const auto bytes_of = [](const auto& value) {
            const auto* first = reinterpret_cast<const char*>(&value);
            return std::vector<char>(first, first + sizeof(value));
        };
        for (const char* name : names) {
            if (random.below(8) == 0) continue;
            const std::string text = name == nullptr ? "" : name;
            if (text == "score") {
                const char* scores[] = {"low", "residual", "ratio", "lo", "lowest", ""};
                const std::string score = scores[random.below(6)];
                add(name, PluginFieldType::kCHAR, {score.begin(), score.end()}, static_cast<int32_t>(score.size()));
            } else if (text == "epsilon") {
                const float choices[] = {1e-6f, 0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN()};
                add(name, PluginFieldType::kFLOAT32, bytes_of(choices[random.below(4)]), 1);
            } else if (text == "token_axes") {
                std::vector<char> axes;
                const auto count = static_cast<int32_t>(random.below(10));
                for (int32_t i = 0; i < count; ++i) {
                    for (char byte : bytes_of(number())) axes.push_back(byte);
                }
                add(name, PluginFieldType::kINT32, axes, random.below(9) == 0 ? -count : count);
            } else {
                add(name, random.below(9) == 0 ? PluginFieldType::kFLOAT64 : PluginFieldType::kINT32,
                    bytes_of(number()), 1);
            }
        }
        messages_.text.clear();
        const PluginFieldCollection list{static_cast<int32_t>(fields.size()), fields.data()};
        IPluginV3* plugin = make(prune ? "SpectrumPrune" : "OrthogonalMerge", list);
        if (plugin == nullptr) {
            EXPECT_NE(messages_.text.find("cannot create layer 'layer'"), std::string::npos);
        } else {
            ++created;
            EXPECT_NE(make(prune ? "SpectrumPrune" : "OrthogonalMerge", *run(plugin)->getFieldsToSerialize()), nullptr);
        }
        plugins_.clear();
    }
    EXPECT_GT(created, 15);
    EXPECT_LT(created, 2000);
}

}  // namespace
