#include "machine.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "error.h"

namespace hios {
namespace {

constexpr int64_t kSmall = 1 << 16;  // bytes for which nobody looks at the memory that is free

// Calls `use` for each line, without its end.
template <typename Use>
void ForLines(std::string_view text, Use use) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    use(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

std::set<std::string, std::less<>> Words(std::string_view text) {
  std::set<std::string, std::less<>> words;
  constexpr const char* kSpace = " \t\r";
  size_t begin;
  while ((begin = text.find_first_not_of(kSpace)) != std::string_view::npos) {
    text.remove_prefix(begin);
    const size_t end = std::min(text.find_first_of(kSpace), text.size());
    words.emplace(text.substr(0, end));
    text.remove_prefix(end);
  }
  return words;
}

// The number behind a name in a text of lines `name number` or `name: number unit`.
std::optional<int64_t> NumberOf(const std::optional<std::string>& text, std::string_view name) {
  std::optional<int64_t> number;
  if (!text) return number;
  ForLines(*text, [&](std::string_view line) {
    if (line.substr(0, name.size()) == name) number = atoll(std::string(line.substr(name.size())).c_str());
  });
  return number;
}

std::optional<int64_t> FreeMemory() {
  const auto kib = NumberOf(ReadText("/proc/meminfo"), "MemAvailable:");
  if (!kib) return {};
  const int64_t free = 1024 * *kib;
  const auto limit = ReadText("/sys/fs/cgroup/memory.max");
  const auto used = ReadText("/sys/fs/cgroup/memory.current");
  const auto kept = NumberOf(ReadText("/sys/fs/cgroup/memory.stat"), "inactive_file ");
  if (!limit || !used || !kept || limit->substr(0, 3) == "max") return free;
  return std::min<int64_t>(free, atoll(limit->c_str()) - atoll(used->c_str()) + *kept);
}

std::string Gib(int64_t bytes) {
  char text[40];
  snprintf(text, sizeof(text), "%.1f GiB", static_cast<double>(bytes) / (1 << 30));
  return text;
}

}  // namespace

std::optional<std::string> ReadText(const char* path) {
  const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return {};
  std::string text;
  char piece[4096];
  ssize_t bytes;
  while ((bytes = read(descriptor, piece, sizeof(piece))) > 0) {
    text.append(piece, static_cast<size_t>(bytes));
  }
  close(descriptor);
  if (bytes < 0) return {};
  return text;
}

std::optional<std::set<std::string, std::less<>>> AvailableFeatures() {
#if defined(__x86_64__)
  constexpr std::string_view kKey = "flags";
#else
  constexpr std::string_view kKey = "Features";
#endif
  const auto text = ReadText("/proc/cpuinfo");
  std::optional<std::set<std::string, std::less<>>> features;
  if (!text) return features;
  ForLines(*text, [&](std::string_view line) {
    const size_t colon = line.find(':');
    if (features || colon == std::string_view::npos) return;
    const auto name = Words(line.substr(0, colon));
    if (name.size() == 1 && *name.begin() == kKey) features = Words(line.substr(colon + 1));
  });
  return features;
}

Cores RequireCores(std::string_view device) {
  const Cores cores = ParseCores(device);
  cpu_set_t mask;
  CPU_ZERO(&mask);
  sched_getaffinity(0, sizeof(mask), &mask);
  Cores allowed;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &mask)) allowed.push_back(core);
  }
  for (const int core : cores) {
    if (!std::binary_search(allowed.begin(), allowed.end(), core)) {
      Fail(HIOS_DEVICE, "device " + Quoted(device) + " needs core " + std::to_string(core) +
                            ", but this process may only use " + CpuDeviceName(allowed) +
                            "; map the artifact's devices to others with the option devices");
    }
  }
  return cores;
}

void CheckMemory(int64_t bytes, const std::string& what) {
  if (bytes < kSmall) return;
  const auto free = FreeMemory();
  if (free && bytes > *free) {
    Fail(HIOS_MEMORY, what + " needs " + Gib(bytes) + " of memory, and " +
                          Gib(std::max<int64_t>(0, *free)) + " are free on this machine");
  }
}

}  // namespace hios
