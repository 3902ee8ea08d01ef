// Instructions and workers as Python writes them: abi.py mirrors these structs field by field, and a
// test compares sizes, offsets and opcodes.

#ifndef HIOS_TVM_RUNTIME_PROGRAM_H_
#define HIOS_TVM_RUNTIME_PROGRAM_H_

#include "cuda.h"
#include "parallel.h"

namespace hios {

constexpr int32_t kAbiVersion = 9;  // to be raised with every change of these structs and of what reads them

enum class Opcode : uint32_t {
  kCall = 0,
  kCopy = 1,
  kSignal = 2,
  kWait = 3,
  kAssist = 4,            // in the loops of kernels that another worker calls, until an event
  kDismiss = 5,           // signal that event
  // The following are enqueued on a CUDA stream, which is the target
  kLaunch = 6,            // source: GpuLaunch
  kEnqueueCopy = 7,       // source: GpuCopy
  kRecord = 8,            // source: a CUevent
  kAwaitRecorded = 9,     // source: a CUevent
  kSignalFromStream = 10, // source: HostSignal; number: which event
  kSynchronize = 11,      // block the worker until the stream is empty
  kLaunchGraph = 12,      // source: a CUgraphExec
};

struct Instruction {
  Opcode opcode;
  uint32_t number;        // call: how many arguments; others: which event
  void* target;           // call: the kernel; copy: the destination, a DLTensor
  void* source;           // call: the arguments, TVMFFIAny; copy: the source, a DLTensor
  uint64_t bytes;         // copy; assist: which member of the team
  Team* team;             // call: null on one core; assist and dismiss
};

constexpr uint32_t kLeft = UINT32_MAX;
constexpr int32_t kNoCore = -1;
constexpr int32_t kAnyCore = -2;

struct Worker {
  const Instruction* program;  // of the first slot, then of the others
  int64_t* times;         // start of each instruction, then the end of the last, by slot; nanoseconds
  const CudaDriver* driver;  // of a GPU's worker
  void* context;          // of that GPU
  int64_t spin_ns;        // how long to poll before sleeping
  uint64_t run;           // the last run that this worker took part in
  uint64_t seen;          // the last run that its own thread was started for
  uint32_t length;        // instructions in the program
  uint32_t next;          // the instruction to go on with; kLeft when the run has been left
  uint32_t failed;        // 1 + the instruction that failed; 0: none did
  int32_t status;         // the driver's result code then; 0: a kernel of a CPU failed
  int32_t core;           // the leader's: the thread that starts a run may execute its program there,
                          // that of a GPU's worker on `kAnyCore`
};

}  // namespace hios

#endif  // HIOS_TVM_RUNTIME_PROGRAM_H_
