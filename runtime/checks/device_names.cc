#include "device_names.h"

#include <algorithm>

#include "error.h"

namespace hios {
namespace {

constexpr size_t kMaxCores = 256;  // of one device, as in parallel.h

// Reads names from their beginning.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : left_(text) {}

  bool Skip(std::string_view word) {
    if (left_.substr(0, word.size()) != word) return false;
    left_.remove_prefix(word.size());
    return true;
  }

  // Whether a number of 1 to `most` digits comes next.
  bool Number(size_t most, int* number) {
    size_t digits = 0;
    *number = 0;
    while (digits < left_.size() && digits < most && left_[digits] >= '0' && left_[digits] <= '9') {
      *number = 10 * *number + (left_[digits++] - '0');
    }
    left_.remove_prefix(digits);
    return digits != 0;
  }

  bool AtEnd() const { return left_.empty(); }

 private:
  std::string_view left_;
};

struct CoreRange {
  int first, last;
};

bool ReadCpuName(std::string_view device, std::vector<CoreRange>* ranges) {
  Cursor cursor(device);
  if (!cursor.Skip("cpu@")) return false;
  do {
    CoreRange range;
    if (!cursor.Number(4, &range.first)) return false;
    range.last = range.first;
    if (cursor.Skip("-") && !cursor.Number(4, &range.last)) return false;
    ranges->push_back(range);
  } while (cursor.Skip("+"));
  return cursor.AtEnd();
}

Cores CoresOfRanges(std::string_view device, const std::vector<CoreRange>& ranges) {
  Cores cores;
  for (const CoreRange& range : ranges) {
    for (int core = range.first; core <= range.last && cores.size() <= kMaxCores; ++core) {
      cores.push_back(core);
    }
  }
  std::sort(cores.begin(), cores.end());
  const bool twice = std::adjacent_find(cores.begin(), cores.end()) != cores.end();
  if (cores.empty() || twice || cores.size() > kMaxCores) {
    Fail(HIOS_DEVICE, "device " + Quoted(device) + " names no core, one twice, or more than " +
                          std::to_string(kMaxCores));
  }
  return cores;
}

}  // namespace

const DeviceKind& DeviceKinds::of(std::string_view device) const {
  std::string examples;
  for (const DeviceKind& kind : kinds_) {
    if (device.substr(0, kind.name.size()) == kind.name) return kind;
    examples += (examples.empty() ? "" : " or ") + kind.first;
  }
  Fail(HIOS_DEVICE, "device " + Quoted(device) + " is unknown: write for example " + examples);
}

Cores ParseCores(std::string_view device) {
  std::vector<CoreRange> ranges;
  if (!ReadCpuName(device, &ranges)) {
    Fail(HIOS_DEVICE, Quoted(device) + " is no CPU device: write cpu@0, cpu@0-3 or cpu@0-3+8-11");
  }
  return CoresOfRanges(device, ranges);
}

Cores CoresOf(std::string_view device) {
  std::vector<CoreRange> ranges;
  return ReadCpuName(device, &ranges) ? CoresOfRanges(device, ranges) : Cores();
}

void CheckGpuName(std::string_view device) {
  Cursor cursor(device);
  int index, part = 0, parts = 1;
  const bool is_gpu = cursor.Skip("cuda:") && cursor.Number(3, &index) &&
                      (cursor.AtEnd() || (cursor.Skip(".") && cursor.Number(2, &part) &&
                                          cursor.Skip("/") && cursor.Number(2, &parts))) &&
                      cursor.AtEnd();
  if (!is_gpu || part >= parts) {
    Fail(HIOS_DEVICE, Quoted(device) +
                          " is no GPU: write cuda:0, cuda:1, ..., or cuda:0.1/2 for a half");
  }
}

std::string CpuDeviceName(const Cores& cores) {
  std::string name = "cpu@";
  for (size_t i = 0; i < cores.size();) {
    size_t last = i;
    while (last + 1 < cores.size() && cores[last + 1] == cores[last] + 1) ++last;
    if (i != 0) name += '+';
    name += std::to_string(cores[i]);
    if (last != i) name += '-' + std::to_string(cores[last]);
    i = last + 1;
  }
  return name;
}

std::string_view WholeDevice(std::string_view device) {
  return device.substr(0, device.find('.'));  // names of GPUs have a point before their part only
}

}  // namespace hios
