// From the tensors of a caller to those of a run: which shape it is of, and copies where rows are
// missing.

#ifndef HIOS_C_API_RUN_TENSORS_H_
#define HIOS_C_API_RUN_TENSORS_H_

#include "session.h"

namespace hios {

// Throws `Error` (HIOS_INPUT), whose message lists all that is wrong.
RunTensors AcceptTensors(const Artifact& artifact, const hios_tensor* inputs, size_t num_inputs,
                         const hios_tensor* outputs, size_t num_outputs);

// The shape of one of the model's tensors in a run of `rows` rows, where `full` is that of the
// program with `full_rows`, and `axis` that of the batch, or -1. With 0 rows it is `full`.
Shape ShapeOfRows(const Shape& full, int64_t axis, int64_t rows, int64_t full_rows);

// The axis of a batch in tensor `name`, or -1.
int64_t BatchAxis(const Mapping<int64_t>& axes, std::string_view name);

// The rows of inputs of a program.
int64_t BatchRows(const Batch& batch, const Manifest& manifest);

// Copies a tensor to or from one that differs from it in the number of entries along `axis`. The last
// entry stands for those that the smaller one lacks.
void CopyRows(const char* from, const Shape& from_shape, char* to, const Shape& to_shape,
              size_t axis, size_t element_bytes);

// Throws `Error` (HIOS_INPUT) where values of a run, whose extremes `tensors` has, are not valid.
void CheckValues(const Manifest& manifest, TensorTable* tensors);

}  // namespace hios

#endif  // HIOS_C_API_RUN_TENSORS_H_
