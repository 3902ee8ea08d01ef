// Calls kernels of a library one after another, on one thread, without TVM and Python, so that an
// emulator of another processor can run it (scripts/check_arm.py):
//
//     check_arm LIBRARY DATA < PLAN
//
// Lines of PLAN are `tensor CODE BITS OFFSET RANK EXTENT...`, whose elements lie at OFFSET of the
// file DATA, and `call KERNEL COUNT TENSOR...`, with tensors by number. Results are written to DATA.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <iostream>
#include <string>
#include <vector>

#include "tvm/ffi/c_api.h"

namespace {

struct Tensor {
  std::vector<int64_t> shape;
  DLTensor view{};
};

[[noreturn]] void Fail(const std::string& what) {
  std::cerr << "check_arm: " << what << "\n";
  std::exit(1);
}

void ReadTensor(std::istream& line, char* data, std::deque<Tensor>& tensors) {
  int code, bits, rank;
  int64_t offset;
  line >> code >> bits >> offset >> rank;
  Tensor& tensor = tensors.emplace_back();
  tensor.shape.resize(rank);
  for (int64_t& extent : tensor.shape) line >> extent;
  tensor.view.data = data + offset;
  tensor.view.device = {kDLCPU, 0};
  tensor.view.ndim = rank;
  tensor.view.dtype = {static_cast<uint8_t>(code), static_cast<uint8_t>(bits), 1};
  tensor.view.shape = tensor.shape.data();
}

void Call(std::istream& line, void* library, std::deque<Tensor>& tensors) {
  std::string name;
  int count;
  line >> name >> count;
  std::vector<TVMFFIAny> arguments(count);
  for (TVMFFIAny& argument : arguments) {
    size_t number;
    line >> number;
    argument.type_index = kTVMFFIDLTensorPtr;
    argument.v_ptr = &tensors.at(number).view;
  }
  const auto kernel =
      reinterpret_cast<TVMFFISafeCallType>(dlsym(library, ("__tvm_ffi_" + name).c_str()));
  if (kernel == nullptr) Fail("there is no kernel " + name);
  TVMFFIAny result{};
  if (kernel(nullptr, arguments.data(), count, &result) != 0) Fail(name + " failed");
}

void* Allocate(int, int, uint64_t bytes, int, int) {
  constexpr uint64_t kAlignment = 64;
  return std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
}

int Free(int, int, void* memory) {
  std::free(memory);
  return 0;
}

// Sets a pointer that kernels call, as TVM's loader does, where a kernel of the library has it.
void SetPointer(void* library, const char* name, void* function) {
  if (void* pointer = dlsym(library, name)) *static_cast<void**>(pointer) = function;
}

}  // namespace

// Kernels say with it what is wrong with their arguments.
extern "C" void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts,
                                                  int32_t count) {
  std::cerr << kind << ": ";
  for (int32_t i = 0; i < count; ++i) std::cerr << (parts[i] ? parts[i] : "");
  std::cerr << "\n";
}

int main(int, char** arguments) {
  void* library = dlopen(arguments[1], RTLD_NOW);
  if (library == nullptr) Fail(dlerror());
  void* launch = dlsym(library, "hios_parallel_launch");
  SetPointer(library, "__TVMBackendParallelLaunch", launch);
  SetPointer(library, "__TVMBackendAllocWorkspace", reinterpret_cast<void*>(Allocate));
  SetPointer(library, "__TVMBackendFreeWorkspace", reinterpret_cast<void*>(Free));
  const int file = open(arguments[2], O_RDWR);
  struct stat status;
  if (file < 0 || fstat(file, &status) != 0) Fail("cannot open the data");
  void* data = mmap(nullptr, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (data == MAP_FAILED) Fail("cannot map the data");
  std::deque<Tensor> tensors;
  for (std::string word; std::cin >> word;) {
    if (word == "tensor") {
      ReadTensor(std::cin, static_cast<char*>(data), tensors);
    } else {
      Call(std::cin, library, tensors);
    }
  }
  return 0;
}
