// The functions of TVM that kernels call. They are few, so that TVM's libraries (7 MB) are not needed:
// errors, temporary memory, barriers in parallel loops, and sorting.

#ifndef HIOS_C_API_TVM_FUNCTIONS_H_
#define HIOS_C_API_TVM_FUNCTIONS_H_

#include <string>

namespace hios {

// Lets the kernels of a library call these functions. `find` returns a symbol of the library, or
// nullptr. Kernels call some through pointers of theirs, which have the functions' names behind "__".
void ProvideTvmFunctions(void* (*find)(void* library, const char* name), void* library);

// The error that a kernel has just raised in this thread, as `kind: message`.
std::string TakeRaisedMessage();

}  // namespace hios

#endif  // HIOS_C_API_TVM_FUNCTIONS_H_
