// Reads what make_cases.py writes.
#pragma once

#include <cstddef>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "typed.h"

namespace luvc::test {

struct CaseFile {
    std::map<std::string, std::string> keys;
    std::map<std::string, std::pair<std::string, Bytes>> tensors;

    explicit CaseFile(const std::string& path) {
        std::ifstream file(path, std::ios::binary);
        if (!file) throw std::runtime_error("cannot open " + path);
        std::vector<std::string> order;
        for (std::string line; std::getline(file, line) && !line.empty();) {
            std::istringstream words(line);
            std::string key, name, dtype;
            size_t bytes = 0;
            words >> key;
            if (key == "tensor") {
                words >> name >> dtype >> bytes;
                tensors[name] = {dtype, Bytes(bytes)};
                order.push_back(name);
            } else {
                words >> keys[key];
            }
        }
        for (const std::string& name : order) {
            Bytes& bytes = tensors.at(name).second;
            file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
        }
        if (!file || file.peek() != std::ifstream::traits_type::eof()) throw std::runtime_error("wrong size: " + path);
    }

    int64_t integer(const std::string& key) const { return std::stoll(keys.at(key)); }
    const Bytes& bytes(const std::string& name) const { return tensors.at(name).second; }
    luvc_dtype dtype(const std::string& name) const {
        const std::string& text = tensors.at(name).first;
        return text == "float16" ? LUVC_FLOAT16 : text == "bfloat16" ? LUVC_BFLOAT16 : LUVC_FLOAT32;
    }
    template <typename T>
    std::vector<T> array(const std::string& name) const {
        const Bytes& raw = bytes(name);
        std::vector<T> values(raw.size() / sizeof(T));
        if (!raw.empty()) std::memcpy(values.data(), raw.data(), raw.size());
        return values;
    }
};

}  // namespace luvc::test
