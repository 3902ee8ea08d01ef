// Checks of instructions: buffers, devices, code, and the order of what they do.

#include <algorithm>
#include <iterator>
#include <queue>
#include <set>

#include "check_manifest.h"
#include "device_names.h"
#include "error.h"
#include "limits.h"

namespace hios {
namespace {

constexpr int64_t kMaxGrid[] = {(int64_t{1} << 31) - 1, (1 << 16) - 1, (1 << 16) - 1};

// Whether `device` computes in the memory that `owner` has: parts of one device share it.
bool IsMemoryOf(std::string_view device, const std::optional<std::string>& owner) {
  return owner && WholeDevice(*owner) == WholeDevice(device);
}

// Whether a buffer of `owner` is in the host's memory.
bool IsOfHost(const std::optional<std::string>& owner, const DeviceKinds& kinds) {
  return !owner || !kinds.of(*owner).own_memory;
}

// Whether a kernel of `device` finds a buffer of `owner`: CPUs reach all of the host's memory.
bool Finds(std::string_view device, const std::optional<std::string>& owner,
           const DeviceKinds& kinds) {
  return kinds.of(device).own_memory ? IsMemoryOf(device, owner) : IsOfHost(owner, kinds);
}

// Whether `device` can copy between buffers of two owners. Devices without memory of their own copy
// within the host's; the others copy from their own or to it, and reach their kind's and the host's.
bool Copies(std::string_view device, const std::optional<std::string>& from,
            const std::optional<std::string>& to, const DeviceKinds& kinds) {
  const DeviceKind& kind = kinds.of(device);
  if (!kind.own_memory) return IsOfHost(from, kinds) && IsOfHost(to, kinds);
  const auto reaches = [&](const std::optional<std::string>& owner) {
    return IsOfHost(owner, kinds) || &kinds.of(*owner) == &kind;
  };
  return (IsMemoryOf(device, from) || IsMemoryOf(device, to)) && reaches(from) && reaches(to);
}

// A copy has equal ends, both of which its device reaches.
void CheckCopy(const Manifest& manifest, const Program& program, const Step& step,
               const DeviceKinds& kinds) {
  const Buffer& src = *manifest.buffer(step.args[0]);
  const Buffer& dst = *manifest.buffer(step.args[1]);
  Require(src.shape == dst.shape && src.dtype == dst.dtype, [&] {
    return "a copy from " + Quoted(src.name) + " to " + Quoted(dst.name) +
           ", which has another shape or dtype";
  });
  Require(Copies(program.device, src.device, dst.device, kinds), [&] {
    return "a program of " + Quoted(program.device) + " uses buffer " + Quoted(dst.name) +
           " of another device";
  });
}

void CheckCall(const Manifest& manifest, const Program& program, const Step& step,
               const DeviceKinds& kinds) {
  for (const std::string& name : step.args) {
    Require(Finds(program.device, manifest.buffer(name)->device, kinds), [&] {
      return "a program of " + Quoted(program.device) + " uses buffer " + Quoted(name) +
             " of another device";
    });
  }
}

void CheckStep(const Manifest& manifest, const Program& program, const Step& step,
               const DeviceKinds& kinds) {
  if (step.kind == Step::kCall) {
    Require(1 <= step.outputs && step.outputs <= static_cast<int64_t>(step.args.size()), [&] {
      return "operator " + Quoted(step.operation) + " has " + std::to_string(step.outputs) +
             " outputs among " + std::to_string(step.args.size()) + " arguments";
    });
  }
  for (size_t i = 0; i < step.args.size(); ++i) {
    const Buffer* buffer = manifest.buffer(step.args[i]);
    Require(buffer != nullptr,
            [&] { return "a program uses the unknown buffer " + Quoted(step.args[i]); });
    Require(i < step.first_output() || buffer->space == "arena" || buffer->space == "output", [&] {
      return "a program writes buffer " + Quoted(buffer->name) + ", which is an input or a weight";
    });
  }
  if (step.kind == Step::kCopy) CheckCopy(manifest, program, step, kinds);
  if (step.kind == Step::kCall) CheckCall(manifest, program, step, kinds);
}

// Calls write what the operator graph says: an output that no kernel writes stays as it was.
//
// The first buffers that a call writes have the names of its operator's results; scratch memory,
// where the device has memory of its own, is behind them.
void CheckOperators(const Manifest& manifest, const DeviceKinds& kinds) {
  if (!manifest.graph) return;
  const Names none;
  std::map<std::string_view, const Names*> outputs_of;
  for (const Operator& operation : manifest.graph->operators) {
    outputs_of[operation.name] = &operation.outputs;
  }
  for (const Program& program : manifest.programs) {
    const bool may_have_scratch = kinds.of(program.device).own_memory;
    for (const Step& step : program.instructions) {
      if (step.kind != Step::kCall) continue;
      const auto found = outputs_of.find(step.operation);
      const Names& known = found == outputs_of.end() ? none : *found->second;
      const auto first = step.args.begin() + static_cast<int64_t>(step.first_output());
      const auto written = static_cast<size_t>(step.outputs);
      Require(!known.empty() &&
                  (may_have_scratch ? known.size() <= written : known.size() == written) &&
                  std::equal(known.begin(), known.end(), first),
              [&] {
                return "operator " + Quoted(step.operation) + " writes " +
                       QuotedList(Names(first, step.args.end())) + ", the operator graph says " +
                       QuotedList(known);
              });
    }
  }
}

void CheckLaunch(const LaunchSpec& launch, size_t arguments, const std::string& where) {
  bool fits = launch.grid.size() == 3 && launch.block.size() == 3 &&
              Product(launch.block, 2 * kMaxThreads) <= kMaxThreads &&
              launch.shared_bytes <= kMaxSharedBytes;
  for (size_t i = 0; fits && i < 3; ++i) {
    fits = 1 <= launch.grid[i] && launch.grid[i] <= kMaxGrid[i] && launch.block[i] >= 1;
  }
  Require(fits, [&] { return where + " has a grid or block that no GPU runs"; });
  for (const int64_t number : launch.args) {
    Require(number < static_cast<int64_t>(arguments),
            [&] { return where + " has an argument that it is not given"; });
  }
}

void CheckLaunches(const Manifest& manifest) {
  for (const auto& [name, kernel] : manifest.gpu_kernels) {
    const std::string where = "kernel " + Quoted(name) + " of a GPU";
    Require(!kernel.launches.empty(), [&] { return where + " launches nothing"; });
    for (const LaunchSpec& launch : kernel.launches) {
      CheckLaunch(launch, kernel.bytes.size() + kernel.scratch.size(), where);
    }
  }
}

// Whether a GPU lacks code, or a call does not fit its kernel.
void CheckGpuCode(const DeviceSpec& device, const Manifest& manifest,
                  const std::map<std::string_view, const GpuKernel*>& kernels) {
  for (const Program& program : manifest.programs) {
    if (program.device != device.name) continue;
    Require(device.device_code.has_value(),
            [&] { return "device " + Quoted(device.name) + " has work but no library"; });
    for (const Step& step : program.instructions) {
      if (step.kind != Step::kCall) continue;
      const auto found = kernels.find(step.kernel);
      Require(found != kernels.end(), [&] {
        return "operator " + Quoted(step.operation) + " calls the unknown " + Quoted(step.kernel);
      });
      Shape expected = found->second->bytes, bytes;
      expected.insert(expected.end(), found->second->scratch.begin(), found->second->scratch.end());
      for (const std::string& arg : step.args) bytes.push_back(manifest.buffer(arg)->bytes());
      Require(bytes == expected, [&] {
        return "operator " + Quoted(step.operation) + " has arguments of other sizes than its kernel's";
      });
    }
  }
}

void CheckAccesses(const Manifest& manifest, const HappensBefore& order) {
  for (const Buffer& buffer : manifest.buffers) {
    const bool is_planned = buffer.space == "arena" || buffer.space == "output";
    if (!is_planned || !order.is_used(buffer.name)) continue;
    const size_t writers = order.writers(buffer.name);
    Require(writers == 1, [&] {
      return "buffer " + Quoted(buffer.name) + " is written " + std::to_string(writers) +
             " times, not once";
    });
    Require(order.written_first(buffer.name), [&] {
      return "buffer " + Quoted(buffer.name) + " may be read before it is written";
    });
  }
  for (const ValueCheck& check : manifest.checks) {
    Require(order.writers(check.buffer) == 1,
            [&] { return Quoted(check.operation) + " is never checked"; });
  }
  for (const TensorSpec& spec : manifest.outputs) {
    Require(manifest.buffer(spec.buffer)->space != "output" || order.writers(spec.buffer) == 1,
            [&] { return "output " + Quoted(spec.name) + " is never computed"; });
  }
}

// Goes through an arena from its start, with the buffers that hold the current byte. These are used
// one after the other. The order is transitive, so that a new buffer is compared only with its
// neighbours in time.
void CheckOverlaps(std::vector<const Buffer*> arena, const HappensBefore& order) {
  using Key = std::pair<size_t, std::string_view>;  // when a buffer is written, and its name
  using End = std::pair<int64_t, Key>;
  std::sort(arena.begin(), arena.end(), [](const Buffer* a, const Buffer* b) {
    return std::tie(*a->offset, a->name) < std::tie(*b->offset, b->name);
  });
  std::set<Key> live;
  std::priority_queue<End, std::vector<End>, std::greater<End>> ends;
  const auto require = [&](const Key& first, const Key& second) {
    Require(order.precedes(first.second, second.second), [&] {
      return "buffers " + Quoted(first.second) + " and " + Quoted(second.second) +
             " overlap and may be in use at the same time";
    });
  };
  for (const Buffer* buffer : arena) {
    for (; !ends.empty() && ends.top().first <= *buffer->offset; ends.pop()) {
      live.erase(ends.top().second);
    }
    const Key key(order.written_at(buffer->name), buffer->name);
    const auto place = live.insert(key).first;
    ends.emplace(*buffer->offset + buffer->bytes(), key);
    if (place != live.begin()) require(*std::prev(place), key);
    if (std::next(place) != live.end()) require(key, *std::next(place));
  }
}

}  // namespace

void CheckPrograms(const Manifest& manifest, const DeviceKinds& kinds) {
  for (const Program& program : manifest.programs) {
    for (const Step& step : program.instructions) CheckStep(manifest, program, step, kinds);
  }
  CheckOperators(manifest, kinds);
}

void CheckCode(const Manifest& manifest) {
  std::map<std::string_view, const GpuKernel*> kernels;
  for (const auto& [name, kernel] : manifest.gpu_kernels) kernels[name] = &kernel;
  bool has_gpu = false;
  for (const DeviceSpec& device : manifest.devices) {
    if (device.kind == "cpu") {
      Require(!device.device_code,
              [&] { return "device " + Quoted(device.name) + " has code for a GPU"; });
    } else if (device.kind == "cuda") {
      if (!has_gpu) CheckLaunches(manifest);
      has_gpu = true;
      CheckGpuCode(device, manifest, kernels);
    }
  }
}

void CheckOrder(const Manifest& manifest) {
  const HappensBefore order(manifest.programs);
  CheckAccesses(manifest, order);
  for (const DeviceSpec& device : manifest.devices) {
    std::vector<const Buffer*> arena;
    for (const Buffer& buffer : manifest.buffers) {
      if (buffer.device == device.name && buffer.space == "arena" && buffer.bytes() != 0 &&
          order.is_used(buffer.name)) {
        arena.push_back(&buffer);
      }
    }
    CheckOverlaps(std::move(arena), order);
  }
}

}  // namespace hios
