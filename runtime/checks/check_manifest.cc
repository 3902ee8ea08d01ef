#include "check_manifest.h"

#include <set>

#include "device_names.h"
#include "dtypes.h"
#include "error.h"
#include "limits.h"

namespace hios {
namespace {

constexpr int64_t kCopyStream = 65;

void RequireAtMost(size_t count, size_t most, const char* what) {
  Require(count <= most, [&] {
    return "it has " + std::to_string(count) + " " + what + ", more than " + std::to_string(most);
  });
}

// Compares what the other checks go through with what they can do in seconds.
void CheckAmounts(const Manifest& manifest) {
  size_t instructions = 0, arguments = 0;
  for (const Program& program : manifest.programs) {
    instructions += program.instructions.size();
    for (const Step& step : program.instructions) {
      if (step.kind == Step::kCall) arguments += step.args.size();
    }
  }
  RequireAtMost(manifest.devices.size(), kMaxDevices, "devices");
  RequireAtMost(manifest.programs.size(), kMaxDevices * static_cast<size_t>(kMaxStreams), "programs");
  RequireAtMost(instructions, kMaxInstructions, "instructions");
  RequireAtMost(arguments, kMaxArguments, "arguments");
  for (const TensorSpec& spec : manifest.inputs) TensorBytes(spec.shape, spec.dtype);
  for (const TensorSpec& spec : manifest.outputs) TensorBytes(spec.shape, spec.dtype);
  for (const Buffer& buffer : manifest.buffers) TensorBytes(buffer.shape, buffer.dtype);
}

template <typename Items, typename Member>
std::vector<std::string_view> NamesOf(const Items& items, Member member) {
  std::vector<std::string_view> names;
  for (const auto& item : items) names.push_back(item.*member);
  return names;
}

void CheckDevices(const Manifest& manifest, const DeviceKinds& kinds) {
  RequireUnique("device", NamesOf(manifest.devices, &DeviceSpec::name));
  Require(!manifest.devices.empty(), "the artifact has no device");
  for (const DeviceSpec& device : manifest.devices) {
    const DeviceKind& kind = kinds.of(device.name);
    if (kind.name == "cpu") ParseCores(device.name);
    if (kind.name == "cuda") CheckGpuName(device.name);
    Require(device.kind == kind.name, [&] {
      return "device " + Quoted(device.name) + " has the kind " + Quoted(device.kind);
    });
  }
  std::vector<std::string> streams;
  for (const Program& program : manifest.programs) {
    streams.push_back(program.device + " stream " + std::to_string(program.stream));
  }
  RequireUnique("program", streams);
  for (const Program& program : manifest.programs) {
    const DeviceSpec* device = manifest.device(program.device);
    const std::string name = Quoted(program.device);
    const int64_t stream = program.stream;
    Require(device != nullptr, [&] { return "a program is for the unknown device " + name; });
    Require(stream <= kMaxStreams ||
                (kinds.of(program.device).own_memory && stream == kCopyStream),
            [&] { return "device " + name + " has a stream " + std::to_string(stream); });
    Require(device->library.has_value(),
            [&] { return "device " + name + " has work but no library"; });
  }
  Require(!streams.empty(), "the artifact has no program");
}

// No core has two sessions; inputs in flight are for CPUs, of one shape. This runtime has one in flight.
void CheckSessions(const Manifest& manifest) {
  std::set<int> used;
  for (const DeviceSpec& device : manifest.devices) {
    const Cores cores = CoresOf(device.name);
    used.insert(cores.begin(), cores.end());
  }
  for (const Names& names : manifest.replicas) {
    for (const std::string& name : names) {
      const Cores cores = CoresOf(name);
      Require(!cores.empty(), [&] { return "replicas are for CPUs only, not for " + Quoted(name); });
      for (const int core : cores) {
        Require(used.insert(core).second,
                [&] { return "a core of replica " + Quoted(name) + " has another session"; });
      }
    }
  }
  const int64_t slots = manifest.in_flight;
  Require(1 <= slots && slots <= kMaxInFlight, [&] {
    return "it has " + std::to_string(slots) + " inputs in flight, not 1 to " +
           std::to_string(kMaxInFlight);
  });
  if (slots == 1) return;
  Require(!manifest.shapes, "it has several inputs in flight, and several shapes");
  for (const DeviceSpec& device : manifest.devices) {
    Require(!CoresOf(device.name).empty(), [&] {
      return "several inputs in flight are for CPUs only, not for " + Quoted(device.name);
    });
  }
}

// Weights that are prepared lie in the host's memory, where CPUs compute them from sources.
void CheckPrepared(const Manifest& manifest, const TensorTypes& weights, const TensorTypes& sources) {
  RequireUnique("prepared weight", NamesOf(manifest.prepared, &PreparedWeight::name));
  std::set<std::string_view> returned;
  for (const TensorSpec& spec : manifest.outputs) returned.insert(spec.buffer);
  for (const PreparedWeight& weight : manifest.prepared) {
    const auto require = [&](bool holds, const std::string& problem) {
      Require(holds, [&] { return "the prepared weight " + Quoted(weight.name) + problem; });
    };
    const Buffer* buffer = manifest.buffer(weight.name);
    require(buffer != nullptr && buffer->space == "param" && !buffer->device,
            " has no buffer of the host");
    require(weights.count(weight.name) == 0, " is stored, too");
    require(returned.count(weight.name) == 0, " is an output");
    require(sources.count(weight.source) != 0, " has no source " + Quoted(weight.source));
  }
  Require(manifest.prepared.empty() || PreparingDevice(manifest) != nullptr,
          "weights are to be prepared, and no CPU has a library");
}

void CheckBuffer(const Buffer& buffer, const Manifest& manifest, const TensorTypes& weights,
                 const std::set<std::string_view>& prepared, const DeviceKinds& kinds) {
  const auto require = [&](bool holds, const char* problem) {
    Require(holds, [&] { return "buffer " + Quoted(buffer.name) + problem; });
  };
  const DeviceSpec* device = buffer.device ? manifest.device(*buffer.device) : nullptr;
  if (buffer.space == "arena") {
    require(device != nullptr && buffer.offset, " is in the arena of no device or has no offset");
    const int64_t end = *buffer.offset + buffer.bytes();
    Require(end <= device->arena_bytes, [&] {
      return "buffer " + Quoted(buffer.name) + " ends at byte " + std::to_string(end) +
             ", the arena of " + device->name + " has " + std::to_string(device->arena_bytes);
    });
    require(*buffer.offset % static_cast<int64_t>(kAlignment) == 0, " is not aligned");
  } else {
    require(!buffer.device || (buffer.space == "param" && device != nullptr &&
                               kinds.of(device->name).own_memory),
            " must belong to no device");
    require(!buffer.offset, " must have no offset");
  }
  if (buffer.space == "param" && prepared.count(buffer.name) == 0) {
    const auto weight = weights.find(buffer.weight());
    require(weight != weights.end() && weight->second == std::pair(buffer.shape, buffer.dtype),
            " is no weight of that shape and dtype");
  }
}

void CheckBuffers(const Manifest& manifest, const TensorTypes& weights, const DeviceKinds& kinds) {
  RequireUnique("buffer", NamesOf(manifest.buffers, &Buffer::name));
  std::set<std::string_view> prepared;
  for (const PreparedWeight& weight : manifest.prepared) prepared.insert(weight.name);
  for (const Buffer& buffer : manifest.buffers) {
    CheckBuffer(buffer, manifest, weights, prepared, kinds);
  }
}

void CheckTensors(const std::vector<TensorSpec>& specs, const Manifest& manifest) {
  for (const TensorSpec& spec : specs) {
    const Buffer* buffer = manifest.buffer(spec.buffer);
    Require(buffer != nullptr && buffer->shape == spec.shape && buffer->dtype == spec.dtype, [&] {
      return "tensor " + Quoted(spec.name) + " has no buffer of its shape and dtype";
    });
  }
}

void CheckInterface(const Manifest& manifest) {
  RequireUnique("input", NamesOf(manifest.inputs, &TensorSpec::name));
  RequireUnique("output", NamesOf(manifest.outputs, &TensorSpec::name));
  RequireUnique("buffer of an input", NamesOf(manifest.inputs, &TensorSpec::buffer));
  CheckTensors(manifest.inputs, manifest);
  CheckTensors(manifest.outputs, manifest);
  std::set<std::string_view> given, returned;
  for (const TensorSpec& spec : manifest.inputs) given.insert(spec.buffer);
  for (const TensorSpec& spec : manifest.outputs) returned.insert(spec.buffer);
  for (const ValueCheck& check : manifest.checks) {
    const Buffer* buffer = manifest.buffer(check.buffer);
    Require(buffer != nullptr && buffer->space == "output" && buffer->dtype == "int64" &&
                buffer->shape.size() == 2 && buffer->shape[0] == 2 && check.column < buffer->shape[1],
            [&] { return "a check of " + Quoted(check.operation) + " has no extremes to compare"; });
    returned.insert(check.buffer);
  }
  for (const Buffer& buffer : manifest.buffers) {
    const bool is_given = given.count(buffer.name) != 0;
    const bool is_returned = returned.count(buffer.name) != 0;
    const auto require = [&](bool holds, const char* problem) {
      Require(holds, [&] { return "buffer " + Quoted(buffer.name) + problem; });
    };
    require(buffer.space != "input" || is_given, " belongs to no input");
    require(buffer.space != "output" || is_returned, " belongs to no output");
    require(buffer.space == "input" || !is_given, " of an input is not in the input space");
    require(buffer.space != "arena" || !is_returned, " of an output is in an arena");
    require(!buffer.device || !is_returned, " of an output is on a GPU");
  }
}

// What reports rely on: each operator once, and times that go forward.
void CheckPrediction(const Prediction& prediction) {
  RequireUnique("prediction of operator", prediction.operators);
  for (const PredictedSpan& span : prediction.spans) {
    Require(0 <= span.start_ms && span.start_ms <= span.end_ms, "a prediction ends before it starts");
  }
  for (const double cost_ms : prediction.costs_ms) Require(cost_ms >= 0, "a cost is negative");
}

}  // namespace

void CheckManifest(const Manifest& manifest, const TensorTypes& weights, const TensorTypes& sources,
                   const DeviceKinds& kinds) {
  CheckAmounts(manifest);
  try {
    CheckDevices(manifest, kinds);
    CheckSessions(manifest);
  } catch (const Error& error) {  // of names
    Fail(HIOS_ARTIFACT, error.message);
  }
  CheckPrepared(manifest, weights, sources);
  CheckBuffers(manifest, weights, kinds);
  CheckInterface(manifest);
  CheckPrograms(manifest, kinds);
  CheckCode(manifest);
  CheckOrder(manifest);
  CheckPrediction(manifest.prediction);
}

const DeviceSpec* PreparingDevice(const Manifest& manifest) {
  for (const DeviceSpec& device : manifest.devices) {
    if (device.kind == "cpu" && device.library) return &device;
  }
  return nullptr;
}

}  // namespace hios
