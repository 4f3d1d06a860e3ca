// Raw storage of a given element type, filled from floats and read back as floats.
#pragma once

#include <cstddef>
#include <cstring>
#include <vector>

#include "common/dtype.h"
#include "host/number.h"

namespace luvc::test {

using Bytes = std::vector<std::byte>;

inline Bytes pack(luvc_dtype dtype, const std::vector<float>& values) {
    Bytes bytes(values.size() * static_cast<size_t>(bytes_of(dtype)));
    host::with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        for (size_t i = 0; i < values.size(); ++i) {
            const T value = host::from_float<T>(values[i]);
            std::memcpy(bytes.data() + i * sizeof(T), &value, sizeof(T));
        }
        return LUVC_OK;
    });
    return bytes;
}

inline std::vector<float> unpack(luvc_dtype dtype, const Bytes& bytes) {
    std::vector<float> values(bytes.size() / static_cast<size_t>(bytes_of(dtype)));
    host::with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        for (size_t i = 0; i < values.size(); ++i) {
            T value;
            std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
            values[i] = host::to_float(value);
        }
        return LUVC_OK;
    });
    return values;
}

inline const char* dtype_name(luvc_dtype dtype) {
    return dtype == LUVC_FLOAT16 ? "float16" : dtype == LUVC_BFLOAT16 ? "bfloat16" : "float32";
}

}  // namespace luvc::test
