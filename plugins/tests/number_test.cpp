#include "host/number.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace {

using luvc::host::BFloat16;
using luvc::host::from_float;
using luvc::host::Half;
using luvc::host::to_float;

template <typename T>
class Number : public testing::Test {};
using Narrow = testing::Types<Half, BFloat16>;
TYPED_TEST_SUITE(Number, Narrow);

TYPED_TEST(Number, EveryValueSurvivesTheRoundTrip) {
    for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
        const TypeParam value{static_cast<uint16_t>(bits)};
        const float wide = to_float(value);
        const TypeParam back = from_float<TypeParam>(wide);
        if (std::isnan(wide)) {
            ASSERT_TRUE(std::isnan(to_float(back)));
        } else {
            ASSERT_EQ(back.bits, value.bits);
        }
    }
}

TYPED_TEST(Number, RoundsToTheNearestAndHalfwayToEven) {
    for (uint32_t bits = 0; bits < 0x7f7f; ++bits) {
        const float low = to_float(TypeParam{static_cast<uint16_t>(bits)});
        const float high = to_float(TypeParam{static_cast<uint16_t>(bits + 1)});
        if (!std::isfinite(high)) break;
        const float middle = low + (high - low) / 2;
        ASSERT_EQ(from_float<TypeParam>(middle).bits, bits + bits % 2);
        ASSERT_EQ(from_float<TypeParam>(std::nextafter(middle, 0.0f)).bits, bits);
        ASSERT_EQ(from_float<TypeParam>(std::nextafter(middle, high)).bits, bits + 1);
    }
}

TEST(Half, OverflowsAtHalfAStepPastTheLargest) {
    EXPECT_EQ(from_float<Half>(65519.996f).bits, 0x7bff);
    EXPECT_EQ(from_float<Half>(65520.0f).bits, 0x7c00);
    EXPECT_EQ(from_float<Half>(-std::numeric_limits<float>::max()).bits, 0xfc00);
}

}  // namespace
