// The happens-before order of instructions: what programs guarantee in every possible run.
//
// Instructions are ordered by their position in a program and by signals and waits. Two instructions
// that this order does not fix may run at the same time. Programs that wait for each other in a cycle
// have no such order: they would hang.

#ifndef HIOS_CHECKS_HAPPENS_BEFORE_H_
#define HIOS_CHECKS_HAPPENS_BEFORE_H_

#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "manifest.h"

namespace hios {

// An instruction by its program and its place there.
struct Origin {
  size_t program, index;

  bool operator==(const Origin& other) const {
    return program == other.program && index == other.index;
  }
  bool operator<(const Origin& other) const {
    return program != other.program ? program < other.program : index < other.index;
  }
};

// All instructions, each after all that it waits for. Throws `Error` (HIOS_ARTIFACT) where an event is
// signalled twice, or awaited and never signalled, or where programs wait for each other in a cycle.
std::vector<Origin> ExecutionOrder(const std::vector<Program>& programs);

// Takes quadratic time and memory: each instruction has the bit set of all before it.
class HappensBefore {
 public:
  // Throws as `ExecutionOrder`. The programs must live as long.
  explicit HappensBefore(const std::vector<Program>& programs);

  // How many instructions write a buffer.
  size_t writers(std::string_view buffer) const;
  bool is_used(std::string_view buffer) const;

  // Of buffers that one instruction writes: whether each read comes after it.
  bool written_first(std::string_view buffer) const;
  // The place of that instruction in one possible run.
  size_t written_at(std::string_view buffer) const;
  // Whether all accesses of one come before all of another. The latter's first access is its write,
  // as `written_first` has shown.
  bool precedes(std::string_view first, std::string_view second) const;

 private:
  // Instructions by their number in the order of `ExecutionOrder`.
  struct Accesses {
    std::vector<uint32_t> reads, writes;
  };

  void Collect(const Step& step, uint32_t number);
  bool IsBefore(uint32_t first, uint32_t second) const;

  std::vector<std::vector<uint64_t>> before_;
  std::map<std::string_view, Accesses> accesses_;
};

}  // namespace hios

#endif  // HIOS_CHECKS_HAPPENS_BEFORE_H_
