#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "error.h"

namespace hios {
namespace {

constexpr size_t kHugePage = 1 << 21;

[[noreturn]] void FailForMemory(size_t bytes) {
  Fail(HIOS_MEMORY, "there is no memory of " + std::to_string(bytes) + " bytes: " + strerror(errno));
}

bool WriteAll(int descriptor, const char* from, size_t bytes) {
  while (bytes > 0) {
    const ssize_t written = write(descriptor, from, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    from += written;
    bytes -= static_cast<size_t>(written);
  }
  return true;
}

}  // namespace

Pages::Pages(size_t bytes) : bytes_(std::max<size_t>(bytes, 1)) {
  void* pages =
      mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) FailForMemory(bytes_);
  if (bytes >= kHugePage) madvise(pages, bytes_, MADV_HUGEPAGE);
  data_ = static_cast<char*>(pages);
}

Pages::~Pages() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

Pages::Pages(Pages&& other) noexcept { *this = std::move(other); }

Pages& Pages::operator=(Pages&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

void Pages::Seal() { mprotect(data_, bytes_, PROT_READ); }

SealedFile::SealedFile(const void* content, size_t bytes)
    : descriptor_(memfd_create("hios-kernels", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
  const bool sealed =
      descriptor_ >= 0 && WriteAll(descriptor_, static_cast<const char*>(content), bytes) &&
      fcntl(descriptor_, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0;
  if (sealed) return;
  if (descriptor_ >= 0) close(descriptor_);
  FailForMemory(bytes);
}

SealedFile::~SealedFile() { close(descriptor_); }

}  // namespace hios
