#include "kernel_library.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <map>
#include <mutex>

#include "digest.h"
#include "error.h"
#include "memory.h"
#include "tvm_functions.h"

namespace hios {
namespace {

std::mutex loaded_mutex;

std::map<std::string, std::weak_ptr<KernelLibrary>>& Loaded() {
  static auto* loaded = new std::map<std::string, std::weak_ptr<KernelLibrary>>();
  return *loaded;
}

// Lets kernels find this library's functions, also where the program has loaded it for itself alone.
void ShowToKernels() {
  Dl_info info;
  if (dlsym(RTLD_DEFAULT, "TVMFFIErrorSetRaisedFromCStrParts") == nullptr &&
      dladdr(reinterpret_cast<void*>(ShowToKernels), &info) != 0) {
    dlopen(info.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
  }
}

// A copy on disk, for systems without /proc.
std::string TemporaryFile(const std::string& content) {
  const char* folder = getenv("TMPDIR");
  std::string path = std::string(folder != nullptr ? folder : "/tmp") + "/hios-kernels-XXXXXX";
  const int descriptor = mkstemp(path.data());
  if (descriptor < 0) {
    Fail(HIOS_USAGE, "kernels can be loaded where /proc is mounted, or where TMPDIR names a folder "
                     "that can be written; here is neither");
  }
  size_t done = 0;
  for (ssize_t n = 1; done < content.size() && n > 0; done += static_cast<size_t>(n)) {
    n = write(descriptor, content.data() + done, content.size() - done);
    if (n < 0) n = 0;
  }
  close(descriptor);
  if (done == content.size()) return path;
  unlink(path.c_str());
  Fail(HIOS_MEMORY, "there is no room for kernels in " + path);
}

}  // namespace

std::shared_ptr<KernelLibrary> KernelLibrary::Load(const std::string& content) {
  const std::string digest = Sha256Of(content);
  const std::scoped_lock lock(loaded_mutex);
  std::weak_ptr<KernelLibrary>& known = Loaded()[digest];
  std::shared_ptr<KernelLibrary> library = known.lock();
  if (library == nullptr) {
    library.reset(new KernelLibrary(content));
    known = library;
  }
  return library;
}

KernelLibrary::KernelLibrary(const std::string& content) {
  ShowToKernels();
  handle_ = Open(content);
  try {
    FindExecutor();
    ProvideTvmFunctions(dlsym, handle_);
  } catch (...) {
    dlclose(handle_);
    if (descriptor_ >= 0) close(descriptor_);
    throw;
  }
}

void* KernelLibrary::Open(const std::string& content) {
  std::string path;
  void* handle;
  if (access("/proc/self/fd", F_OK) == 0) {
    const SealedFile file(content.data(), content.size());
    descriptor_ = fcntl(file.descriptor(), F_DUPFD_CLOEXEC, 0);
    if (descriptor_ < 0) Fail(HIOS_MEMORY, "this process cannot open more files");
    path = "/proc/self/fd/" + std::to_string(descriptor_);
    handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  } else {
    path = TemporaryFile(content);
    handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    unlink(path.c_str());
  }
  if (handle == nullptr) {
    const char* reason = dlerror();
    if (descriptor_ >= 0) close(descriptor_);
    Fail(HIOS_ARTIFACT, std::string("a kernel library cannot be loaded: ") +
                            (reason == nullptr ? "unknown" : reason));
  }
  return handle;
}

KernelLibrary::~KernelLibrary() {
  dlclose(handle_);
  if (descriptor_ < 0) return;
  // Where the linker keeps it nevertheless, its name must not be given to another one.
  const std::string path = "/proc/self/fd/" + std::to_string(descriptor_);
  if (void* kept = dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD)) {
    dlclose(kept);
  } else {
    close(descriptor_);
  }
}

void KernelLibrary::FindExecutor() {
  const auto version = reinterpret_cast<int32_t (*)()>(dlsym(handle_, "hios_abi_version"));
  Require(version != nullptr && version() == kAbiVersion, [&] {
    return "a kernel library has executor version " +
           (version == nullptr ? std::string("None") : std::to_string(version())) +
           ", this runtime works with version " + std::to_string(kAbiVersion);
  });
  const auto find = [&](const char* name, auto* function) {
    void* symbol = dlsym(handle_, name);
    Require(symbol != nullptr, [&] { return std::string("a kernel library lacks ") + name; });
    *function = reinterpret_cast<std::remove_reference_t<decltype(*function)>>(symbol);
  };
  find("hios_session_bytes", &session_bytes);
  find("hios_open", &open);
  find("hios_work", &work);
  find("hios_lead", &lead);
  find("hios_start", &start);
  find("hios_run", &run);
  find("hios_latest", &latest);
  find("hios_join", &join);
  find("hios_abort", &abort);
  find("hios_stop", &stop);
  find("hios_team_bytes", &team_bytes);
  find("hios_team_open", &team_open);
  Require(dlsym(handle_, "__tvm_ffi__library_bin") == nullptr,
          "a kernel library has modules of TVM inside, which this runtime does not load");
}

void* KernelLibrary::kernel(const std::string& name) const {
  void* kernel = dlsym(handle_, ("__tvm_ffi_" + name).c_str());
  Require(kernel != nullptr, [&] { return "the library has no kernel called " + Quoted(name); });
  return kernel;
}

}  // namespace hios
