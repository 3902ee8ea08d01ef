#include "tvm_functions.h"

#include <dlfcn.h>
#include <tvm/ffi/c_api.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

#include "../parallel.h"
#include "memory.h"
#include "sorting.h"

namespace hios {
namespace {

thread_local std::string raised;

// Temporary memory of the kernels of one thread: blocks are kept for the next kernel.
class Workspaces {
 public:
  ~Workspaces() {
    for (const Block& block : free_) free(block.memory);
  }

  void* Take(size_t bytes) {
    const auto fits = std::find_if(free_.begin(), free_.end(),
                                   [&](const Block& block) { return block.bytes >= bytes; });
    Block block;
    if (fits != free_.end()) {
      block = *fits;
      free_.erase(fits);
    } else {
      block.bytes = AlignUp(std::max<size_t>(bytes, kPage));
      block.memory = aligned_alloc(kAlignment, block.bytes);
    }
    if (block.memory != nullptr) used_.push_back(block);
    return block.memory;
  }

  int Return(void* memory) {
    const auto block = std::find_if(used_.rbegin(), used_.rend(),
                                    [&](const Block& one) { return one.memory == memory; });
    if (block == used_.rend()) return -1;
    free_.push_back(*block);
    used_.erase(std::next(block).base());
    std::sort(free_.begin(), free_.end(),
              [](const Block& a, const Block& b) { return a.bytes < b.bytes; });
    return 0;
  }

 private:
  struct Block {
    void* memory;
    size_t bytes;
  };

  static constexpr size_t kPage = 4096;

  std::vector<Block> free_;  // the smallest first
  std::vector<Block> used_;
};

thread_local Workspaces workspaces;

void* AllocWorkspace(int, int, uint64_t bytes, int, int) { return workspaces.Take(bytes); }

int FreeWorkspace(int, int, void* memory) { return workspaces.Return(memory); }

constexpr int kBarrierStride = 16;  // numbers of a cache line

int ParallelBarrier(int task, ParallelEnv* env) {
  auto* counters = static_cast<std::atomic<int32_t>*>(env->barrier);
  const int32_t passed = counters[task * kBarrierStride].fetch_add(1);
  for (int i = 0; i < env->num_tasks; ++i) {
    while (i != task && counters[i * kBarrierStride].load() <= passed) sched_yield();
  }
  return 0;
}

// Functions that kernels look up by name: a handle points to one of these.
struct NamedFunction {
  const char* name;
  SortFunction function;
};

constexpr NamedFunction kNamed[] = {
    {"tvm.contrib.sort.argsort", ArgSort},
    {"tvm.contrib.sort.sort", Sort},
    {"tvm.contrib.sort.topk", TopK},
};

int LookUp(TVMFFIObjectHandle, const char* name, TVMFFIObjectHandle* function) {
  for (const NamedFunction& named : kNamed) {
    if (std::string_view(name) == named.name) {
      *function = const_cast<NamedFunction*>(&named);
      return 0;
    }
  }
  raised = "RuntimeError: TVM's function " + std::string(name) + " is not in this runtime";
  return -1;
}

int CallNamed(TVMFFIObjectHandle function, TVMFFIAny* args, int32_t num_args, TVMFFIAny*) {
  const char* problem = static_cast<NamedFunction*>(function)->function(args, num_args);
  if (problem == nullptr) return 0;
  raised = std::string("RuntimeError: ") + static_cast<NamedFunction*>(function)->name + ": " + problem;
  return -1;
}

int InitOnce(void** handle, int (*init)(void** result)) {
  static std::mutex mutex;
  if (__atomic_load_n(handle, __ATOMIC_ACQUIRE) != nullptr) return 0;
  const std::scoped_lock lock(mutex);
  if (*handle != nullptr) return 0;
  void* result = nullptr;
  const int code = init(&result);
  if (code == 0) __atomic_store_n(handle, result, __ATOMIC_RELEASE);
  return code;
}

}  // namespace

void ProvideTvmFunctions(void* (*find)(void* library, const char* name), void* library) {
  static int context;  // of no use to `LookUp`
  const std::pair<const char*, void*> functions[] = {
      {"__TVMBackendParallelLaunch", find(library, "hios_parallel_launch")},
      {"__TVMBackendParallelBarrier", reinterpret_cast<void*>(ParallelBarrier)},
      {"__TVMBackendAllocWorkspace", reinterpret_cast<void*>(AllocWorkspace)},
      {"__TVMBackendFreeWorkspace", reinterpret_cast<void*>(FreeWorkspace)},
      {"__TVMFFIErrorSetRaisedFromCStr", reinterpret_cast<void*>(TVMFFIErrorSetRaisedFromCStr)},
      {"__TVMFFIFunctionCall", reinterpret_cast<void*>(CallNamed)},
      {"__TVMFFIHandleInitOnce", reinterpret_cast<void*>(InitOnce)},
      {"__TVMFFIEnvModLookupFromImports", reinterpret_cast<void*>(LookUp)},
      {"__tvm_ffi__library_ctx", &context},
  };
  for (const auto& [name, function] : functions) {
    if (void* pointer = find(library, name)) *static_cast<void**>(pointer) = function;
  }
}

std::string TakeRaisedMessage() {
  const std::string message = std::exchange(raised, {});
  return message.empty() ? "no message" : message;
}

}  // namespace hios

// Kernels call this one by its name, so that this library exports it.
HIOS_EXPORT void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts,
                                                   int32_t num_parts) {
  hios::raised = std::string(kind) + ": ";
  for (int32_t i = 0; i < num_parts; ++i) {
    if (parts[i] != nullptr) hios::raised += parts[i];
  }
}

HIOS_EXPORT void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* message) {
  TVMFFIErrorSetRaisedFromCStrParts(kind, &message, 1);
}
