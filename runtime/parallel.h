// Parallel loops of kernels, on the threads of the worker that runs them.

#ifndef HIOS_TVM_RUNTIME_PARALLEL_H_
#define HIOS_TVM_RUNTIME_PARALLEL_H_

#include "events.h"

namespace hios {

constexpr uint32_t kMaxTeam = 256;

// What TVM passes to the body of a parallel loop.
struct ParallelEnv {
  void* barrier;          // of TVM's own pool, for kernels that synchronise inside a loop
  int32_t num_tasks;
};
using ParallelBody = int (*)(int task, ParallelEnv* env, void* closure);

// A range of a loop's tasks that nobody has taken yet: the lower half of the loop's number, and the
// range's begin and end in 16 bits each.
struct alignas(64) Share {
  std::atomic<uint64_t> range;
};

// Workers that share the parallel loops of kernels. One of them calls the kernels and launches their
// loops, the others assist while they have nothing else to do. Launches are numbered as runs are.
//
// Each member begins with the same part of every loop: kernels go through images in the same order,
// and what one kernel wrote is in the cache of the core whose part reads it.
struct Team {
  Event launch;           // the loop to execute
  Event finished;         // the last loop whose tasks are all done
  Event unfinished;       // `run` counts the tasks that are not done
  Event failed;           // `run` counts the tasks that failed
  alignas(64) uint64_t number;  // of the loop
  ParallelBody body;
  void* closure;
  ParallelEnv env;
  int64_t spin_ns;
  uint32_t size;
  Share shares[kMaxTeam];
  alignas(64) std::atomic<int32_t> barrier[kMaxTeam * 16];  // one per cache line, as TVM has it
};

// Lets parallel loops of the calling thread use `team`; without one they run inline.
void UseTeam(Team* team);

// Takes part in the loops of `team`, as its given member, until the one who launches them, member 0,
// signals `end` of run `run`; false when that run was given up, or at `until`. It misses the loops
// that end before it looks.
bool Assist(Team* team, uint32_t member, const Event& end, uint64_t run, int64_t spin_ns, const Event& aborted,
            int64_t until);

// Signals `end` to those who assist.
void Dismiss(Team* team, Event& end, uint64_t run);

}  // namespace hios

#endif  // HIOS_TVM_RUNTIME_PARALLEL_H_
