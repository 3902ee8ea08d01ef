// Worker threads that execute tasks; their inner loop is ../executor.cc.

#ifndef HIOS_C_API_WORKER_THREADS_H_
#define HIOS_C_API_WORKER_THREADS_H_

#include <sys/types.h>

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core_tasks.h"
#include "tensor_table.h"

namespace hios {

// One thread for each task; `Run` executes all of them once. Its owner lets one run at a time begin.
class WorkerThreads {
 public:
  // `tensors` and `memory`, which owns what is in them, live as long as any kernel runs. Throws
  // `Error`: HIOS_ARTIFACT where a library lacks a kernel, HIOS_DEVICE where a thread cannot be started
  // on its core.
  WorkerThreads(CoreTasks tasks, std::shared_ptr<TensorTable> tensors,
                std::vector<std::shared_ptr<void>> memory, double spin_us);
  ~WorkerThreads();

  WorkerThreads(const WorkerThreads&) = delete;
  WorkerThreads& operator=(const WorkerThreads&) = delete;

  // Throws `Error`: HIOS_EXECUTION where a kernel fails, HIOS_TIMEOUT at `end_ns` of the monotonic
  // clock, HIOS_CLOSED as `RequireFree`.
  void Run(int64_t end_ns);

  // Throws `Error` (HIOS_CLOSED) in a forked process, and where a kernel of a run that was given up
  // has not returned: it still uses the memory.
  void RequireFree() const;

  const std::vector<CoreTask>& tasks() const;

  // When each step of a task began in the last run, then when the last ended: nanoseconds of the
  // monotonic clock.
  const std::vector<int64_t>& times(size_t task) const;

 private:
  struct Shared;

  static void Work(const std::shared_ptr<Shared>& shared, size_t number);
  static bool PinTo(int core);

  void StartThreads();
  void Lead();
  void Join(int64_t end_ns);
  void GiveUp();
  void Stop();
  void ThrowFailure();

  std::shared_ptr<Shared> shared_;
  std::vector<std::thread> threads_;
  bool is_stuck_ = false;
  pid_t process_;
};

}  // namespace hios

#endif  // HIOS_C_API_WORKER_THREADS_H_
