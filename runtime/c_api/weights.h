// Weights: the strict reader of safetensors files.

#ifndef HIOS_C_API_WEIGHTS_H_
#define HIOS_C_API_WEIGHTS_H_

#include <map>
#include <string>
#include <string_view>

#include "dtypes.h"
#include "memory.h"

namespace hios {

struct StoredTensor {
  Shape shape;
  std::string dtype;
  size_t start;  // in its memory
  size_t bytes;
};

using StoredTensors = std::map<std::string, StoredTensor, std::less<>>;

// The tensors that the bytes of a safetensors file describe. Throws `Error` (HIOS_ARTIFACT) unless
// they cover the rest of the file without holes and overlaps, each with as many bytes as its shape
// and dtype need.
StoredTensors ReadTensors(std::string_view file);

// Tensors in memory that nobody changes any more.
class Weights {
 public:
  Weights(Pages memory, StoredTensors tensors);

  const StoredTensors& tensors() const { return tensors_; }

  // Aligned for kernels. The weight must be there.
  char* address(std::string_view name) const { return addresses_.find(name)->second; }

 private:
  Pages memory_;
  Pages copies_;  // of tensors that are not aligned in the file: small ones, which come last
  StoredTensors tensors_;
  std::map<std::string, char*, std::less<>> addresses_;
};

}  // namespace hios

#endif  // HIOS_C_API_WEIGHTS_H_
