// Claims on cores: which process uses which, as ../devices/cpu/claims.py makes them.
//
// Each core is a byte of one file in shared memory, and each process that uses the core holds a POSIX
// record lock on it: shared, or exclusive where a session asked for that. The kernel drops the locks of
// a process that ends. Each user has a file of their own.

#ifndef HIOS_C_API_CLAIMS_H_
#define HIOS_C_API_CLAIMS_H_

#include <sys/types.h>

#include "device_names.h"

namespace hios {

// Cores that a session uses as long as this lives.
class CoreClaim {
 public:
  // Throws `Error` (HIOS_DEVICE) where another process uses one of the cores and one of the two claims
  // it exclusively, or where `exclusive` is asked for and cores cannot be claimed.
  CoreClaim(Cores cores, bool exclusive);
  ~CoreClaim();

  CoreClaim(const CoreClaim&) = delete;
  CoreClaim& operator=(const CoreClaim&) = delete;

 private:
  Cores cores_;
  bool exclusive_;
  pid_t process_;
};

}  // namespace hios

#endif  // HIOS_C_API_CLAIMS_H_
