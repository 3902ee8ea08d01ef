#include "claims.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <string>

#include "error.h"

namespace hios {
namespace {

// How often this process uses each core: locks belong to a process, not to a session.
struct Claims {
  std::mutex mutex;
  pid_t process = getpid();
  std::map<int, int> used, exclusive;
  int descriptor = -1;

  // A forked process has none of its parent's locks; the open file serves both.
  void ForgetParent() {
    if (process == getpid()) return;
    process = getpid();
    used.clear();
    exclusive.clear();
  }
};

Claims& AllClaims() {
  static auto* claims = new Claims();
  return *claims;
}

std::string Path() { return "/dev/shm/hios-tvm-cores-" + std::to_string(geteuid()); }

// Opens the file that only this user can open; closing it would drop all locks.
bool OpenFile(Claims* claims) {
  if (claims->descriptor >= 0) return true;
  const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_CREAT;
  const int descriptor = open(Path().c_str(), flags, 0600);
  if (descriptor < 0) return false;
  struct stat status;
  const bool own = fstat(descriptor, &status) == 0 && status.st_uid == geteuid() &&
                   (status.st_mode & 077) == 0;
  if (!own) {  // somebody else was first
    close(descriptor);
    return false;
  }
  claims->descriptor = descriptor;
  return true;
}

// Holds the lock that the claims of this process on `core` need; false where others forbid it.
bool Lock(const Claims& claims, int core) {
  const auto count = [&](const std::map<int, int>& counts) {
    const auto found = counts.find(core);
    return found == counts.end() ? 0 : found->second;
  };
  struct flock lock {};
  lock.l_type = count(claims.exclusive) > 0 ? F_WRLCK : count(claims.used) > 0 ? F_RDLCK : F_UNLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = core;
  lock.l_len = 1;
  return fcntl(claims.descriptor, F_SETLK, &lock) == 0;
}

void GiveBack(Claims* claims, const Cores& cores, size_t count, bool exclusive) {
  for (size_t i = 0; i < count; ++i) {
    --claims->used[cores[i]];
    claims->exclusive[cores[i]] -= exclusive;
    Lock(*claims, cores[i]);
  }
}

}  // namespace

CoreClaim::CoreClaim(Cores cores, bool exclusive)
    : cores_(std::move(cores)), exclusive_(exclusive), process_(getpid()) {
  Claims& claims = AllClaims();
  const std::scoped_lock lock(claims.mutex);
  claims.ForgetParent();
  if (!OpenFile(&claims)) {
    cores_.clear();
    if (exclusive) Fail(HIOS_DEVICE, "cores cannot be claimed: " + Path() + " is not this user's alone");
    return;
  }
  for (size_t i = 0; i < cores_.size(); ++i) {
    ++claims.used[cores_[i]];
    claims.exclusive[cores_[i]] += exclusive;
    if (Lock(claims, cores_[i])) continue;
    GiveBack(&claims, cores_, i + 1, exclusive);
    Fail(HIOS_DEVICE, "core " + std::to_string(cores_[i]) + " is used by another process, and " +
                          (exclusive ? "the new session" : "that process") +
                          " wants it for itself; map the artifact's devices to others with the "
                          "option devices");
  }
}

CoreClaim::~CoreClaim() {
  if (process_ != getpid() || cores_.empty()) return;
  Claims& claims = AllClaims();
  const std::scoped_lock lock(claims.mutex);
  GiveBack(&claims, cores_, cores_.size(), exclusive_);
}

}  // namespace hios
