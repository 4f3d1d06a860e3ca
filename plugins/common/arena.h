// Cuts one workspace into aligned arrays. Without a base it only measures, so one function both sizes and places.
#pragma once

#include <cstddef>
#include <cstdint>

#include "luvc/abi.h"

namespace luvc {

class Arena {
public:
    explicit Arena(void* base = nullptr) noexcept : base_(static_cast<std::byte*>(base)) {}

    template <typename T>
    T* take(int64_t count) noexcept {
        std::byte* piece = base_ == nullptr ? nullptr : base_ + bytes_;
        const size_t wanted = static_cast<size_t>(count) * sizeof(T);
        constexpr size_t kMask = LUVC_WORKSPACE_ALIGNMENT - 1;
        bytes_ += (wanted + kMask) & ~kMask;
        return reinterpret_cast<T*>(piece);
    }

    size_t bytes() const noexcept { return bytes_; }

private:
    std::byte* base_;
    size_t bytes_ = 0;
};

inline luvc_status check_workspace(const void* workspace, size_t given, size_t needed) noexcept {
    if (given < needed) return LUVC_WORKSPACE_TOO_SMALL;
    if (needed > 0 && workspace == nullptr) return LUVC_NULL_POINTER;
    if (reinterpret_cast<uintptr_t>(workspace) % LUVC_WORKSPACE_ALIGNMENT != 0) return LUVC_WORKSPACE_MISALIGNED;
    return LUVC_OK;
}

}  // namespace luvc
