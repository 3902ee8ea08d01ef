#include "dtypes.h"

#include <algorithm>
#include <string>

#include "error.h"

namespace hios {
namespace {

constexpr size_t kMaxRank = 32;
constexpr uint8_t kInt = 0, kUint = 1, kFloat = 2, kBfloat = 4, kBool = 6, kFloat8 = 14;

constexpr ElementType kTypes[] = {
    {"bool", kBool, 1, "BOOL"},
    {"int8", kInt, 1, "I8"},
    {"int16", kInt, 2, "I16"},
    {"int32", kInt, 4, "I32"},
    {"int64", kInt, 8, "I64"},
    {"uint8", kUint, 1, "U8"},
    {"uint16", kUint, 2, "U16"},
    {"uint32", kUint, 4, "U32"},
    {"uint64", kUint, 8, "U64"},
    {"float16", kFloat, 2, "F16"},
    {"float32", kFloat, 4, "F32"},
    {"float64", kFloat, 8, "F64"},
    {"bfloat16", kBfloat, 2, "BF16"},
    {"float8_e8m0fnu", kFloat8, 1, "F8_E8M0"},
};

}  // namespace

const ElementType* FindType(std::string_view name) {
  for (const ElementType& type : kTypes) {
    if (name == type.name) return &type;
  }
  return nullptr;
}

const ElementType* FindTypeByTag(std::string_view tag) {
  for (const ElementType& type : kTypes) {
    if (tag == type.tag) return &type;
  }
  return nullptr;
}

int64_t Product(const Shape& numbers, int64_t most) {
  int64_t product = 1;
  for (const int64_t number : numbers) {
    if (number == 0) return 0;
    product = product > most / number ? most : product * number;
  }
  return product;
}

int64_t TensorBytes(const Shape& shape, std::string_view dtype) {
  const ElementType* type = FindType(dtype);
  Require(type != nullptr, [&] { return "dtype " + Quoted(dtype) + " is unknown"; });
  Require(shape.size() <= kMaxRank, [&] {
    return "a tensor has " + std::to_string(shape.size()) + " dimensions, more than " +
           std::to_string(kMaxRank);
  });
  const int64_t elements = Product(shape, 2 * kMaxExact);
  Require(elements <= kMaxExact / type->bytes, [&] {
    std::string sizes;
    for (const int64_t size : shape) sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
    return "a tensor has the shape [" + sizes + "], which no memory holds";
  });
  return elements * type->bytes;
}

}  // namespace hios
