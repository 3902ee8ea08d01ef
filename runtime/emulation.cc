// Kernels that take time and, but for a short spin, no processor: they stand in for real ones, so
// that the executor can be timed on more devices than the machine has. Linked into no artifact.
//
// A tensor holds one number, the time at which it was written.

#include <sys/prctl.h>
#include <tvm/ffi/c_api.h>

#include <cerrno>

#include "events.h"

namespace hios {
namespace {

int64_t& Stamp(const TVMFFIAny& arg) {
  return *static_cast<int64_t*>(static_cast<DLTensor*>(arg.v_ptr)->data);
}

constexpr int64_t kSpinNs = 100'000;  // a virtual machine wakes a sleeper about so late

void SleepUntil(int64_t end) {
  prctl(PR_SET_TIMERSLACK, 1UL);  // nanoseconds; the default may wake 50 us late
  const int64_t wake = end - kSpinNs;
  const timespec time{static_cast<time_t>(wake / 1'000'000'000), wake % 1'000'000'000};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr) == EINTR) {
  }
  while (Now() < end) Pause();
}

}  // namespace

// Arguments: the cost in nanoseconds, then the outputs.
HIOS_EXPORT int __tvm_ffi_hios_emulated_kernel(void*, const TVMFFIAny* args, int32_t num_args,
                                               TVMFFIAny*) {
  SleepUntil(Now() + Stamp(args[0]));
  for (int32_t i = 1; i < num_args; ++i) Stamp(args[i]) = Now();
  return 0;
}

// Arguments: the cost in nanoseconds, the source, the destination. The copy begins when the source
// is written, whatever its reader does by then: a copy engine makes it.
HIOS_EXPORT int __tvm_ffi_hios_emulated_copy(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  SleepUntil(Stamp(args[1]) + Stamp(args[0]));
  Stamp(args[2]) = Now();
  return 0;
}

}  // namespace hios
