#include "sorting.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

namespace hios {
namespace {

constexpr char kNoSuchType[] = "tensors of this type cannot be sorted";
constexpr char kNoSuchArguments[] = "these are not its arguments";

// A half as a float, which has the same order.
float Widen(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  float value;
  if (exponent == 31) {
    const uint32_t wide = 0x7f800000u | static_cast<uint32_t>(fraction) << 13;
    std::memcpy(&value, &wide, sizeof(value));
  } else {
    value = static_cast<float>(exponent == 0 ? fraction : fraction + 1024);
    for (int i = exponent == 0 ? 1 : exponent; i < 25; ++i) value /= 2;
    for (int i = 25; i < exponent; ++i) value *= 2;
  }
  return bits >> 15 ? -value : value;
}

struct Half {
  uint16_t bits;

  bool operator<(Half other) const { return Widen(bits) < Widen(other.bits); }
};

// Calls `use` with a value of the element type of `tensor`, where it can be sorted.
template <typename Use>
const char* WithType(const DLTensor& tensor, Use use) {
  const int kind = 256 * tensor.dtype.code + tensor.dtype.bits;
  switch (kind) {
    case 256 * kDLFloat + 16: return use(Half());
    case 256 * kDLFloat + 32: return use(float());
    case 256 * kDLFloat + 64: return use(double());
    case 256 * kDLInt + 8: return use(int8_t());
    case 256 * kDLInt + 32: return use(int32_t());
    case 256 * kDLInt + 64: return use(int64_t());
    case 256 * kDLUInt + 8: return use(uint8_t());
    default: return kNoSuchType;
  }
}

// Sets element `place` of `tensor`, whose type indices may have, to `number`.
bool SetNumber(DLTensor* tensor, int64_t place, int64_t number) {
  const auto set = [&](auto element) -> const char* {
    using T = decltype(element);
    if constexpr (std::is_same_v<T, Half>) {
      return kNoSuchType;
    } else {
      static_cast<T*>(tensor->data)[place] = static_cast<T>(number);
      return nullptr;
    }
  };
  return WithType(*tensor, set) == nullptr;
}

struct Options {
  const DLTensor* data;
  int axis;
  bool ascending;
  int64_t kept;  // elements along the axis of the results
};

bool IsTensor(const TVMFFIAny& arg) { return arg.type_index == kTVMFFIDLTensorPtr; }

DLTensor* TensorOf(const TVMFFIAny& arg) { return static_cast<DLTensor*>(arg.v_ptr); }

bool ReadOptions(const TVMFFIAny& data, const TVMFFIAny& axis, const TVMFFIAny& ascending,
                 Options* options) {
  if (!IsTensor(data)) return false;
  options->data = TensorOf(data);
  const int64_t rank = options->data->ndim;
  const int64_t wanted = axis.v_int64 < 0 ? axis.v_int64 + rank : axis.v_int64;
  options->axis = static_cast<int>(wanted);
  options->ascending = ascending.v_int64 != 0;
  if (wanted < 0 || wanted >= rank) return false;
  options->kept = options->data->shape[wanted];
  return true;
}

// Sorts along the axis, and writes the first elements to `values` and their places to `places`; either
// may be nullptr.
const char* SortInto(const Options& options, DLTensor* values, DLTensor* places) {
  const DLTensor& data = *options.data;
  int64_t before = 1, after = 1;
  for (int i = 0; i < options.axis; ++i) before *= data.shape[i];
  for (int i = options.axis + 1; i < data.ndim; ++i) after *= data.shape[i];
  const int64_t length = data.shape[options.axis], kept = options.kept;
  return WithType(data, [&](auto element) -> const char* {
    using T = decltype(element);
    const T* elements = static_cast<const T*>(data.data);
    std::vector<std::pair<int64_t, T>> row;  // elements along the axis, with their places
    for (int64_t i = 0; i < before * after; ++i) {
      const int64_t block = i / after, column = i % after;
      row.clear();
      for (int64_t k = 0; k < length; ++k) {
        row.emplace_back(k, elements[(block * length + k) * after + column]);
      }
      std::stable_sort(row.begin(), row.end(), [&](const auto& a, const auto& b) {
        return options.ascending ? a.second < b.second : b.second < a.second;
      });
      for (int64_t k = 0; k < std::min(kept, length); ++k) {
        const auto& [place, value] = row[static_cast<size_t>(k)];
        const int64_t target = (block * kept + k) * after + column;
        if (values != nullptr) static_cast<T*>(values->data)[target] = value;
        if (places != nullptr && !SetNumber(places, target, place)) return kNoSuchType;
      }
    }
    return nullptr;
  });
}

}  // namespace

const char* ArgSort(const TVMFFIAny* args, int32_t num_args) {
  Options options;
  if (num_args != 4 || !IsTensor(args[1]) || !ReadOptions(args[0], args[2], args[3], &options)) {
    return kNoSuchArguments;
  }
  return SortInto(options, nullptr, TensorOf(args[1]));
}

const char* Sort(const TVMFFIAny* args, int32_t num_args) {
  Options options;
  if (num_args != 4 || !IsTensor(args[1]) || !ReadOptions(args[0], args[2], args[3], &options)) {
    return kNoSuchArguments;
  }
  return SortInto(options, TensorOf(args[1]), nullptr);
}

const char* TopK(const TVMFFIAny* args, int32_t num_args) {
  Options options;
  if (num_args < 6 || args[num_args - 2].type_index != kTVMFFIRawStr || !IsTensor(args[1]) ||
      !ReadOptions(args[0], args[num_args - 3], args[num_args - 1], &options)) {
    return kNoSuchArguments;
  }
  const std::string_view which = args[num_args - 2].v_c_str;
  const bool both = which == "both";
  if (both && (num_args != 7 || !IsTensor(args[2]))) return kNoSuchArguments;
  const int64_t wanted = args[num_args - 4].v_int64;
  if (wanted >= 1) options.kept = wanted;
  return SortInto(options, both || which == "values" ? TensorOf(args[1]) : nullptr,
                  both ? TensorOf(args[2]) : which == "indices" ? TensorOf(args[1]) : nullptr);
}

}  // namespace hios
