// The host reference against what the Python functions gave for the same inputs (cases/, written by make_cases.py).
#include <gtest/gtest.h>

#include <functional>

#include "cases.h"

namespace luvc::test {
namespace {

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
    PruneProblem problem = prune_of(file);
    const auto& shape = problem.shape;
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
    MergeProblem problem = merge_of(file);
    const auto& shape = problem.shape;
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
    if (is_prune(file)) {
        check_prune(file);
    } else {
        check_merge(file);
    }
}

INSTANTIATE_TEST_SUITE_P(All, PythonCases, testing::ValuesIn(case_paths()),
    [](const auto& info) { return std::filesystem::path(info.param).stem().string(); });

}  // namespace
}  // namespace luvc::test
