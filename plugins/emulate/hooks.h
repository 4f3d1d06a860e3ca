// The calls that -fsanitize=thread puts before every memory access of the kernels, answered by shadow.h instead of
// ThreadSanitizer: that one knows neither blocks nor barriers, nor which memory a kernel may touch.
#pragma once

#include <cstddef>

#include "emulate/shadow.h"

namespace luvc::emulate {

class Fiber;

namespace hooks {

// Of the running thread.
extern const Fiber* stack;
// Whether a kernel's own code runs, and not the emulation on its behalf.
extern bool in_kernel;

inline void enter_kernel() {
    in_kernel = true;
}

inline void leave_kernel() {
    in_kernel = false;
}

void check(const void* address, size_t bytes, Kind kind, const void* caller);

}  // namespace hooks

}  // namespace luvc::emulate
