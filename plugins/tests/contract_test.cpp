// What the generated contract says of the C ABI, checked when this is compiled.
#include "common/contract.h"

#include <gtest/gtest.h>

#include "luvc/orthogonal_merge.h"
#include "luvc/spectrum_prune.h"

static_assert(luvc::contract::kMaxPayloads == LUVC_MAX_PAYLOADS);
static_assert(luvc::contract::kScores.size() == LUVC_SCORE_RATIO + 1);

namespace {

TEST(Contract, ScoresAreInTheOrderOfTheAbi) {
    EXPECT_STREQ(luvc::contract::kScores[LUVC_SCORE_LOW], "low");
    EXPECT_STREQ(luvc::contract::kScores[LUVC_SCORE_RESIDUAL], "residual");
    EXPECT_STREQ(luvc::contract::kScores[LUVC_SCORE_RATIO], "ratio");
}

}  // namespace
