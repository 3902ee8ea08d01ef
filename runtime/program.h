// Instructions and workers as Python writes them: abi.py mirrors these structs field by field, and a
// test compares sizes, offsets and opcodes.

#ifndef HIOS_TVM_RUNTIME_PROGRAM_H_
#define HIOS_TVM_RUNTIME_PROGRAM_H_

#include "cuda.h"
#include "parallel.h"

namespace hios {

constexpr int32_t kAbiVersion = 5;  // to be raised with every change of these structs

enum class Opcode : uint32_t {
  kCall = 0,
  kCopy = 1,
  kSignal = 2,
  kWait = 3,
  // The following are enqueued on a CUDA stream, which is the target
  kLaunch = 4,            // source: GpuLaunch
  kEnqueueCopy = 5,       // source: GpuCopy
  kRecord = 6,            // source: a CUevent
  kAwaitRecorded = 7,     // source: a CUevent
  kSignalFromStream = 8,  // source: HostSignal; number: which event
  kSynchronize = 9,       // block the worker until the stream is empty
  kLaunchGraph = 10,      // source: a CUgraphExec
};

struct Instruction {
  Opcode opcode;
  uint32_t number;        // call: how many arguments; signal and wait: which event
  void* target;           // call: the kernel; copy: the destination, a DLTensor
  void* source;           // call: the arguments, TVMFFIAny; copy: the source, a DLTensor
  uint64_t bytes;         // copy
};

struct Worker {
  const Instruction* program;
  int64_t* times;         // start of each instruction, then the end of the last; nanoseconds
  Team* team;             // null on one core
  const CudaDriver* driver;  // of a GPU's worker
  int64_t spin_ns;        // how long to poll before sleeping
  uint64_t run;           // the last run that this worker took part in
  uint32_t length;        // instructions in the program
  uint32_t failed;        // 1 + the instruction that failed; 0: none did
  int32_t status;         // the driver's result code then; 0: a kernel of a CPU failed
};

}  // namespace hios

#endif  // HIOS_TVM_RUNTIME_PROGRAM_H_
