// Stands in for TVM's thread pool: that one polls for long when it is idle, its threads outlive the
// session that they belong to, and a kernel's share of the cores cannot be chosen.

#include "parallel.h"

namespace hios {
namespace {

thread_local Team* current_team = nullptr;  // of the kernel that runs on this thread

// More tasks than members: one that the system delays, or whose tasks are longer, does fewer.
constexpr int32_t kTasksPerMember = 4;

constexpr int32_t kMostTasks = 0xffff;  // Share

uint64_t Range(uint64_t launch, uint64_t begin, uint64_t end) {
  return launch << 32 | begin << 16 | end;
}

// Takes a task of a loop out of a share, from its begin or its end; -1 when none is left.
int32_t TakeFrom(Share* share, uint64_t launch, bool first) {
  uint64_t range = share->range.load(std::memory_order_seq_cst);
  while (range >> 32 == static_cast<uint32_t>(launch)) {
    const uint64_t begin = range >> 16 & 0xffff, end = range & 0xffff;
    if (begin == end) break;
    const uint64_t rest = first ? Range(launch, begin + 1, end) : Range(launch, begin, end - 1);
    if (share->range.compare_exchange_weak(range, rest)) {
      return static_cast<int32_t>(first ? begin : end - 1);
    }
  }
  return -1;
}

// Takes a member's next task of a loop: of its own share, and then of those of the others.
int32_t Take(Team* team, uint32_t member, uint64_t launch) {
  int32_t task = TakeFrom(&team->shares[member], launch, true);
  for (uint32_t i = 1; task < 0 && i < team->size; ++i) {
    task = TakeFrom(&team->shares[(member + i) % team->size], launch, false);
  }
  return task;
}

// Runs tasks of loop `launch` until none is left. The loop cannot end, nor the next one begin,
// while somebody holds a task: what describes the loop is read only then. `Team::number` is part of
// that: a helper that was delayed for 2^32 loops takes tasks of a later one.
void RunTasks(Team* team, uint32_t member, uint64_t launch) {
  for (int32_t task; (task = Take(team, member, launch)) >= 0;) {
    if (team->body(task, &team->env, team->closure) != 0) team->failed.run.fetch_add(1);
    if (team->unfinished.run.fetch_sub(1, std::memory_order_seq_cst) == 1) {
      Signal(team->finished, team->number);
    }
  }
}

int RunInline(ParallelBody body, void* closure) {
  std::atomic<int32_t> barrier{0};
  ParallelEnv env{&barrier, 1};
  return body(0, &env, closure);
}

}  // namespace

void UseTeam(Team* team) { current_team = team; }

bool Assist(Team* team, uint32_t member, const Event& end, uint64_t run, int64_t spin_ns,
            const Event& aborted, int64_t until) {
  current_team = nullptr;  // loops inside of the team's run inline
  uint64_t launch = team->launch.run.load(std::memory_order_seq_cst);
  while (!Reached(end, run)) {
    if (Reached(aborted, run) || Now() >= until) return false;
    RunTasks(team, member, launch);
    launch = AwaitChange(team->launch, launch, spin_ns, kSliceNs);
  }
  return true;
}

void Dismiss(Team* team, Event& end, uint64_t run) {
  Signal(end, run);
  Signal(team->launch, team->launch.run.load(std::memory_order_relaxed) + 1);  // of no loop
}

HIOS_EXPORT uint64_t hios_team_bytes() { return sizeof(Team); }

HIOS_EXPORT void hios_team_open(Team* team, uint32_t size, int64_t spin_ns) {
  team->size = size;
  team->spin_ns = spin_ns;
}

// Executes a parallel loop; kernels call it in place of TVMBackendParallelLaunch.
HIOS_EXPORT int hios_parallel_launch(ParallelBody body, void* closure, int num_tasks) {
  Team* team = current_team;
  if (team == nullptr || num_tasks > kMostTasks) return RunInline(body, closure);
  current_team = nullptr;  // loops inside of this one run inline
  const uint64_t launch = team->launch.run.load(std::memory_order_relaxed) + 1;
  team->number = launch;
  team->body = body;
  team->closure = closure;
  team->env.barrier = team->barrier;
  // A kernel that asks for a number of tasks may let them wait for each other.
  const int32_t members = static_cast<int32_t>(team->size);
  const int32_t tasks = num_tasks == 0 ? members * kTasksPerMember : num_tasks;
  team->env.num_tasks = tasks;
  team->failed.run.store(0, std::memory_order_relaxed);
  for (uint32_t i = 0; i < team->size; ++i) team->barrier[16 * i].store(0);
  team->unfinished.run.store(static_cast<uint32_t>(tasks), std::memory_order_seq_cst);
  for (uint64_t i = 0; i < team->size; ++i) {
    const uint64_t begin = i * tasks / team->size, end = (i + 1) * tasks / team->size;
    team->shares[i].range.store(Range(launch, begin, end), std::memory_order_seq_cst);
  }
  Signal(team->launch, launch);
  RunTasks(team, 0, launch);
  Await(team->finished, launch, team->spin_ns);
  current_team = team;
  return team->failed.run.load(std::memory_order_seq_cst) == 0 ? 0 : -1;
}

}  // namespace hios
