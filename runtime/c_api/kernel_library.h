// Kernel libraries, loaded from the bytes of an artifact. The executor is linked into each.

#ifndef HIOS_C_API_KERNEL_LIBRARY_H_
#define HIOS_C_API_KERNEL_LIBRARY_H_

#include <memory>
#include <string>

#include "../program.h"

namespace hios {

class KernelLibrary {
 public:
  // Equal bytes are loaded once in a process, until the last reference is gone. Throws `Error`
  // (HIOS_ARTIFACT) where they cannot be loaded, or hold another executor than this runtime's.
  static std::shared_ptr<KernelLibrary> Load(const std::string& content);

  ~KernelLibrary();

  KernelLibrary(const KernelLibrary&) = delete;
  KernelLibrary& operator=(const KernelLibrary&) = delete;

  // The address of a kernel; throws `Error` (HIOS_ARTIFACT) where there is none of this name.
  void* kernel(const std::string& name) const;

  // The executor (../executor.cc, ../parallel.cc).
  uint64_t (*session_bytes)(uint32_t num_events, uint32_t num_slots);
  void (*open)(void* session, uint32_t num_workers, uint32_t num_events, uint32_t num_slots);
  int32_t (*work)(void* session, Worker* worker);
  int32_t (*lead)(void* session, Worker* worker, int64_t slice_ns);
  uint64_t (*start)(void* session, int32_t leads);
  int32_t (*run)(void* session, Worker* worker, int64_t slice_ns, int64_t spin_ns);
  uint64_t (*latest)(void* session);
  int32_t (*join)(void* session, uint64_t run, int64_t limit_ns);
  void (*abort)(void* session, uint64_t run);
  void (*stop)(void* session);
  uint64_t (*team_bytes)();
  void (*team_open)(Team* team, uint32_t size, int64_t spin_ns);

 private:
  explicit KernelLibrary(const std::string& content);

  void* Open(const std::string& content);
  void FindExecutor();

  void* handle_ = nullptr;
  int descriptor_ = -1;  // of the bytes: its number is part of the name that the linker knows
};

}  // namespace hios

#endif  // HIOS_C_API_KERNEL_LIBRARY_H_
