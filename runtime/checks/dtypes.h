// Element types of tensors: their size, and their names in DLPack and safetensors.

#ifndef HIOS_CHECKS_DTYPES_H_
#define HIOS_CHECKS_DTYPES_H_

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace hios {

using Shape = std::vector<int64_t>;

struct ElementType {
  const char* name;
  uint8_t code;  // of DLPack
  int64_t bytes;
  const char* tag;  // of safetensors
};

constexpr size_t kAlignment = 64;  // of tensors: a cache line, and the widest vector of a CPU
constexpr int64_t kMaxExact = int64_t{1} << 53;  // what JSON holds exactly, and more than any memory

const ElementType* FindType(std::string_view name);
const ElementType* FindTypeByTag(std::string_view tag);

// The bytes of a tensor; throws `Error` for an unknown type, and for what no machine holds.
int64_t TensorBytes(const Shape& shape, std::string_view dtype);

// The product of numbers that are not negative, `most` where it is larger.
int64_t Product(const Shape& numbers, int64_t most);

}  // namespace hios

#endif  // HIOS_CHECKS_DTYPES_H_
