// The host reference against what the Python functions gave for the same inputs (cases/, written by make_cases.py).
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "case_file.h"
#include "merge_problem.h"
#include "prune_problem.h"

namespace luvc::test {
namespace {

std::vector<std::string> case_paths() {
    std::vector<std::string> paths;
    for (const auto& entry : std::filesystem::directory_iterator(LUVC_CASES)) {
        if (entry.path().extension() == ".bin") paths.push_back(entry.path().string());
    }
    std::sort(paths.begin(), paths.end());
    return paths;
}

// Python scores are float32 sums in another order.
float score_tolerance(float score) {
    return 2e-5f * std::fabs(score) + 2e-6f;
}

// Python's topk promises no order among equal scores, so only tokens clear of the K-th score are compared.
void expect_same_choice(const float* scores, int64_t tokens, const Indices& kept, const Indices& expected) {
    const auto keep = kept.size();
    ASSERT_EQ(keep, expected.size());
    if (keep == 0) return;
    Floats sorted;
    for (int64_t n = 0; n < tokens; ++n) {
        if (!std::isnan(scores[n])) sorted.push_back(scores[n]);
    }
    if (sorted.size() < static_cast<size_t>(tokens)) return;  // torch ranks NaN first, this library last
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    const float last = sorted[keep - 1];
    for (int64_t n = 0; n < tokens; ++n) {
        if (std::fabs(scores[n] - last) <= score_tolerance(last)) continue;
        const bool here = std::binary_search(kept.begin(), kept.end(), n);
        ASSERT_EQ(here, std::binary_search(expected.begin(), expected.end(), n)) << "token " << n;
    }
}

void check_prune(const CaseFile& file) {
    auto shape =
        prune_shape(file.integer("groups"), file.integer("tokens"), file.integer("channels"), 0, file.integer("keep"));
    shape.frequencies = file.integer("frequencies");
    shape.dtype = file.dtype("values");
    shape.weight_dtype = file.dtype("weight");
    shape.score = static_cast<luvc_score>(file.integer("score"));
    shape.epsilon = std::stof(file.keys.at("epsilon"));
    PruneProblem problem = random_prune(shape, 1);
    problem.values = file.bytes("values");
    problem.weight = file.bytes("weight");
    problem.basis = file.array<float>("basis");
    const PruneResult result = prune_on_host(problem);
    expect_consistent(problem, result);

    const Floats scores = file.array<float>("scores");
    for (size_t i = 0; i < scores.size(); ++i) {
        ASSERT_EQ(std::isnan(result.scores[i]), std::isnan(scores[i])) << "token " << i;
        if (std::isnan(scores[i]) || result.scores[i] == scores[i]) continue;
        ASSERT_NEAR(result.scores[i], scores[i], score_tolerance(scores[i])) << "token " << i;
    }
    const Indices kept = result.kept(shape.index_dtype);
    const Indices expected = file.array<int64_t>("kept");
    for (int64_t group = 0; group < shape.groups; ++group) {
        const auto part = [&](const Indices& all) {
            return Indices(all.begin() + group * shape.keep, all.begin() + (group + 1) * shape.keep);
        };
        expect_same_choice(scores.data() + group * shape.tokens, shape.tokens, part(kept), part(expected));
    }
}

void check_merge(const CaseFile& file) {
    const luvc_orthogonal_merge_shape shape{file.integer("batch"), file.integer("height"), file.integer("width"),
        file.integer("channels"), file.integer("position_planes"), file.integer("removed_columns"),
        file.integer("removed_rows"), file.dtype("values")};
    MergeProblem problem{shape, file.bytes("values"), file.array<float>("sizes"), file.array<float>("positions")};
    const MergeResult result = merge_on_host(problem);
    EXPECT_EQ(result.merged_into, file.array<int32_t>("merged_into"));
    EXPECT_EQ(result.sizes, file.array<float>("merged_sizes"));
    const Floats positions = file.array<float>("merged_positions");
    for (size_t i = 0; i < positions.size(); ++i) ASSERT_NEAR(result.positions[i], positions[i], 1e-5f);
    const Floats values = unpack(shape.dtype, result.values);
    const Floats expected = unpack(shape.dtype, file.bytes("merged_values"));
    ASSERT_EQ(values.size(), expected.size());
    // One step of the element type: sums of another order may round to the neighbour.
    const float step = shape.dtype == LUVC_FLOAT16 ? 0x1p-10f : shape.dtype == LUVC_BFLOAT16 ? 0x1p-7f : 1e-5f;
    for (size_t i = 0; i < values.size(); ++i) {
        ASSERT_NEAR(values[i], expected[i], step * std::fabs(expected[i]) + 1e-5f) << "element " << i;
    }
}

class PythonCases : public testing::TestWithParam<std::string> {};

TEST_P(PythonCases, HostAgrees) {
    const CaseFile file(GetParam());
    if (file.keys.at("function") == "spectrum_prune") {
        check_prune(file);
    } else {
        check_merge(file);
    }
}

INSTANTIATE_TEST_SUITE_P(All, PythonCases, testing::ValuesIn(case_paths()),
    [](const auto& info) { return std::filesystem::path(info.param).stem().string(); });

}  // namespace
}  // namespace luvc::test
