#include <limits>

#include "device.h"
#include "naive.h"
#include "random.h"

namespace luvc::test {
namespace {

using CudaSelect = GpuTest;

TEST_F(CudaSelect, EqualsAFullStableSort) {
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
    Random random(3);
    for (int64_t tokens : {1, 2, 255, 256, 257, 1024, 3840, 4095, 4097, 16384, 20000}) {
        for (int64_t distinct : {2, 50, 1 << 24}) {
            constexpr int64_t kGroups = 2;
            Floats scores(static_cast<size_t>(kGroups * tokens));
            for (float& score : scores) {
                const auto kind = random.below(50);
                score = kind == 0   ? kNan
                        : kind == 1 ? -std::numeric_limits<float>::infinity()
                        : kind == 2 ? -0.0f
                                    : static_cast<float>(random.below(distinct)) - static_cast<float>(distinct) / 2;
            }
            for (int64_t keep : {int64_t{0}, int64_t{1}, tokens / 4, tokens / 2, tokens - 1, tokens}) {
                Indices indices(static_cast<size_t>(kGroups * keep));
                DeviceArrays device;
                const auto* device_scores = static_cast<const float*>(device(scores));
                void* device_indices = device(indices);
                run_on_stream(false, [&](void* stream) {
                    return luvc_select_top_k_cuda(
                        device_scores, kGroups, tokens, keep, LUVC_INT64, device_indices, stream);
                });
                device.fetch();
                Indices expected;
                for (int64_t group = 0; group < kGroups; ++group) {
                    const Indices part = naive_top_k(scores.data() + group * tokens, tokens, keep);
                    expected.insert(expected.end(), part.begin(), part.end());
                }
                ASSERT_EQ(indices, expected) << "tokens " << tokens << " keep " << keep;
            }
        }
    }
}

}  // namespace
}  // namespace luvc::test
