// What the plugins read and write. Made by plugins/make_contract.py from luvc_export/core/operators.json: change that.
#pragma once

#include <array>

#include "luvc/abi.h"

namespace luvc::contract {

// An ONNX attribute kind; TensorRT's parser hands kInt and kInts over as int32, kString as characters.
enum class Kind { kInt, kInts, kFloat, kString };

struct Attribute {
    const char* name;
    Kind kind;
    bool optional;
};

// `types` has the bit of every luvc_dtype it may be of. `like` is the input whose type it has, -1 for none. A payload
// has a rank of its own and may be there any number of times.
struct Tensor {
    const char* name;
    int rank;
    unsigned types;
    int like;
    bool payload;
};

constexpr unsigned bit(luvc_dtype dtype) {
    return 1u << dtype;
}
constexpr unsigned kFloats = bit(LUVC_FLOAT32) | bit(LUVC_FLOAT16) | bit(LUVC_BFLOAT16);
constexpr unsigned kAny = kFloats | bit(LUVC_INT32) | bit(LUVC_INT64);

constexpr char kNamespace[] = "luvc";
constexpr char kVersion[] = "1";
constexpr int kMaxPayloads = 7;
constexpr std::array<const char*, 3> kScores{"low", "residual", "ratio"};  // by luvc_score

namespace spectrum_prune {

constexpr char kName[] = "SpectrumPrune";
enum Input { kValues, kNormWeight, kBasis, kFirstPayload };
constexpr std::array<Tensor, 4> kInputs{{
    {"values", 3, kFloats, -1, false},
    {"norm_weight", 1, kFloats, -1, false},
    {"basis", 2, bit(LUVC_FLOAT32), -1, false},
    {"payload", 0, kAny, -1, true}}};
enum Output { kKeptValues, kIndices, kFirstKeptPayload };
constexpr std::array<Tensor, 3> kOutputs{{
    {"kept_values", 3, kFloats, 0, false},
    {"indices", 2, bit(LUVC_INT64), -1, false},
    {"kept_payload", 0, kAny, 3, true}}};
constexpr char kKeepField[] = "keep";
constexpr char kScoreField[] = "score";
constexpr char kEpsilonField[] = "epsilon";
constexpr char kTokenAxesField[] = "token_axes";
constexpr char kPaddingPayloadField[] = "padding_payload";
constexpr std::array<Attribute, 5> kAttributes{{
    {kKeepField, Kind::kInt, false},
    {kScoreField, Kind::kString, false},
    {kEpsilonField, Kind::kFloat, false},
    {kTokenAxesField, Kind::kInts, true},
    {kPaddingPayloadField, Kind::kInt, true}}};

}  // namespace spectrum_prune

namespace orthogonal_merge {

constexpr char kName[] = "OrthogonalMerge";
enum Input { kValues, kSizes, kPositions };
constexpr std::array<Tensor, 3> kInputs{{
    {"values", 4, kFloats, -1, false},
    {"sizes", 3, bit(LUVC_FLOAT32), -1, false},
    {"positions", 4, bit(LUVC_FLOAT32), -1, false}}};
enum Output { kMergedValues, kMergedSizes, kMergedPositions, kMergedInto };
constexpr std::array<Tensor, 4> kOutputs{{
    {"merged_values", 4, kFloats, 0, false},
    {"merged_sizes", 3, bit(LUVC_FLOAT32), -1, false},
    {"merged_positions", 4, bit(LUVC_FLOAT32), -1, false},
    {"merged_into", 3, bit(LUVC_INT32), -1, false}}};
constexpr char kRemovedColumnsField[] = "removed_columns";
constexpr char kRemovedRowsField[] = "removed_rows";
constexpr char kPaddedField[] = "padded";
constexpr std::array<Attribute, 3> kAttributes{{
    {kRemovedColumnsField, Kind::kInt, false},
    {kRemovedRowsField, Kind::kInt, false},
    {kPaddedField, Kind::kInt, true}}};

}  // namespace orthogonal_merge

}  // namespace luvc::contract
