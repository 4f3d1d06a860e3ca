// Runs one prune or merge on the emulation and prints what luvc_emulate_counts counted.
//   luvc_counts prune G N D M K ELEMENT SCORE   |   luvc_counts merge B H W C COLUMNS ROWS ELEMENT
#include <cstdio>
#include <cstdlib>
#include <string>

#include "emulate/machine.h"
#include "on_device.h"

int main(int count, char** arguments) {
    using namespace luvc::test;
    const auto number = [&](int place) { return std::atoll(arguments[place]); };
    if (count != 9) return 2;
    const luvc_dtype dtype = number(count - 1 - (std::string(arguments[1]) == "prune" ? 1 : 0)) == 2 ? LUVC_FLOAT16 : LUVC_FLOAT32;
    if (std::string(arguments[1]) == "prune") {
        auto shape = prune_shape(number(2), number(3), number(4), (number(5) - 1) / 2, number(6));
        shape.dtype = shape.weight_dtype = dtype;
        shape.score = static_cast<luvc_score>(number(8));
        PruneProblem problem = random_prune(shape, 1);
        prune_on_device(problem, false);
    } else {
        auto shape = merge_shape(number(2), number(3), number(4), number(5), number(6), number(7));
        shape.dtype = dtype;
        MergeProblem problem = random_merge(shape, 1);
        merge_on_device(problem, false);
    }
    const std::string fault = luvc_emulate_fault();
    if (!fault.empty()) return std::puts(fault.c_str()), 1;
    std::fputs(luvc_emulate_counts(), stdout);
    return 0;
}
