// Executes the programs of an artifact: one worker thread per core, one per GPU.
//
// This file is linked into the library of every device, next to its kernels. A GPU's worker runs no
// kernel itself; it feeds the GPU's streams (cuda.h), in one order for all of them. Python fills the
// plain structs of program.h once, when an artifact is loaded, and starts one thread in `hios_work`
// for each of them; a run then needs neither the interpreter nor its lock.
//
// Runs are numbered, and a run starts by raising the number in `Session::start`. The thread that
// starts a run may take the place of one worker, the leader (`hios_lead`): what it wakes and waits for
// then is only the others.
//
// A session with several slots has as many runs at once: each has events, and programs for memory, of its
// own. Every worker executes all runs, in their order, so that one begins the next run while others are
// still in this one. Nobody leads there. What a run waits for comes from workers that have only runs
// before it to end: since a run alone ends, all do.

#include <tvm/ffi/c_api.h>

#include <cstring>

#include "program.h"

namespace hios {
namespace {

using Kernel = int (*)(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result);

// What a run has of its own, until the next one in its slot.
struct Slot {
  Event done;             // the last run that all workers have left
  Event aborted;          // the last run that was given up
  Event running;          // `run` counts the workers that are still in the run
  Event events[1];        // really `Session::num_events`
};

struct Session {
  Event start;            // the last run to execute
  Event start_leader;     // the run that the leading worker executes itself, not the caller
  Word stop;
  uint32_t num_workers;
  uint32_t num_events;
  uint32_t num_slots;
  Event slots[1];         // really `num_slots` of `Slot`
};

uint32_t EventsOfSlot(uint32_t num_events) {
  return static_cast<uint32_t>(sizeof(Slot) / sizeof(Event)) - 1 + num_events;
}

uint32_t SlotNumber(const Session* session, uint64_t run) {
  return static_cast<uint32_t>(run % session->num_slots);
}

Slot* SlotOf(Session* session, uint64_t run) {
  const uint64_t first = uint64_t{SlotNumber(session, run)} * EventsOfSlot(session->num_events);
  return reinterpret_cast<Slot*>(session->slots + first);
}

void Abort(Session* session, uint64_t run) {
  Slot* slot = SlotOf(session, run);
  slot->aborted.run.store(run, std::memory_order_seq_cst);
  for (uint32_t i = 0; i < session->num_events; ++i) WakeSleepers(slot->events[i]);
}

// Executes a GPU's instruction with the driver; returns the driver's result code, `kNotReady` where a
// stream is not empty at `until`.
int Enqueue(Slot* slot, Worker* worker, const Instruction& step, int64_t until) {
  const CudaDriver& driver = *worker->driver;
  switch (step.opcode) {
    case Opcode::kLaunch:
      return Launch(driver, *static_cast<GpuLaunch*>(step.source), step.target);
    case Opcode::kEnqueueCopy:
      return Copy(driver, *static_cast<GpuCopy*>(step.source), step.target);
    case Opcode::kRecord:
      return driver.record(step.source, step.target);
    case Opcode::kAwaitRecorded:
      return driver.wait_event(step.target, step.source, 0);
    case Opcode::kSignalFromStream: {
      auto* signal = static_cast<HostSignal*>(step.source);
      *signal = {&slot->events[step.number], worker->run};
      return driver.call_host(step.target, SignalFromStream, signal);
    }
    case Opcode::kLaunchGraph:
      return driver.launch_graph(step.source, step.target);
    default:
      return AwaitStream(driver, step.target, until);
  }
}

// Waits until the GPU has finished all enqueued work, after a run that was given up: its streams are not
// empty then, and the next run uses the same memory. Returns false where it has not at `until`.
bool Drain(Session* session, Worker* worker, int64_t until = kForever) {
  Slot* slot = SlotOf(session, worker->run);
  if (!Reached(slot->aborted, worker->run)) return true;
  for (uint32_t i = 0; i < worker->length && worker->driver != nullptr; ++i) {
    const Instruction& step = worker->program[i];
    if (step.opcode != Opcode::kSynchronize) continue;
    if (Enqueue(slot, worker, step, until) == kNotReady) return false;
  }
  return true;
}

enum class Outcome { kDone, kFailed, kPaused };

Outcome Paused(const Slot* slot, uint64_t run) {
  return Reached(slot->aborted, run) ? Outcome::kDone : Outcome::kPaused;
}

// Executes the program, from where it was paused; a program is paused where it waits or ends a kernel
// after `until`.
Outcome Execute(Session* session, Worker* worker, int64_t until = kForever) {
  const uint64_t run = worker->run;
  Slot* slot = SlotOf(session, run);
  const uint64_t number = SlotNumber(session, run);
  const Instruction* program = worker->program + number * worker->length;
  int64_t* time = worker->times + number * (worker->length + 1) + worker->next;
  if (worker->next == 0) *time = Now();
  for (uint32_t& i = worker->next; i < worker->length; ++i) {
    if (Reached(slot->aborted, run)) break;
    if (*time >= until) return Outcome::kPaused;
    const Instruction& step = program[i];
    switch (step.opcode) {
      case Opcode::kCall: {
        UseTeam(step.team);
        TVMFFIAny result{};
        const auto* args = static_cast<const TVMFFIAny*>(step.source);
        const auto kernel = reinterpret_cast<Kernel>(step.target);
        if (kernel(nullptr, args, static_cast<int32_t>(step.number), &result) != 0) {
          worker->failed = i + 1;
          Abort(session, run);
          return Outcome::kFailed;
        }
        break;
      }
      case Opcode::kCopy:
        std::memcpy(static_cast<DLTensor*>(step.target)->data,
                    static_cast<const DLTensor*>(step.source)->data, step.bytes);
        break;
      case Opcode::kSignal:
        Signal(slot->events[step.number], run);
        break;
      case Opcode::kWait:
        if (!Await(slot->events[step.number], run, worker->spin_ns, &slot->aborted, until)) {
          return Paused(slot, run);
        }
        break;
      case Opcode::kAssist:
        if (!Assist(step.team, static_cast<uint32_t>(step.bytes), slot->events[step.number], run,
                    worker->spin_ns, slot->aborted, until)) {
          return Paused(slot, run);
        }
        break;
      case Opcode::kDismiss:
        Dismiss(step.team, slot->events[step.number], run);
        break;
      default:
        worker->status = Enqueue(slot, worker, step, until);
        if (worker->status == kNotReady) {
          worker->status = 0;
          return Paused(slot, run);
        }
        if (worker->status != 0) {
          worker->failed = i + 1;
          Abort(session, run);
          return Outcome::kFailed;
        }
    }
    *++time = Now();
  }
  return Outcome::kDone;
}

void Enter(Worker* worker, uint64_t run) {
  worker->run = run;
  worker->next = 0;
}

void Leave(Session* session, Worker* worker) {
  worker->next = kLeft;
  Slot* slot = SlotOf(session, worker->run);
  if (slot->running.run.fetch_sub(1, std::memory_order_seq_cst) == 1) {
    Signal(slot->done, worker->run);
  }
}

void LeaveAfterFailure(Session* session, Worker* worker) {
  worker->failed = 0;
  worker->status = 0;
  Leave(session, worker);
}

constexpr int64_t kLongRunNs = 200'000;

// The thread of a caller that leads, on the leader's core meanwhile: the other workers are pinned to
// theirs, and cannot make room for it. This takes 2 us, so it is done where the last run was long,
// and in the first run: a caller on another worker's core would halve its speed.
class BorrowedThread {
 public:
  void MoveTo(int core) {
    if (sched_getaffinity(0, sizeof(before_), &before_) != 0) return;
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(core, &only);
    moved_ = sched_setaffinity(0, sizeof(only), &only) == 0;
  }

  void MoveBack() {
    if (moved_) sched_setaffinity(0, sizeof(before_), &before_);
    moved_ = false;
  }

 private:
  bool moved_ = false;
  cpu_set_t before_;
};

thread_local BorrowedThread borrowed_thread;

// The context of a worker's GPU, current in the thread of a caller that leads: that has perhaps its own.
class BorrowedContext {
 public:
  explicit BorrowedContext(const Worker* worker) : driver_(worker->driver) {
    if (driver_ != nullptr) driver_->push_context(worker->context);
  }

  ~BorrowedContext() {
    void* context;
    if (driver_ != nullptr) driver_->pop_context(&context);
  }

 private:
  const CudaDriver* driver_;
};

// Executes the leading worker's program in the thread of the caller, as `hios_lead` returns it.
int32_t Lead(Session* session, Worker* worker, int64_t until) {
  const BorrowedContext context(worker);
  if (worker->failed != 0) {
    if (!Drain(session, worker, until)) return 2;
    LeaveAfterFailure(session, worker);
    return 0;
  }
  const Outcome outcome = Execute(session, worker, until);
  if (outcome == Outcome::kFailed) return 1;
  if (outcome == Outcome::kPaused || !Drain(session, worker, until)) return 2;
  Leave(session, worker);
  return 0;
}

}  // namespace

HIOS_EXPORT int32_t hios_abi_version() { return kAbiVersion; }

// Bytes that a session needs; the memory must be zero and aligned to a cache line.
HIOS_EXPORT uint64_t hios_session_bytes(uint32_t num_events, uint32_t num_slots) {
  return sizeof(Session) + uint64_t{num_slots} * EventsOfSlot(num_events) * sizeof(Event);
}

// Of workers, `program` and `times` are those of all slots, one behind the other.
HIOS_EXPORT void hios_open(Session* session, uint32_t num_workers, uint32_t num_events,
                           uint32_t num_slots) {
  session->num_workers = num_workers;
  session->num_events = num_events;
  session->num_slots = num_slots;
}

// Takes part in runs: the body of a worker thread. Returns 1 when a kernel failed: the caller
// fetches the error and calls again, and only then can the run end. Returns 0 after `hios_stop`.
HIOS_EXPORT int32_t hios_work(Session* session, Worker* worker) {
  // Before its own first run a thread has none to leave: what it finds then is of a caller that leads.
  if (worker->seen != 0 && worker->failed != 0) LeaveAfterFailure(session, worker);
  Event& start = worker->core == kNoCore ? session->start : session->start_leader;
  while (true) {
    const uint64_t last = AwaitChange(start, worker->seen, worker->spin_ns, kForever);
    if (session->stop.load(std::memory_order_seq_cst) != 0) return 0;
    const uint64_t run = session->num_slots == 1 ? last : worker->seen + 1;
    worker->seen = run;
    Enter(worker, run);
    const Outcome outcome = Execute(session, worker);
    Drain(session, worker);
    if (outcome == Outcome::kFailed) return 1;
    Leave(session, worker);
  }
}

// Takes the leading worker's part in the latest run. Returns 0 when the program has ended; 1 when a
// kernel failed, and 2 after about `slice_ns`, whereupon the caller calls again.
HIOS_EXPORT int32_t hios_lead(Session* session, Worker* worker, int64_t slice_ns) {
  const uint64_t run = session->start.run.load(std::memory_order_relaxed);
  if (worker->run != run) {
    const int64_t ended = worker->times[worker->length];  // the last run
    const bool is_long = ended == 0 || ended - worker->times[0] >= kLongRunNs;
    Enter(worker, run);
    if (is_long && worker->core >= 0) borrowed_thread.MoveTo(worker->core);
  }
  if (worker->next == kLeft) return 0;  // an interrupted caller has lost count
  const int32_t code = Lead(session, worker, Now() + slice_ns);
  if (code != 0) return code;
  UseTeam(nullptr);
  borrowed_thread.MoveBack();
  return 0;
}

// Starts a run, and returns its number; the last run of its slot has ended. `leads` says whether the
// caller will take the leading worker's part.
HIOS_EXPORT uint64_t hios_start(Session* session, int32_t leads) {
  const uint64_t run = session->start.run.load(std::memory_order_relaxed) + 1;
  SlotOf(session, run)->running.run.store(session->num_workers, std::memory_order_seq_cst);
  Signal(session->start, run);
  if (leads == 0) Signal(session->start_leader, run);
  return run;
}

// Starts a run and takes the leading worker's part. Returns 0 when the whole run has ended, else what
// `hios_lead` did, or 3 where the other workers have not ended within `spin_ns`.
HIOS_EXPORT int32_t hios_run(Session* session, Worker* worker, int64_t slice_ns, int64_t spin_ns) {
  const uint64_t run = hios_start(session, 1);
  const int32_t code = hios_lead(session, worker, slice_ns);
  if (code != 0) return code;
  const Event& done = SlotOf(session, run)->done;
  return Poll([&] { return Reached(done, run); }, spin_ns) ? 0 : 3;
}

// The number of the latest run.
HIOS_EXPORT uint64_t hios_latest(Session* session) {
  return session->start.run.load(std::memory_order_seq_cst);
}

// Returns 1 when all workers have left `run`, 0 when the time is over before. It is one of the latest
// runs, as many as there are slots.
HIOS_EXPORT int32_t hios_join(Session* session, uint64_t run, int64_t limit_ns) {
  Event& done = SlotOf(session, run)->done;
  const int64_t end = Now() + limit_ns;
  done.sleepers.fetch_add(1, std::memory_order_seq_cst);
  uint64_t seen;
  int64_t left;
  while ((seen = done.run.load(std::memory_order_seq_cst)) != run && (left = end - Now()) > 0) {
    Sleep(done, seen, left);
  }
  done.sleepers.fetch_sub(1, std::memory_order_seq_cst);
  return seen == run ? 1 : 0;
}

// Gives `run` up: workers leave it after the kernel that they are in.
HIOS_EXPORT void hios_abort(Session* session, uint64_t run) { Abort(session, run); }

// Ends all worker threads; no run may be going on.
HIOS_EXPORT void hios_stop(Session* session) {
  session->stop.store(1, std::memory_order_seq_cst);
  const uint64_t run = session->start.run.load(std::memory_order_relaxed) + 1;
  Signal(session->start, run);
  Signal(session->start_leader, run);
}

}  // namespace hios
