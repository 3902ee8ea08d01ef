// Memory of artifacts and sessions.

#ifndef HIOS_C_API_MEMORY_H_
#define HIOS_C_API_MEMORY_H_

#include <cstddef>
#include <cstdint>

#include "dtypes.h"

namespace hios {

inline size_t AlignUp(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

inline bool IsAligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % kAlignment == 0;
}

// Zeroed pages, in huge ones where the system has them.
class Pages {
 public:
  Pages() = default;
  explicit Pages(size_t bytes);  // throws `Error` (HIOS_MEMORY) where there are none
  ~Pages();

  Pages(Pages&& other) noexcept;
  Pages& operator=(Pages&& other) noexcept;

  char* data() const { return data_; }
  size_t size() const { return bytes_; }

  // Allows no more changes: what was verified stays as it is.
  void Seal();

 private:
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

// Bytes as they are in a file descriptor that nobody can change, for the dynamic linker.
class SealedFile {
 public:
  SealedFile(const void* content, size_t bytes);  // throws `Error` (HIOS_MEMORY)
  ~SealedFile();

  SealedFile(const SealedFile&) = delete;
  SealedFile& operator=(const SealedFile&) = delete;

  int descriptor() const { return descriptor_; }

 private:
  int descriptor_;
};

}  // namespace hios

#endif  // HIOS_C_API_MEMORY_H_
