#include "worker_threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <future>
#include <mutex>
#include <system_error>
#include <utility>

#include "error.h"
#include "memory.h"
#include "tvm_functions.h"

namespace hios {
namespace {

constexpr int64_t kSliceOfRunNs = 50'000'000;  // how often a caller looks for the end of its time
constexpr int64_t kJoinSpinNs = 50'000;        // other workers end about when a caller that led has
constexpr int64_t kGraceNs = 5'000'000'000;    // for the kernels that run when a run is given up
constexpr int32_t kFailed = 1, kPaused = 2;    // what hios_run and hios_lead return

std::shared_ptr<void> Zeros(size_t bytes) {
  void* memory = aligned_alloc(kAlignment, AlignUp(bytes));
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0, AlignUp(bytes));
  return std::shared_ptr<void>(memory, free);
}

// Threads that are started meanwhile get no signals: the program's own threads handle them.
class NoSignals {
 public:
  NoSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  ~NoSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace

// What the threads share with their owner. Where a kernel hangs they keep it.
struct WorkerThreads::Shared {
  struct Failure {
    size_t task, step;
    std::string message;
  };

  // A task as the executor reads it.
  struct Lowered {
    std::vector<Instruction> program;
    std::vector<TVMFFIAny> arguments;
    std::vector<int64_t> times;
  };

  CoreTasks tasks;
  std::shared_ptr<TensorTable> tensors;
  std::vector<std::shared_ptr<void>> memory;
  std::map<EventKey, uint32_t> events;
  std::map<const CoreTeam*, Team*> teams;
  std::vector<Lowered> lowered;
  std::vector<Worker> workers;
  const KernelLibrary* library = nullptr;  // of the first task
  void* session = nullptr;
  std::mutex mutex;
  std::vector<Failure> failures;

  void NumberEvents() {
    for (const CoreTask& task : tasks.tasks) {
      for (const CoreStep& step : task.steps) {
        const bool has_event = step.kind != CoreStep::kStep || step.step->kind == Step::kSignal ||
                               step.step->kind == Step::kWait;
        if (has_event) events.emplace(step.event, static_cast<uint32_t>(events.size()));
      }
    }
  }

  void OpenTeams(int64_t spin_ns) {
    for (const CoreTask& task : tasks.tasks) {
      for (const CoreStep& step : task.steps) {
        if (step.team->size() < 2 || teams.count(step.team) != 0) continue;
        memory.push_back(Zeros(task.library->team_bytes()));
        teams[step.team] = static_cast<Team*>(memory.back().get());
        const auto size = static_cast<uint32_t>(step.team->size());
        task.library->team_open(teams[step.team], size, spin_ns);
      }
    }
  }

  void Lower(const CoreTask& task, Lowered* result) {
    size_t arguments = 0;
    for (const CoreStep& step : task.steps) arguments += step.step->args.size();
    result->arguments.reserve(arguments);  // their addresses must not change
    for (const CoreStep& step : task.steps) {
      Instruction instruction{};
      const auto team = teams.find(step.team);
      instruction.team = team == teams.end() ? nullptr : team->second;
      const bool is_step = step.kind == CoreStep::kStep;
      if (is_step && step.step->kind == Step::kCall) {
        LowerCall(task, *step.step, result, &instruction);
      } else if (is_step && step.step->kind == Step::kCopy) {
        instruction.opcode = Opcode::kCopy;
        instruction.bytes = tensors->bytes(step.step->args[1]);
        instruction.target = tensors->tensor(step.step->args[1]);
        instruction.source = tensors->tensor(step.step->args[0]);
      } else {
        instruction.opcode = step.kind == CoreStep::kAssist    ? Opcode::kAssist
                             : step.kind == CoreStep::kDismiss ? Opcode::kDismiss
                             : step.step->kind == Step::kSignal ? Opcode::kSignal
                                                                : Opcode::kWait;
        instruction.number = events.at(step.event);
        instruction.bytes = step.member;
      }
      result->program.push_back(instruction);
    }
    result->times.resize(task.steps.size() + 1);
  }

  void LowerCall(const CoreTask& task, const Step& call, Lowered* result, Instruction* instruction) {
    instruction->opcode = Opcode::kCall;
    instruction->number = static_cast<uint32_t>(call.args.size());
    instruction->target = task.library->kernel(call.kernel);
    instruction->source = result->arguments.data() + result->arguments.size();
    for (const std::string& name : call.args) {
      TVMFFIAny argument{};
      argument.type_index = kTVMFFIDLTensorPtr;
      argument.v_ptr = tensors->tensor(name);
      result->arguments.push_back(argument);
    }
  }

  Worker MakeWorker(Lowered* task, int64_t spin_ns) {
    Worker worker{};
    worker.program = task->program.data();
    worker.length = static_cast<uint32_t>(task->program.size());
    worker.times = task->times.data();
    worker.spin_ns = spin_ns;
    worker.next = kLeft;
    worker.core = kNoCore;
    return worker;
  }

  void AddFailure(size_t number) {
    const Worker& worker = workers[number];
    const std::scoped_lock lock(mutex);
    failures.push_back({number, worker.failed - 1, TakeRaisedMessage()});
  }
};

WorkerThreads::WorkerThreads(CoreTasks tasks, std::shared_ptr<TensorTable> tensors,
                             std::vector<std::shared_ptr<void>> memory, double spin_us)
    : shared_(std::make_shared<Shared>()), process_(getpid()) {
  Shared& shared = *shared_;
  const auto spin_ns = static_cast<int64_t>(1000 * spin_us);
  shared.tasks = std::move(tasks);
  shared.tensors = std::move(tensors);
  shared.memory = std::move(memory);
  shared.library = shared.tasks.tasks[0].library.get();
  shared.NumberEvents();
  shared.OpenTeams(spin_ns);
  const auto num_tasks = static_cast<uint32_t>(shared.tasks.tasks.size());
  const auto num_events = static_cast<uint32_t>(shared.events.size());
  shared.memory.push_back(Zeros(shared.library->session_bytes(num_events, 1)));
  shared.session = shared.memory.back().get();
  shared.library->open(shared.session, num_tasks, num_events, 1);
  shared.lowered.resize(num_tasks);
  for (uint32_t i = 0; i < num_tasks; ++i) {
    shared.Lower(shared.tasks.tasks[i], &shared.lowered[i]);
    shared.workers.push_back(shared.MakeWorker(&shared.lowered[i], spin_ns));
  }
  shared.workers[0].core = shared.tasks.tasks[0].core;  // the caller of a run takes its place
  StartThreads();
}

WorkerThreads::~WorkerThreads() {
  if (getpid() != process_) {  // the threads are the parent's
    for (std::thread& thread : threads_) thread.detach();
    return;
  }
  Stop();
}

void WorkerThreads::Stop() {
  shared_->library->stop(shared_->session);
  for (std::thread& thread : threads_) is_stuck_ ? thread.detach() : thread.join();
}

bool WorkerThreads::PinTo(int core) {
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(static_cast<unsigned>(core), &only);
  return sched_setaffinity(0, sizeof(only), &only) == 0;
}

void WorkerThreads::Work(const std::shared_ptr<Shared>& shared, size_t number) {
  const CoreTask& task = shared->tasks.tasks[number];
  while (task.library->work(shared->session, &shared->workers[number]) != 0) {
    shared->AddFailure(number);
  }
}

void WorkerThreads::StartThreads() {
  const NoSignals no_signals;
  std::vector<std::future<bool>> started;
  try {
    for (size_t i = 0; i < shared_->tasks.tasks.size(); ++i) {
      std::promise<bool> is_pinned;
      started.push_back(is_pinned.get_future());
      threads_.emplace_back(
          [shared = shared_, i](std::promise<bool> is_pinned) {
            is_pinned.set_value(PinTo(shared->tasks.tasks[i].core));
            Work(shared, i);
          },
          std::move(is_pinned));
    }
  } catch (const std::system_error&) {
    Stop();
    Fail(HIOS_DEVICE, "this process cannot start " + std::to_string(shared_->tasks.tasks.size()) +
                          " threads");
  }
  for (size_t i = 0; i < started.size(); ++i) {
    if (started[i].get()) continue;
    Stop();
    Fail(HIOS_DEVICE, "a worker cannot be put on core " +
                          std::to_string(shared_->tasks.tasks[i].core));
  }
}

void WorkerThreads::Run(int64_t end_ns) {
  RequireFree();
  if (end_ns == kForever) {
    Lead();
  } else {
    shared_->library->start(shared_->session, 0);
    try {
      Join(end_ns);
    } catch (const Error&) {
      GiveUp();
      throw;
    }
  }
  ThrowFailure();
}

void WorkerThreads::RequireFree() const {
  if (getpid() != process_) {
    Fail(HIOS_CLOSED, "the session belongs to the process that loaded it: load the artifact again "
                      "after a fork");
  }
  if (is_stuck_) {
    Fail(HIOS_CLOSED, "a kernel of an earlier run has not returned: load the artifact again");
  }
}

// Starts a run, and executes the first worker's program in this thread.
void WorkerThreads::Lead() {
  const KernelLibrary& library = *shared_->library;
  Worker* worker = &shared_->workers[0];
  int32_t code = library.run(shared_->session, worker, kSliceOfRunNs, kJoinSpinNs);
  if (code == 0) return;
  for (; code == kFailed || code == kPaused;
       code = library.lead(shared_->session, worker, kSliceOfRunNs)) {
    if (code == kFailed) shared_->AddFailure(0);
  }
  Join(kForever);
}

void WorkerThreads::Join(int64_t end_ns) {
  const uint64_t run = shared_->library->latest(shared_->session);
  while (true) {
    const int64_t left = end_ns == kForever ? kSliceOfRunNs : end_ns - Now();
    const int64_t limit = std::max<int64_t>(0, std::min(left, kSliceOfRunNs));
    if (shared_->library->join(shared_->session, run, limit) != 0) return;
    if (end_ns != kForever && Now() >= end_ns) {
      Fail(HIOS_TIMEOUT, "the run took longer than its timeout and was given up");
    }
  }
}

void WorkerThreads::GiveUp() {
  const uint64_t run = shared_->library->latest(shared_->session);
  shared_->library->abort(shared_->session, run);
  is_stuck_ = shared_->library->join(shared_->session, run, kGraceNs) == 0;
  const std::scoped_lock lock(shared_->mutex);
  shared_->failures.clear();
}

void WorkerThreads::ThrowFailure() {
  const std::scoped_lock lock(shared_->mutex);
  if (shared_->failures.empty()) return;
  const Shared::Failure failure = std::exchange(shared_->failures, {})[0];
  const CoreStep& step = shared_->tasks.tasks[failure.task].steps[failure.step];
  const bool is_call = step.kind == CoreStep::kStep && step.step->kind == Step::kCall;
  Fail(HIOS_EXECUTION, (is_call ? "operator " + Quoted(step.step->operation) : "a copy or wait") +
                           " failed on " + shared_->tasks.devices[step.origin.program] + ": " +
                           failure.message);
}

const std::vector<CoreTask>& WorkerThreads::tasks() const { return shared_->tasks.tasks; }

const std::vector<int64_t>& WorkerThreads::times(size_t task) const {
  return shared_->lowered[task].times;
}

}  // namespace hios
