// The same bits whatever the order of threads and blocks.
#include <functional>

#include "tests/cases.h"
#include "tests/on_device.h"

namespace luvc::test {
namespace {

constexpr uint64_t kOrders = 20;

void expect_same(const PruneResult& left, const PruneResult& right) {
    ASSERT_EQ(left.scores.size(), right.scores.size());
    EXPECT_EQ(std::memcmp(left.scores.data(), right.scores.data(), left.scores.size() * sizeof(float)), 0);
    EXPECT_EQ(left.indices, right.indices);
    EXPECT_EQ(left.values, right.values);
    EXPECT_EQ(left.positions, right.positions);
    EXPECT_EQ(left.rotary, right.rotary);
}

void expect_same(const MergeResult& left, const MergeResult& right) {
    EXPECT_EQ(left.values, right.values);
    ASSERT_EQ(left.positions.size(), right.positions.size());
    EXPECT_EQ(std::memcmp(left.positions.data(), right.positions.data(), left.positions.size() * sizeof(float)), 0);
    EXPECT_EQ(left.sizes, right.sizes);
    EXPECT_EQ(left.merged_into, right.merged_into);
}

template <typename Run>
void expect_every_order_the_same(const Run& run) {
    luvc_emulate_order(0);
    const auto first = run();
    for (uint64_t order = 1; order <= kOrders; ++order) {
        SCOPED_TRACE(testing::Message() << "order " << order);
        luvc_emulate_order(order);
        expect_same(run(), first);
    }
    luvc_emulate_order(0);
}

void expect_every_order_the_same(PruneProblem problem) {
    expect_every_order_the_same([&] { return prune_on_device(problem, false); });
}

void expect_every_order_the_same(MergeProblem problem) {
    expect_every_order_the_same([&] { return merge_on_device(problem, false); });
}

class Orders : public testing::TestWithParam<std::string> {};

TEST_P(Orders, OfACase) {
    const CaseFile file(GetParam());
    if (is_prune(file)) {
        expect_every_order_the_same(prune_of(file));
    } else {
        expect_every_order_the_same(merge_of(file));
    }
}

INSTANTIATE_TEST_SUITE_P(All, Orders, testing::ValuesIn(case_paths()),
    [](const auto& info) { return std::filesystem::path(info.param).stem().string(); });

TEST(Orders, OfSizes) {
    for (luvc_dtype dtype : {LUVC_FLOAT32, LUVC_FLOAT16, LUVC_BFLOAT16}) {
        auto prune = prune_shape(2, 256, 72, 34, 100);
        auto merge = merge_shape(2, 15, 17, 40, 7, 6);
        prune.dtype = merge.dtype = dtype;
        expect_every_order_the_same(random_prune(prune, 1));
        expect_every_order_the_same(random_merge(merge, 1));
    }
    if (!LUVC_NIGHTLY) return;
    expect_every_order_the_same(random_prune(prune_shape(1, 4096, 64, 31, 1024), 1));
    expect_every_order_the_same(random_merge(merge_shape(1, 64, 64, 64, 16, 16), 1));
}

}  // namespace
}  // namespace luvc::test
