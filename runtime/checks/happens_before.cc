#include "happens_before.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <string>

#include "error.h"

namespace hios {
namespace {

using Signals = std::map<int64_t, Origin>;

Signals FindSignals(const std::vector<Program>& programs) {
  Signals signals;
  for (size_t p = 0; p < programs.size(); ++p) {
    for (size_t i = 0; i < programs[p].instructions.size(); ++i) {
      const Step& step = programs[p].instructions[i];
      if (step.kind != Step::kSignal) continue;
      Require(signals.emplace(step.event, Origin{p, i}).second, [&] {
        return "event " + std::to_string(step.event) + " is signalled twice";
      });
    }
  }
  for (const Program& program : programs) {
    for (const Step& step : program.instructions) {
      Require(step.kind != Step::kWait || signals.count(step.event) != 0, [&] {
        return program.device + " waits for event " + std::to_string(step.event) +
               ", which nobody signals";
      });
    }
  }
  return signals;
}

}  // namespace

std::vector<Origin> ExecutionOrder(const std::vector<Program>& programs) {
  const Signals signals = FindSignals(programs);
  std::vector<Origin> order;
  std::vector<size_t> position(programs.size());
  std::map<int64_t, std::vector<size_t>> waiting;
  // Programs that can go on, in this round and in the next one.
  std::priority_queue<size_t, std::vector<size_t>, std::greater<size_t>> ready, later;
  for (size_t p = 0; p < programs.size(); ++p) ready.push(p);
  while (!ready.empty() || !later.empty()) {
    if (ready.empty()) std::swap(ready, later);
    const size_t p = ready.top();
    ready.pop();
    for (size_t& i = position[p]; i < programs[p].instructions.size(); ++i) {
      const Step& step = programs[p].instructions[i];
      if (step.kind == Step::kWait) {
        const Origin signal = signals.at(step.event);
        if (position[signal.program] <= signal.index) {
          waiting[step.event].push_back(p);
          break;
        }
      }
      order.push_back({p, i});
      if (step.kind != Step::kSignal) continue;
      const auto woken = waiting.find(step.event);
      if (woken == waiting.end()) continue;
      for (const size_t other : woken->second) (other > p ? ready : later).push(other);
      waiting.erase(woken);
    }
  }
  for (size_t p = 0; p < programs.size() && !waiting.empty(); ++p) {
    Require(position[p] == programs[p].instructions.size(), [&] {
      return "the programs wait for each other in a cycle, at instruction " +
             std::to_string(position[p]) + " of " + programs[p].device;
    });
  }
  return order;
}

HappensBefore::HappensBefore(const std::vector<Program>& programs) {
  const Signals signals = FindSignals(programs);
  std::map<Origin, uint32_t> number_of;
  const auto include = [&](std::vector<uint64_t>* before, Origin origin) {
    const uint32_t number = number_of.at(origin);
    const std::vector<uint64_t>& others = before_[number];
    for (size_t word = 0; word < others.size(); ++word) (*before)[word] |= others[word];
    (*before)[number / 64] |= uint64_t{1} << number % 64;
  };
  for (const Origin origin : ExecutionOrder(programs)) {
    const auto number = static_cast<uint32_t>(before_.size());
    const Step& step = programs[origin.program].instructions[origin.index];
    std::vector<uint64_t> before(number / 64 + 1);
    if (origin.index != 0) include(&before, {origin.program, origin.index - 1});
    if (step.kind == Step::kWait) include(&before, signals.at(step.event));
    before_.push_back(std::move(before));
    number_of[origin] = number;
    Collect(step, number);
  }
}

void HappensBefore::Collect(const Step& step, uint32_t number) {
  for (size_t i = 0; i < step.args.size(); ++i) {
    Accesses& accesses = accesses_[step.args[i]];
    (i < step.first_output() ? accesses.reads : accesses.writes).push_back(number);
  }
}

bool HappensBefore::IsBefore(uint32_t first, uint32_t second) const {
  const std::vector<uint64_t>& before = before_[second];
  return first / 64 < before.size() && (before[first / 64] >> first % 64 & 1) != 0;
}

size_t HappensBefore::writers(std::string_view buffer) const {
  const auto found = accesses_.find(buffer);
  return found == accesses_.end() ? 0 : found->second.writes.size();
}

bool HappensBefore::is_used(std::string_view buffer) const { return accesses_.count(buffer) != 0; }

bool HappensBefore::written_first(std::string_view buffer) const {
  const Accesses& accesses = accesses_.find(buffer)->second;
  return std::all_of(accesses.reads.begin(), accesses.reads.end(),
                     [&](uint32_t read) { return IsBefore(accesses.writes[0], read); });
}

size_t HappensBefore::written_at(std::string_view buffer) const {
  return accesses_.find(buffer)->second.writes[0];
}

bool HappensBefore::precedes(std::string_view first, std::string_view second) const {
  const Accesses& accesses = accesses_.find(first)->second;
  const uint32_t write = accesses_.find(second)->second.writes[0];
  const auto is_before = [&](uint32_t access) { return IsBefore(access, write); };
  return std::all_of(accesses.reads.begin(), accesses.reads.end(), is_before) &&
         std::all_of(accesses.writes.begin(), accesses.writes.end(), is_before);
}

}  // namespace hios
