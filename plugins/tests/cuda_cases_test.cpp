// What the Python functions gave for the saved inputs, through the kernels: the host agrees with Python (cases_test.cpp),
// and they with the host.
#include "cases.h"
#include "on_device.h"

namespace luvc::test {
namespace {

class CudaCases : public GpuTest, public testing::WithParamInterface<std::string> {};

TEST_P(CudaCases, EqualTheHost) {
    const CaseFile file(GetParam());
    for (const bool captured : {false, true}) {
        if (is_prune(file)) {
            PruneProblem problem = prune_of(file);
            expect_equal_to_host(problem, captured);
        } else {
            MergeProblem problem = merge_of(file);
            expect_equal_to_host(problem, captured);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(All, CudaCases, testing::ValuesIn(case_paths()),
    [](const auto& info) { return std::filesystem::path(info.param).stem().string(); });

}  // namespace
}  // namespace luvc::test
