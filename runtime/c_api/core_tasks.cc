#include "core_tasks.h"

#include <algorithm>
#include <map>
#include <set>

#include "error.h"

namespace hios {
namespace {

CoreTeam MakeTeam(const Cores& cores) {
  CoreTeam team;
  for (size_t i = 0; i < cores.size(); ++i) {
    const auto before = cores.begin() + static_cast<int64_t>(i);
    team.emplace_back(cores[i], static_cast<int>(std::count(cores.begin(), before, cores[i])));
  }
  return team;
}

// An instruction, and whether this worker executes it or assists in it.
struct EntryOfWorker {
  Origin origin;
  bool leads;
};

using Sequences = std::vector<std::pair<CoreWorker, std::vector<EntryOfWorker>>>;

// What each worker does; of calls of one program in a row it assists until the last.
Sequences MakeSequences(const std::vector<CpuProgram>& programs,
                        const std::vector<const CoreTeam*>& teams, const std::vector<Origin>& order) {
  std::map<CoreWorker, size_t> place;
  Sequences sequences;
  for (const CoreTeam* team : teams) {
    for (const CoreWorker& worker : *team) {
      if (place.emplace(worker, sequences.size()).second) sequences.push_back({worker, {}});
    }
  }
  for (const Origin origin : order) {
    const CoreTeam* team = teams[origin.program];
    sequences[place[(*team)[0]]].second.push_back({origin, true});
    if ((*programs[origin.program].steps)[origin.index].kind != Step::kCall) continue;
    for (size_t member = 1; member < team->size(); ++member) {
      auto& entries = sequences[place[(*team)[member]]].second;
      if (!entries.empty() && !entries.back().leads && teams[entries.back().origin.program] == team) {
        entries.pop_back();
      }
      entries.push_back({origin, false});
    }
  }
  Sequences busy;
  for (auto& sequence : sequences) {
    if (!sequence.second.empty()) busy.push_back(std::move(sequence));
  }
  if (busy.empty()) busy.push_back({(*teams[0])[0], {}});  // a session needs a worker
  return busy;
}

EventKey EventOf(const Step& step) {
  const bool is_event = step.kind == Step::kSignal || step.kind == Step::kWait;
  return {false, is_event ? step.event : 0, 0};
}

// The steps of one worker; after a call of `last_calls` it dismisses those who assist.
std::vector<CoreStep> MakeSteps(const CoreWorker& worker, const std::vector<EntryOfWorker>& entries,
                                const std::vector<CpuProgram>& programs,
                                const std::vector<const CoreTeam*>& teams,
                                const std::set<Origin>& last_calls) {
  std::vector<CoreStep> steps;
  for (const auto& [origin, leads] : entries) {
    const CoreTeam* team = teams[origin.program];
    const Step* step = &(*programs[origin.program].steps)[origin.index];
    const EventKey end(true, origin.program, origin.index);
    if (!leads) {
      const auto member = std::find(team->begin(), team->end(), worker) - team->begin();
      steps.push_back({CoreStep::kAssist, step, origin, team, static_cast<size_t>(member), end});
      continue;
    }
    steps.push_back({CoreStep::kStep, step, origin, team, 0, EventOf(*step)});
    if (last_calls.count(origin) != 0) {
      steps.push_back({CoreStep::kDismiss, step, origin, team, 0, end});
    }
  }
  return steps;
}

}  // namespace

CoreTasks MakeCoreTasks(const std::vector<CpuProgram>& programs, const std::vector<Origin>& order) {
  CoreTasks result;
  std::map<CoreTeam, const CoreTeam*> known;
  std::vector<const CoreTeam*> teams;  // of each program; equal ones are one
  for (const CpuProgram& program : programs) {
    result.devices.push_back(program.device);
    CoreTeam team = MakeTeam(program.cores);
    if (known.count(team) == 0) {
      result.teams.push_back(std::make_unique<CoreTeam>(team));
      known[team] = result.teams.back().get();
    }
    teams.push_back(known[team]);
  }
  const Sequences sequences = MakeSequences(programs, teams, order);
  std::set<Origin> last_calls;
  for (const auto& [worker, entries] : sequences) {
    for (const auto& [origin, leads] : entries) {
      if (!leads) last_calls.insert(origin);
    }
  }
  for (const auto& [worker, entries] : sequences) {
    std::shared_ptr<KernelLibrary> library;
    for (const auto& [origin, leads] : entries) {
      const auto& other = programs[origin.program].library;
      if (!leads) continue;
      Require(library == nullptr || library == other, "a core has kernels of several libraries");
      library = other;
    }
    if (library == nullptr) {
      library = programs[entries.empty() ? 0 : entries[0].origin.program].library;
    }
    result.tasks.push_back(
        {worker.first, MakeSteps(worker, entries, programs, teams, last_calls), library});
  }
  return result;
}

}  // namespace hios
