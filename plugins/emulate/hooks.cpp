#include "emulate/hooks.h"

#include <cstring>

namespace luvc::emulate::hooks {

bool in_kernel = false;

namespace {

inline void seen(const void* address, size_t bytes, Kind kind, const void* caller) {
    if (in_kernel && bytes > 0) check(address, bytes, kind, caller);
}

}  // namespace

}  // namespace luvc::emulate::hooks

using luvc::emulate::Kind;
using luvc::emulate::hooks::seen;

#define LUVC_HOOK extern "C" __attribute__((visibility("default"))) void
#define LUVC_HOOK_BOTH(name, bytes)                                                                                    \
    LUVC_HOOK __tsan_read##name(const void* address) {                                                                 \
        seen(address, bytes, Kind::kRead, __builtin_return_address(0));                                                \
    }                                                                                                                  \
    LUVC_HOOK __tsan_write##name(void* address) {                                                                      \
        seen(address, bytes, Kind::kWrite, __builtin_return_address(0));                                               \
    }

LUVC_HOOK_BOTH(1, 1)
LUVC_HOOK_BOTH(2, 2)
LUVC_HOOK_BOTH(4, 4)
LUVC_HOOK_BOTH(8, 8)
LUVC_HOOK_BOTH(16, 16)

LUVC_HOOK __tsan_read_range(const void* address, size_t bytes) {
    seen(address, bytes, Kind::kRead, __builtin_return_address(0));
}
LUVC_HOOK __tsan_write_range(void* address, size_t bytes) {
    seen(address, bytes, Kind::kWrite, __builtin_return_address(0));
}
LUVC_HOOK __tsan_init() {}
LUVC_HOOK __tsan_func_entry(void*) {}
LUVC_HOOK __tsan_func_exit(void*) {}
LUVC_HOOK __tsan_vptr_update(void**, void*) {}
LUVC_HOOK __tsan_vptr_read(void**) {}
