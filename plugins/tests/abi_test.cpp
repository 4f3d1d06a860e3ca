#include <gtest/gtest.h>

#include <set>
#include <string>

#include "luvc/spectrum_prune.h"

namespace {

TEST(Abi, VersionIsMajorAndMinor) {
    EXPECT_EQ(luvc_abi_version(), uint32_t{LUVC_ABI_MAJOR} << 16 | LUVC_ABI_MINOR);
}

TEST(Abi, EveryStatusHasItsOwnText) {
    std::set<std::string> texts;
    for (int32_t status = LUVC_OK; status <= LUVC_CUDA_ERROR; ++status) texts.insert(luvc_status_string(status));
    EXPECT_EQ(texts.size(), static_cast<size_t>(LUVC_CUDA_ERROR) + 1);
    EXPECT_EQ(texts.count("unknown status"), 0u);
    EXPECT_STREQ(luvc_status_string(-1), "unknown status");
    EXPECT_STREQ(luvc_status_string(LUVC_INVALID_KEEP), "keep must lie in 0..tokens");
}

TEST(Abi, CudaFunctionsSayWhenTheyAreAbsent) {
    if (luvc_has_cuda() != 0) GTEST_SKIP() << "this build has CUDA kernels";
    EXPECT_EQ(luvc_select_top_k_cuda(nullptr, 1, 1, 1, LUVC_INT32, nullptr, nullptr), LUVC_NO_CUDA);
    luvc_spectrum_prune_shape shape{1, 4, 4, 1, 2, LUVC_FLOAT32, LUVC_FLOAT32, LUVC_INT32, LUVC_SCORE_LOW, 0};
    size_t bytes = 0;
    EXPECT_EQ(luvc_spectrum_prune_workspace(&shape, LUVC_CUDA, &bytes), LUVC_NO_CUDA);
}

}  // namespace
