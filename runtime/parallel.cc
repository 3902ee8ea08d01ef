// Stands in for TVM's thread pool: that one polls for long when it is idle, and its threads
// outlive the worker that they belong to.

#include "parallel.h"

namespace hios {
namespace {

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

void JoinTeam(Team* team) { current_team = team; }

HIOS_EXPORT uint64_t hios_team_bytes() { return sizeof(Team); }

HIOS_EXPORT void hios_team_open(Team* team, uint32_t size, int64_t spin_ns) {
  team->size = size;
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

}  // namespace hios
