#include "session.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <set>

#include "error.h"
#include "machine.h"
#include "run_tensors.h"

namespace hios {
namespace {

constexpr double kDefaultSpinUs = 500;

int64_t EndOf(double timeout_s) {
  if (timeout_s <= 0 || timeout_s > 1e9) return kForever;
  return Now() + static_cast<int64_t>(1e9 * timeout_s);
}

// The cores of all devices that have work.
Cores UsedCores(const Artifact& artifact, const std::vector<DeviceNames>& names) {
  std::set<int> used;
  for (size_t i = 0; i < names.size(); ++i) {
    for (const Program& program : artifact.manifests[i]->programs) {
      const Cores cores = RequireCores(names[i].at(program.device));
      used.insert(cores.begin(), cores.end());
    }
  }
  return Cores(used.begin(), used.end());
}

char* StagingFor(Pages* memory, size_t bytes) {
  if (memory->data() == nullptr) *memory = Pages(bytes);
  return memory->data();
}

}  // namespace

Session::Session(std::shared_ptr<Artifact> artifact, const hios_session_options& options)
    : artifact_(std::move(artifact)) {
  if (!std::isfinite(options.spin_us) || options.spin_us < 0) {
    Fail(HIOS_USAGE, "spin_us must be a number of microseconds");
  }
  const double spin_us = options.spin_us == 0 ? kDefaultSpinUs : options.spin_us;
  std::vector<DeviceNames> names;
  for (const auto& manifest : artifact_->manifests) {
    names.push_back(MapDevices(*manifest, options.devices));
  }
  claim_ = std::make_unique<CoreClaim>(UsedCores(*artifact_, names), options.exclusive != 0);
  try {
    const auto arenas = MakeArenas(*artifact_);
    for (size_t i = 0; i < names.size(); ++i) {
      shapes_.push_back(LoadShape(artifact_, *artifact_->manifests[i], names[i], arenas, spin_us));
    }
  } catch (const Error& error) {
    if (error.code != HIOS_ARTIFACT) throw;
    Fail(HIOS_ARTIFACT, artifact_->path + ": " + error.message + "; make it again with " +
                            Quoted(artifact_->rebuild_command));
  }
}

std::unique_ptr<Trace> Session::Run(const hios_tensor* inputs, size_t num_inputs,
                                    const hios_tensor* outputs, size_t num_outputs,
                                    double timeout_s, bool is_traced) {
  const int64_t end_ns = EndOf(timeout_s);
  shapes_[0].threads->RequireFree();  // before the lock, which a fork may have copied locked
  const RunTensors run = AcceptTensors(*artifact_, inputs, num_inputs, outputs, num_outputs);
  std::unique_lock turn(turn_, std::defer_lock);
  if (end_ns == kForever) {
    turn.lock();
  } else if (!turn.try_lock_for(std::chrono::nanoseconds(end_ns - Now()))) {
    Fail(HIOS_TIMEOUT, "other runs of the session took longer than the timeout");
  }
  shapes_[last_].threads->RequireFree();  // of the memory that all shapes share
  last_ = run.shape;
  LoadedShape& shape = shapes_[run.shape];
  Place(run, &shape);
  const int64_t start_ns = Now();
  shape.threads->Run(end_ns);
  CheckValues(*shape.manifest, shape.tensors.get());
  Write(run, shape);
  return is_traced ? MakeTrace(shape, start_ns) : nullptr;
}

// Lets kernels read the inputs and write the outputs, in the caller's memory where they can.
void Session::Place(const RunTensors& run, LoadedShape* shape) const {
  const Manifest& manifest = *shape->manifest;
  const Batch* batch = run.rows == 0 ? nullptr : &*artifact_->manifests[0]->shapes->batch;
  for (size_t i = 0; i < manifest.inputs.size(); ++i) {
    const TensorSpec& spec = manifest.inputs[i];
    const size_t bytes = shape->tensors->bytes(spec.buffer);
    const int64_t axis = batch == nullptr ? -1 : BatchAxis(batch->inputs, spec.name);
    auto* data = const_cast<char*>(run.inputs[i]);  // kernels do not write it, as was checked
    if (axis >= 0) {
      char* staging = StagingFor(&shape->memory->inputs[i], bytes);
      const Shape given =
          ShapeOfRows(spec.shape, axis, run.rows, BatchRows(*batch, manifest));
      CopyRows(data, given, staging, spec.shape, static_cast<size_t>(axis),
               static_cast<size_t>(FindType(spec.dtype)->bytes));
      data = staging;
    } else if (!IsAligned(data) || data == nullptr) {
      char* staging = StagingFor(&shape->memory->inputs[i], bytes);
      if (bytes != 0) std::memcpy(staging, data, bytes);
      data = staging;
    }
    shape->tensors->Place(spec.buffer, data);
  }
  std::set<std::string_view> placed;
  for (size_t i = 0; i < manifest.outputs.size(); ++i) {
    const TensorSpec& spec = manifest.outputs[i];
    if (manifest.buffer(spec.buffer)->space != "output" || !placed.insert(spec.buffer).second) continue;
    const bool is_cut = batch != nullptr && BatchAxis(batch->outputs, spec.name) >= 0;
    char* data = run.outputs[i];
    if (is_cut || data == nullptr || !IsAligned(data)) {
      data = StagingFor(&shape->memory->outputs[i], shape->tensors->bytes(spec.buffer));
    }
    shape->tensors->Place(spec.buffer, data);
  }
}

// Copies the outputs that kernels could not write where the caller wants them.
void Session::Write(const RunTensors& run, const LoadedShape& shape) const {
  const Manifest& manifest = *shape.manifest;
  const Batch* batch = run.rows == 0 ? nullptr : &*artifact_->manifests[0]->shapes->batch;
  for (size_t i = 0; i < manifest.outputs.size(); ++i) {
    const TensorSpec& spec = manifest.outputs[i];
    const auto* data = static_cast<const char*>(shape.tensors->tensor(spec.buffer)->data);
    const size_t bytes = shape.tensors->bytes(spec.buffer);
    const int64_t axis = batch == nullptr ? -1 : BatchAxis(batch->outputs, spec.name);
    if (run.outputs[i] == nullptr || run.outputs[i] == data) continue;
    if (axis >= 0) {
      const Shape wanted = ShapeOfRows(spec.shape, axis, run.rows, BatchRows(*batch, manifest));
      CopyRows(data, spec.shape, run.outputs[i], wanted, static_cast<size_t>(axis),
               static_cast<size_t>(FindType(spec.dtype)->bytes));
    } else if (bytes != 0) {
      std::memcpy(run.outputs[i], data, bytes);
    }
  }
}

std::unique_ptr<Trace> Session::MakeTrace(const LoadedShape& shape, int64_t start_ns) const {
  constexpr const char* kKinds[] = {"call", "copy", "signal", "wait"};
  auto trace = std::make_unique<Trace>();
  trace->artifact = artifact_;
  const auto& tasks = shape.threads->tasks();
  for (size_t number = 0; number < tasks.size(); ++number) {
    const std::vector<int64_t>& times = shape.threads->times(number);
    for (size_t i = 0; i < tasks[number].steps.size(); ++i) {
      const CoreStep& core_step = tasks[number].steps[i];
      if (core_step.kind != CoreStep::kStep) continue;
      const Program& program = shape.manifest->programs[core_step.origin.program];
      const Step& step = *core_step.step;
      const char* name = step.operation.c_str();
      if (step.kind == Step::kCopy) name = step.args[1].c_str();
      if (step.kind == Step::kSignal || step.kind == Step::kWait) {
        name = trace->events.emplace_back("event " + std::to_string(step.event)).c_str();
      }
      trace->spans.push_back({program.device.c_str(), program.stream, kKinds[step.kind], name,
                              times[i], times[i + 1]});
    }
  }
  trace->view = {trace->spans.data(), trace->spans.size(), start_ns, Now()};
  return trace;
}

}  // namespace hios
