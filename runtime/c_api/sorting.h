// Sorting as TVM's runtime does it (tvm.contrib.sort): stable, along one axis.

#ifndef HIOS_C_API_SORTING_H_
#define HIOS_C_API_SORTING_H_

#include <tvm/ffi/c_api.h>

namespace hios {

// Returns what is wrong with the arguments, or nullptr.
using SortFunction = const char* (*)(const TVMFFIAny* args, int32_t num_args);

const char* ArgSort(const TVMFFIAny* args, int32_t num_args);  // data, indices, axis, ascending
const char* Sort(const TVMFFIAny* args, int32_t num_args);     // data, sorted, axis, ascending
// data, values and indices or one of them, k (below 1: all), axis, which of the two, ascending
const char* TopK(const TVMFFIAny* args, int32_t num_args);

}  // namespace hios

#endif  // HIOS_C_API_SORTING_H_
