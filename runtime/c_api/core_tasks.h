// From programs of CPU devices to what each core does.
//
// Devices may share cores: cpu@0-1 has those of cpu@0 and cpu@1, and the streams of a device have
// shares of its cores. Each core gets one worker, which executes the instructions of all programs that
// have the core, in one order that the signals and waits of the programs allow. The first core of a
// program calls its kernels; meanwhile the others assist in the parallel loops. A core that comes late
// assists in what is left, and a call does not wait for it.

#ifndef HIOS_C_API_CORE_TASKS_H_
#define HIOS_C_API_CORE_TASKS_H_

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "device_names.h"
#include "happens_before.h"
#include "kernel_library.h"
#include "manifest.h"

namespace hios {

// A core, and a number where one core has several workers.
using CoreWorker = std::pair<int, int>;

// Workers that share the parallel loops of kernels; the first one calls the kernels.
using CoreTeam = std::vector<CoreWorker>;

// Instructions of one stream of a CPU device, and the cores that work on its kernels.
struct CpuProgram {
  std::string device;  // for messages
  Cores cores;
  const std::vector<Step>* steps;
  std::shared_ptr<KernelLibrary> library;
};

// An event of the programs, or the end of a call, for those who assist in it.
using EventKey = std::tuple<bool, int64_t, int64_t>;

// What a worker does: an instruction of a program, or its part in one of another worker.
struct CoreStep {
  enum Kind { kStep, kAssist, kDismiss };

  Kind kind;
  const Step* step;     // of the program
  Origin origin;
  const CoreTeam* team;
  size_t member;        // of the team; assist
  EventKey event;       // of all but calls and copies
};

struct CoreTask {
  int core;
  std::vector<CoreStep> steps;
  std::shared_ptr<KernelLibrary> library;
};

struct CoreTasks {
  std::vector<CoreTask> tasks;                   // at least one
  std::vector<std::string> devices;              // of each program, for messages
  std::vector<std::unique_ptr<CoreTeam>> teams;  // that steps point to
};

// The task of each worker. `order` has each instruction by the number of its program and its place
// there. Throws `Error` (HIOS_ARTIFACT) where programs of one core call kernels of different libraries.
CoreTasks MakeCoreTasks(const std::vector<CpuProgram>& programs, const std::vector<Origin>& order);

}  // namespace hios

#endif  // HIOS_C_API_CORE_TASKS_H_
