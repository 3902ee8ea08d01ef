// The tensors that kernels see.

#ifndef HIOS_C_API_TENSOR_TABLE_H_
#define HIOS_C_API_TENSOR_TABLE_H_

#include <dlpack/dlpack.h>

#include <deque>
#include <map>
#include <string>
#include <string_view>

#include "dtypes.h"

namespace hios {

// One DLTensor for each name; kernels' arguments point to them. The address of a tensor may change
// between runs, everything else is fixed.
class TensorTable {
 public:
  void Add(const std::string& name, const Shape& shape, std::string_view dtype) {
    const auto rank = shape.size();
    Shape& numbers = numbers_.emplace_back(shape);  // and strides
    numbers.resize(2 * rank);
    int64_t stride = 1;
    for (size_t i = rank; i-- > 0;) {
      numbers[rank + i] = stride;
      stride = Product({stride, shape[i]}, kMaxExact);
    }
    const ElementType& type = *FindType(dtype);
    DLTensor tensor{};
    tensor.device = {kDLCPU, 0};
    tensor.ndim = static_cast<int32_t>(rank);
    tensor.dtype = {type.code, static_cast<uint8_t>(8 * type.bytes), 1};
    tensor.shape = numbers.data();
    tensor.strides = numbers.data() + rank;
    tensors_[name] = tensor;
    bytes_[name] = static_cast<size_t>(TensorBytes(shape, dtype));
  }

  // Of a tensor that was added.
  DLTensor* tensor(const std::string& name) { return &tensors_.find(name)->second; }
  size_t bytes(const std::string& name) const { return bytes_.find(name)->second; }
  void Place(const std::string& name, void* address) { tensor(name)->data = address; }

 private:
  std::deque<Shape> numbers_;
  std::map<std::string, DLTensor> tensors_;
  std::map<std::string, size_t> bytes_;
};

}  // namespace hios

#endif  // HIOS_C_API_TENSOR_TABLE_H_
