#include "load_shape.h"

#include <algorithm>
#include <set>

#include "check_manifest.h"
#include "error.h"
#include "machine.h"

namespace hios {
namespace {

std::vector<std::string> SplitNames(std::string_view text) {
  std::vector<std::string> names;
  while (!text.empty()) {
    const size_t end = std::min(text.find(','), text.size());
    std::string_view name = text.substr(0, end);
    name.remove_prefix(std::min(name.find_first_not_of(' '), name.size()));
    name = name.substr(0, name.find_last_not_of(' ') + 1);
    if (!name.empty()) names.emplace_back(name);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return names;
}

bool IsPart(const Cores& part, const Cores& whole) {
  return std::includes(whole.begin(), whole.end(), part.begin(), part.end());
}

// The devices that are no part of another one.
std::vector<std::string> WholeDevices(const Manifest& manifest) {
  std::vector<std::string> whole;
  for (const DeviceSpec& device : manifest.devices) {
    const Cores cores = ParseCores(device.name);
    const bool is_part = std::any_of(
        manifest.devices.begin(), manifest.devices.end(), [&](const DeviceSpec& other) {
          const Cores others = ParseCores(other.name);
          return others.size() > cores.size() && IsPart(cores, others);
        });
    if (!is_part) whole.push_back(device.name);
  }
  return whole;
}

// The part of `mapped`, which stands for `whole`, that corresponds to `part` of `whole`.
std::string PartOf(const std::string& part, const std::string& whole, const std::string& mapped) {
  const Cores before = ParseCores(whole), after = ParseCores(mapped);
  if (before.size() != after.size()) {
    Fail(HIOS_DEVICE, whole + " is divided: it can only be mapped to " +
                          std::to_string(before.size()) + " cores");
  }
  Cores cores;
  for (const int core : ParseCores(part)) {
    const auto place = std::lower_bound(before.begin(), before.end(), core) - before.begin();
    cores.push_back(after[static_cast<size_t>(place)]);
  }
  return CpuDeviceName(cores);
}

// The cores of stream `stream`, one of `streams`: equal shares, as far as there are cores.
Cores ShareCores(const Cores& cores, size_t streams, size_t stream) {
  const size_t each = std::max<size_t>(1, cores.size() / streams);
  Cores share;
  for (size_t k = 0; k < each; ++k) share.push_back(cores[((stream - 1) * each + k) % cores.size()]);
  return share;
}

std::shared_ptr<KernelLibrary> LibraryOf(const Artifact& artifact, const DeviceSpec& device) {
  return KernelLibrary::Load(artifact.libraries.at(*device.library));
}

CoreTasks MakeTasks(const Artifact& artifact, const Manifest& manifest, const DeviceNames& names) {
  std::map<std::string_view, int64_t> streams;
  for (const Program& program : manifest.programs) {
    int64_t& most = streams[program.device];
    most = std::max(most, program.stream);
  }
  std::vector<CpuProgram> programs;
  for (const Program& program : manifest.programs) {
    std::string label = names.at(program.device);
    Cores cores = RequireCores(label);
    if (program.stream > 0) {
      cores = ShareCores(cores, static_cast<size_t>(streams[program.device]),
                         static_cast<size_t>(program.stream));
      label += " stream " + std::to_string(program.stream);
    }
    programs.push_back({label, cores, &program.instructions,
                        LibraryOf(artifact, *manifest.device(program.device))});
  }
  return MakeCoreTasks(programs, ExecutionOrder(manifest.programs));
}

// What decides the bytes of prepared weights: kernels, sources and layout.
std::string PreparedKey(const Manifest& manifest, const DeviceSpec& device) {
  std::string key = *device.library;
  for (const PreparedWeight& weight : manifest.prepared) {
    const Buffer& buffer = *manifest.buffer(weight.name);
    key += '\n' + weight.name + '\n' + weight.kernel + '\n' + weight.source + '\n' + buffer.dtype;
    for (const int64_t size : buffer.shape) key += ' ' + std::to_string(size);
  }
  return key;
}

// Calls the kernels that prepare weights on all cores of the session, with results in `results`.
void RunPreparation(const Artifact& artifact, const Manifest& manifest, const DeviceNames& names,
                    const DeviceSpec& device, char* results) {
  auto tensors = std::make_shared<TensorTable>();
  std::vector<Step> calls;
  for (size_t i = 0; i < manifest.prepared.size(); ++i) {
    const PreparedWeight& weight = manifest.prepared[i];
    const Buffer& buffer = *manifest.buffer(weight.name);
    const StoredTensor& source = artifact.sources->tensors().find(weight.source)->second;
    Step call;
    call.kind = Step::kCall;
    call.operation = weight.name;
    call.kernel = weight.kernel;
    call.args = {"source " + std::to_string(i), "weight " + std::to_string(i)};
    call.outputs = 1;
    tensors->Add(call.args[0], source.shape, source.dtype);
    tensors->Place(call.args[0], artifact.sources->address(weight.source));
    tensors->Add(call.args[1], buffer.shape, buffer.dtype);
    tensors->Place(call.args[1], results);
    results += AlignUp(static_cast<size_t>(buffer.bytes()));
    calls.push_back(std::move(call));
  }
  std::set<int> used;
  Cores cores;  // in the order of the devices
  for (const DeviceSpec& other : manifest.devices) {
    for (const int core : RequireCores(names.at(other.name))) {
      if (used.insert(core).second) cores.push_back(core);
    }
  }
  std::vector<Origin> order;
  for (size_t i = 0; i < calls.size(); ++i) order.push_back({0, i});
  const CpuProgram program{"the host", cores, &calls, LibraryOf(artifact, device)};
  WorkerThreads threads(MakeCoreTasks({program}, order), tensors, {}, 500);
  try {
    threads.Run(kForever);
  } catch (const Error& error) {
    Fail(HIOS_ARTIFACT, "the weights cannot be prepared: " + error.message);
  }
}

// Places prepared weights, which sessions of the artifact share; returns their memory.
std::shared_ptr<Pages> PlacePrepared(Artifact* artifact, const Manifest& manifest,
                                     const DeviceNames& names, TensorTable* tensors) {
  if (manifest.prepared.empty()) return nullptr;
  const DeviceSpec& device = *PreparingDevice(manifest);
  size_t bytes = 0;
  for (const PreparedWeight& weight : manifest.prepared) {
    bytes += AlignUp(static_cast<size_t>(manifest.buffer(weight.name)->bytes()));
  }
  const std::scoped_lock lock(artifact->prepared_mutex);
  std::weak_ptr<Pages>& known = artifact->prepared[PreparedKey(manifest, device)];
  std::shared_ptr<Pages> memory = known.lock();
  if (memory == nullptr) {
    CheckMemory(static_cast<int64_t>(bytes), "the weights of " + Quoted(manifest.model));
    memory = std::make_shared<Pages>(bytes);
    RunPreparation(*artifact, manifest, names, device, memory->data());
    memory->Seal();
    known = memory;
  }
  char* address = memory->data();
  for (const PreparedWeight& weight : manifest.prepared) {
    tensors->Place(weight.name, address);
    address += AlignUp(static_cast<size_t>(manifest.buffer(weight.name)->bytes()));
  }
  return memory;
}

std::shared_ptr<TensorTable> MakeTensors(const Artifact& artifact, const Manifest& manifest,
                                         const Arenas& arenas) {
  std::set<std::string_view> prepared;
  for (const PreparedWeight& weight : manifest.prepared) prepared.insert(weight.name);
  auto tensors = std::make_shared<TensorTable>();
  for (const Buffer& buffer : manifest.buffers) {
    tensors->Add(buffer.name, buffer.shape, buffer.dtype);
    if (buffer.space == "arena") {
      tensors->Place(buffer.name, arenas.at(*buffer.device).data() + *buffer.offset);
    } else if (buffer.space == "param" && prepared.count(buffer.name) == 0) {
      tensors->Place(buffer.name, artifact.weights->address(buffer.name));
    }
  }
  return tensors;
}

}  // namespace

std::shared_ptr<Arenas> MakeArenas(const Artifact& artifact) {
  std::map<std::string, int64_t> bytes;
  int64_t tensors = 0;
  for (const auto& manifest : artifact.manifests) {
    for (const DeviceSpec& device : manifest->devices) {
      int64_t& most = bytes[device.name];
      most = std::max(most, device.arena_bytes);
    }
    int64_t own = 0;
    for (const auto* specs : {&manifest->inputs, &manifest->outputs}) {
      for (const TensorSpec& spec : *specs) own += TensorBytes(spec.shape, spec.dtype);
    }
    tensors = std::max(tensors, own);
  }
  int64_t all = tensors;
  for (const auto& [name, size] : bytes) all = std::min(all + size, kMaxExact);
  CheckMemory(all, "a run of " + Quoted(artifact.manifests[0]->model));
  auto arenas = std::make_shared<Arenas>();
  for (const auto& [name, size] : bytes) arenas->emplace(name, Pages(static_cast<size_t>(size)));
  return arenas;
}

DeviceNames MapDevices(const Manifest& manifest, const char* devices) {
  for (const DeviceSpec& device : manifest.devices) {
    if (device.kind != "cpu") {
      Fail(HIOS_DEVICE, "the artifact is for the GPU " + device.name +
                            ", too: this runtime runs on CPUs, that of Python also on GPUs");
    }
  }
  const std::vector<std::string> whole = WholeDevices(manifest);
  DeviceNames names;
  std::vector<std::string> mapped = devices == nullptr ? whole : SplitNames(devices);
  if (mapped.size() != whole.size()) {
    std::string known;
    for (const std::string& name : whole) known += (known.empty() ? "" : ", ") + name;
    Fail(HIOS_DEVICE, "the artifact has the devices " + known + "; " +
                          std::to_string(mapped.size()) + " were named");
  }
  for (size_t i = 0; i < whole.size(); ++i) {
    if (DeviceKinds().of(mapped[i]).name != "cpu") {
      Fail(HIOS_DEVICE, whole[i] + " cannot be mapped to " + mapped[i] +
                            ", which is another kind of device");
    }
    names[whole[i]] = mapped[i];
  }
  for (const DeviceSpec& device : manifest.devices) {
    for (size_t i = 0; i < whole.size() && names.count(device.name) == 0; ++i) {
      if (IsPart(ParseCores(device.name), ParseCores(whole[i]))) {
        names[device.name] = PartOf(device.name, whole[i], mapped[i]);
      }
    }
  }
  return names;
}

LoadedShape LoadShape(const std::shared_ptr<Artifact>& artifact, const Manifest& manifest,
                      const DeviceNames& names, const std::shared_ptr<Arenas>& arenas,
                      double spin_us) {
  LoadedShape shape;
  shape.manifest = &manifest;
  shape.tensors = MakeTensors(*artifact, manifest, *arenas);
  shape.memory = std::make_shared<RunMemory>();
  shape.memory->inputs.resize(manifest.inputs.size());
  shape.memory->outputs.resize(manifest.outputs.size());
  for (const ValueCheck& check : manifest.checks) {
    Pages& extremes = shape.memory->extremes[check.buffer];
    if (extremes.data() == nullptr) extremes = Pages(shape.tensors->bytes(check.buffer));
    shape.tensors->Place(check.buffer, extremes.data());
  }
  const auto prepared = PlacePrepared(artifact.get(), manifest, names, shape.tensors.get());
  shape.threads = std::make_unique<WorkerThreads>(
      MakeTasks(*artifact, manifest, names), shape.tensors,
      std::vector<std::shared_ptr<void>>{artifact, arenas, prepared, shape.memory}, spin_us);
  return shape;
}

}  // namespace hios
