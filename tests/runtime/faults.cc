// Kernels that misbehave, for tests. Arguments: one input, one output, both float32.

#include <dlpack/dlpack.h>
#include <time.h>
#include <tvm/ffi/c_api.h>

#include <cstring>

static const float* Input(const TVMFFIAny* args) {
  return static_cast<const float*>(static_cast<DLTensor*>(args[0].v_ptr)->data);
}

static void CopyInput(const TVMFFIAny* args) {
  const auto* source = static_cast<DLTensor*>(args[0].v_ptr);
  const auto* target = static_cast<DLTensor*>(args[1].v_ptr);
  std::memcpy(target->data, source->data, 4 * source->shape[0]);
}

// Sleeps for as many seconds as the first number says, then copies.
extern "C" int __tvm_ffi_sleep(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  const double seconds = Input(args)[0];
  timespec time{static_cast<time_t>(seconds), 0};
  time.tv_nsec = static_cast<long>((seconds - static_cast<double>(time.tv_sec)) * 1e9);
  while (nanosleep(&time, &time) != 0) {  // a signal came
  }
  CopyInput(args);
  return 0;
}

// Raises if the second number is negative, else copies.
extern "C" int __tvm_ffi_check(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  if (Input(args)[1] < 0) {
    TVMFFIErrorSetRaisedFromCStr("ValueError", "the second number is negative");
    return -1;
  }
  CopyInput(args);
  return 0;
}
