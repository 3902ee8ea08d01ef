// Executes the programs of an artifact on CPU devices, one worker thread per stream.
//
// This file is linked into the library of every device, next to its kernels. Python fills the
// plain structs below once, when an artifact is loaded, and puts one thread into `hios_work` for
// each program; a run then needs neither the interpreter nor its lock.
//
// Runs are numbered. An event holds the number of the last run that signalled it, so nothing
// is reset between runs, and a run starts by raising the number in `Session::start`.
//
// A worker with several cores has a team: one more thread per core, in `hios_help`. Parallel
// loops of kernels reach it through `hios_parallel_launch`, which stands in for TVM's thread pool:
// that one polls for long when it is idle, and its threads outlive the worker.

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

namespace {

using Word = std::atomic<uint32_t>;
using Kernel = int (*)(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result);

static_assert(sizeof(Word) == 4 && Word::is_always_lock_free, "the kernel's futex has 32 bits");

constexpr int32_t kAbiVersion = 2;
constexpr int kChecksPerClockRead = 16;
constexpr int64_t kSliceNs = 20'000'000;  // how soon a sleeping worker sees that a run is aborted
constexpr int64_t kForever = -1;

// A cache line of its own: a worker that polls one event does not slow down another.
struct alignas(64) Event {
  Word run;
  Word sleepers;
};

enum class Kind : uint32_t { kCall = 0, kCopy = 1, kSignal = 2, kWait = 3 };

struct Instruction {
  Kind kind;
  uint32_t number;        // call: how many arguments; signal and wait: which event
  void* target;           // call: the kernel; copy: the destination, a DLTensor
  const void* source;     // call: the arguments, TVMFFIAny; copy: the source, a DLTensor
  uint64_t bytes;         // copy
};

// What TVM passes to the body of a parallel loop.
struct ParallelEnv {
  void* barrier;          // of TVM's own pool, for kernels that synchronise inside a loop
  int32_t num_tasks;
};
using ParallelBody = int (*)(int task, ParallelEnv* env, void* closure);

constexpr uint32_t kMaxTeam = 256;

// The threads that share the parallel loops of one worker. Launches are numbered as runs are.
struct Team {
  Event launch;           // the loop to execute
  Event finished;         // the last loop that all helpers have left
  Event running;          // `run` counts the helpers that are still in the loop
  Event failed;           // `run` counts the tasks that failed
  ParallelBody body;
  void* closure;
  ParallelEnv env;
  int64_t spin_ns;
  uint32_t size;          // the worker included
  Word stop;
  alignas(64) std::atomic<int32_t> barrier[kMaxTeam * 16];  // one per cache line, as TVM has it
};

struct Worker {
  const Instruction* program;
  int64_t* times;         // start of each instruction, then the end of the last; nanoseconds
  Team* team;             // none on one core
  int64_t spin_ns;        // how long to poll before sleeping
  uint32_t length;        // instructions in the program
  uint32_t run;           // the last run that this worker took part in
  uint32_t failed;        // 1 + the instruction whose kernel failed; 0: none did
};

struct Session {
  Event start;            // the run to execute
  Event done;             // the last run that all workers have left
  Event aborted;          // the last run that was given up
  Event running;          // `run` counts the workers that are still in the run
  Word stop;
  uint32_t num_workers;
  uint32_t num_events;
  Event events[1];        // really `num_events`
};

int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

void Signal(Event& event, uint32_t run) {
  event.run.store(run, std::memory_order_seq_cst);
  if (event.sleepers.load(std::memory_order_seq_cst) != 0) {
    syscall(SYS_futex, &event.run, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
  }
}

// Sleeps until `event` no longer holds `seen`, or until the time is over.
void Sleep(Event& event, uint32_t seen, int64_t limit_ns) {
  timespec limit{static_cast<time_t>(limit_ns / 1'000'000'000), limit_ns % 1'000'000'000};
  syscall(SYS_futex, &event.run, FUTEX_WAIT_PRIVATE, seen,
          limit_ns == kForever ? nullptr : &limit, nullptr, 0);
}

bool Reached(const Event& event, uint32_t run) {
  return event.run.load(std::memory_order_seq_cst) == run;
}

bool Poll(const Event& event, uint32_t run, int64_t spin_ns) {
  if (Reached(event, run)) return true;
  if (spin_ns <= 0) return false;
  const int64_t end = Now() + spin_ns;
  do {
    for (int i = 0; i < kChecksPerClockRead; ++i) {
      if (Reached(event, run)) return true;
      Pause();
    }
  } while (Now() < end);
  return false;
}

// Waits for `event` of run `run`; false when that run was given up instead.
bool Await(Event& event, uint32_t run, int64_t spin_ns, const Event* aborted = nullptr) {
  if (Poll(event, run, spin_ns)) return true;
  event.sleepers.fetch_add(1, std::memory_order_seq_cst);
  bool reached;
  uint32_t seen;
  while (!(reached = (seen = event.run.load(std::memory_order_seq_cst)) == run) &&
         !(aborted != nullptr && Reached(*aborted, run))) {
    Sleep(event, seen, aborted != nullptr ? kSliceNs : kForever);
  }
  event.sleepers.fetch_sub(1, std::memory_order_seq_cst);
  return reached;
}

void Abort(Session* session, uint32_t run) {
  session->aborted.run.store(run, std::memory_order_seq_cst);
  for (uint32_t i = 0; i < session->num_events; ++i) {
    Event& event = session->events[i];
    if (event.sleepers.load(std::memory_order_seq_cst) != 0) {
      syscall(SYS_futex, &event.run, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
    }
  }
}

// Executes the program; false when a kernel of this worker failed.
bool Execute(Session* session, Worker* worker) {
  const uint32_t run = worker->run;
  int64_t* time = worker->times;
  *time = Now();
  for (uint32_t i = 0; i < worker->length; ++i) {
    if (Reached(session->aborted, run)) return true;
    const Instruction& step = worker->program[i];
    switch (step.kind) {
      case Kind::kCall: {
        TVMFFIAny result{};
        const auto* args = static_cast<const TVMFFIAny*>(step.source);
        const auto kernel = reinterpret_cast<Kernel>(step.target);
        if (kernel(nullptr, args, static_cast<int32_t>(step.number), &result) != 0) {
          worker->failed = i + 1;
          Abort(session, run);
          return false;
        }
        break;
      }
      case Kind::kCopy:
        std::memcpy(static_cast<DLTensor*>(step.target)->data,
                    static_cast<const DLTensor*>(step.source)->data, step.bytes);
        break;
      case Kind::kSignal:
        Signal(session->events[step.number], run);
        break;
      case Kind::kWait:
        if (!Await(session->events[step.number], run, worker->spin_ns, &session->aborted)) {
          return true;
        }
        break;
    }
    *++time = Now();
  }
  return true;
}

void Leave(Session* session, uint32_t run) {
  if (session->running.run.fetch_sub(1, std::memory_order_seq_cst) == 1) {
    Signal(session->done, run);
  }
}

thread_local Team* current_team = nullptr;  // of the worker that runs on this thread

// Runs the tasks of member `member`; there may be more tasks than members.
void RunTasks(Team* team, uint32_t member) {
  for (int32_t task = static_cast<int32_t>(member); task < team->env.num_tasks;
       task += static_cast<int32_t>(team->size)) {
    if (team->body(task, &team->env, team->closure) != 0) team->failed.run.fetch_add(1);
  }
}

int RunInline(ParallelBody body, void* closure) {
  std::atomic<int32_t> barrier{0};
  ParallelEnv env{&barrier, 1};
  return body(0, &env, closure);
}

}  // namespace

#define HIOS_EXPORT extern "C" __attribute__((visibility("default")))

HIOS_EXPORT int32_t hios_abi_version() { return kAbiVersion; }

// Bytes that a session needs; the memory must be zero and aligned to a cache line.
HIOS_EXPORT uint64_t hios_session_bytes(uint32_t num_events) {
  return sizeof(Session) + num_events * sizeof(Event);
}

HIOS_EXPORT void hios_open(Session* session, uint32_t num_workers, uint32_t num_events) {
  session->num_workers = num_workers;
  session->num_events = num_events;
}

// Takes part in all runs: the body of a worker thread. Returns 1 when a kernel failed: the caller
// fetches the error and calls again, and only then can the run end. Returns 0 after `hios_stop`.
HIOS_EXPORT int32_t hios_work(Session* session, Worker* worker) {
  current_team = worker->team;
  if (worker->failed != 0) {
    worker->failed = 0;
    Leave(session, worker->run);
  }
  while (true) {
    Await(session->start, worker->run + 1, worker->spin_ns);
    if (session->stop.load(std::memory_order_seq_cst) != 0) return 0;
    ++worker->run;
    if (!Execute(session, worker)) return 1;
    Leave(session, worker->run);
  }
}

HIOS_EXPORT void hios_start(Session* session) {
  session->running.run.store(session->num_workers, std::memory_order_seq_cst);
  Signal(session->start, session->start.run.load(std::memory_order_relaxed) + 1);
}

// Returns 1 when all workers have left the latest run, 0 when the time is over before.
HIOS_EXPORT int32_t hios_join(Session* session, int64_t limit_ns) {
  const uint32_t run = session->start.run.load(std::memory_order_seq_cst);
  const int64_t end = Now() + limit_ns;
  session->done.sleepers.fetch_add(1, std::memory_order_seq_cst);
  uint32_t seen;
  int64_t left;
  while ((seen = session->done.run.load(std::memory_order_seq_cst)) != run &&
         (left = end - Now()) > 0) {
    Sleep(session->done, seen, left);
  }
  session->done.sleepers.fetch_sub(1, std::memory_order_seq_cst);
  return seen == run ? 1 : 0;
}

// Gives the latest run up: workers leave it after the kernel that they are in.
HIOS_EXPORT void hios_abort(Session* session) {
  Abort(session, session->start.run.load(std::memory_order_seq_cst));
}

// Sends all workers home; no run may be going on.
HIOS_EXPORT void hios_stop(Session* session) {
  session->stop.store(1, std::memory_order_seq_cst);
  Signal(session->start, session->start.run.load(std::memory_order_relaxed) + 1);
}

HIOS_EXPORT uint64_t hios_team_bytes() { return sizeof(Team); }

HIOS_EXPORT void hios_team_open(Team* team, uint32_t size, int64_t spin_ns) {
  team->size = size < kMaxTeam ? size : kMaxTeam;
  team->spin_ns = spin_ns;
}

// Takes part in all loops of a team: the body of a helper thread. Members count from 1.
HIOS_EXPORT void hios_help(Team* team, uint32_t member) {
  for (uint32_t launch = 1;; ++launch) {
    Await(team->launch, launch, team->spin_ns);
    if (team->stop.load(std::memory_order_seq_cst) != 0) return;
    RunTasks(team, member);
    if (team->running.run.fetch_sub(1, std::memory_order_seq_cst) == 1) {
      Signal(team->finished, launch);
    }
  }
}

// Sends the helpers of a team home; no loop may be going on.
HIOS_EXPORT void hios_team_stop(Team* team) {
  team->stop.store(1, std::memory_order_seq_cst);
  Signal(team->launch, team->launch.run.load(std::memory_order_relaxed) + 1);
}

// Executes a parallel loop; kernels call it in place of TVMBackendParallelLaunch.
HIOS_EXPORT int hios_parallel_launch(ParallelBody body, void* closure, int num_tasks) {
  Team* team = current_team;
  if (team == nullptr) return RunInline(body, closure);
  current_team = nullptr;  // loops inside of this one run inline
  const uint32_t launch = team->launch.run.load(std::memory_order_relaxed) + 1;
  team->body = body;
  team->closure = closure;
  team->env.barrier = team->barrier;
  team->env.num_tasks = num_tasks == 0 ? static_cast<int32_t>(team->size) : num_tasks;
  team->failed.run.store(0, std::memory_order_relaxed);
  for (uint32_t i = 0; i < team->size; ++i) team->barrier[16 * i].store(0);
  team->running.run.store(team->size - 1, std::memory_order_seq_cst);
  Signal(team->launch, launch);
  RunTasks(team, 0);
  Await(team->finished, launch, team->spin_ns);
  current_team = team;
  return team->failed.run.load(std::memory_order_seq_cst) == 0 ? 0 : -1;
}
