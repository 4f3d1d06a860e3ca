// The problems saved in cases/.
#pragma once

#include <algorithm>
#include <filesystem>

#include "case_file.h"
#include "merge_problem.h"
#include "prune_problem.h"

namespace luvc::test {

inline std::vector<std::string> case_paths() {
    std::vector<std::string> paths;
    for (const auto& entry : std::filesystem::directory_iterator(LUVC_CASES)) {
        if (entry.path().extension() == ".bin") paths.push_back(entry.path().string());
    }
    std::sort(paths.begin(), paths.end());
    return paths;
}

inline bool is_prune(const CaseFile& file) {
    return file.keys.at("function") == "spectrum_prune";
}

inline PruneProblem prune_of(const CaseFile& file) {
    auto shape =
        prune_shape(file.integer("groups"), file.integer("tokens"), file.integer("channels"), 0, file.integer("keep"));
    shape.frequencies = file.integer("frequencies");
    shape.dtype = file.dtype("values");
    shape.weight_dtype = file.dtype("weight");
    shape.score = static_cast<luvc_score>(file.integer("score"));
    shape.epsilon = std::stof(file.keys.at("epsilon"));
    PruneProblem problem = random_prune(shape, 1);
    problem.values = file.bytes("values");
    problem.weight = file.bytes("weight");
    problem.basis = file.array<float>("basis");
    if (file.keys.count("padded") != 0) problem.places = file.array<int64_t>("places");
    return problem;
}

inline MergeProblem merge_of(const CaseFile& file) {
    const luvc_orthogonal_merge_shape shape{file.integer("batch"), file.integer("height"), file.integer("width"),
        file.integer("channels"), file.integer("position_planes"), file.integer("removed_columns"),
        file.integer("removed_rows"), file.dtype("values"),
        file.keys.count("padded") != 0 ? static_cast<int32_t>(file.integer("padded")) : 0};
    return {shape, file.bytes("values"), file.array<float>("sizes"), file.array<float>("positions")};
}

}  // namespace luvc::test
