// Stands in for TVM's thread pool: that one polls for long when it is idle, its threads outlive the
// session that they belong to, and a kernel's share of the cores cannot be chosen.

#include "parallel.h"

namespace hios {
namespace {

thread_local Team* current_team = nullptr;  // of the kernel that runs on this thread

// More tasks than members: one that the system delays, or whose tasks are longer, does fewer.
constexpr int32_t kTasksPerMember = 4;

// A loop's tickets: the lower half of its number above, the tasks that are left below.
uint64_t Tickets(uint64_t launch, int32_t tasks) {
  return launch << 32 | static_cast<uint32_t>(tasks);
}

// Takes a task of the loop whose tickets these are: counted from its last one, 1 to all; 0 when none
// is left.
int32_t Take(Team* team, uint64_t launch) {
  uint64_t tickets = team->tickets.load(std::memory_order_seq_cst);
  while (tickets >> 32 == static_cast<uint32_t>(launch) && static_cast<uint32_t>(tickets) != 0) {
    if (team->tickets.compare_exchange_weak(tickets, tickets - 1)) {
      return static_cast<int32_t>(static_cast<uint32_t>(tickets));
    }
  }
  return 0;
}

// Runs tasks of loop `launch` until none is left. The loop cannot end, nor the next one begin,
// while somebody holds a task: what describes the loop is read only then. `Team::number` is part of
// that: a helper that was delayed for 2^32 loops takes tasks of a later one.
void RunTasks(Team* team, uint64_t launch) {
  while (const int32_t left = Take(team, launch)) {
    const int32_t task = team->env.num_tasks - left;
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

bool Assist(Team* team, const Event& end, uint64_t run, int64_t spin_ns, const Event& aborted,
            int64_t until) {
  current_team = nullptr;  // loops inside of the team's run inline
  uint64_t launch = team->launch.run.load(std::memory_order_seq_cst);
  while (!Reached(end, run)) {
    if (Reached(aborted, run) || Now() >= until) return false;
    RunTasks(team, launch);
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
  if (team == nullptr) return RunInline(body, closure);
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
  team->tickets.store(Tickets(launch, tasks), std::memory_order_seq_cst);
  Signal(team->launch, launch);
  RunTasks(team, launch);
  Await(team->finished, launch, team->spin_ns);
  current_team = team;
  return team->failed.run.load(std::memory_order_seq_cst) == 0 ? 0 : -1;
}

}  // namespace hios
