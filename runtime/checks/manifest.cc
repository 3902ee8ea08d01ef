#include "manifest.h"

#include <algorithm>

#include "decode.h"
#include "manifest_parts.h"

namespace hios {
namespace {

constexpr int64_t kFormatVersion = 4;

}  // namespace

void Decode(const Place& place, TensorSpec* spec) {
  Fields(place)
      .Need("name", &spec->name)
      .Need("buffer", &spec->buffer)
      .Need("shape", &spec->shape)
      .Need("dtype", &spec->dtype)
      .End();
}

void Decode(const Place& place, Buffer* buffer) {
  Fields(place)
      .Need("name", &buffer->name)
      .Need("device", &buffer->device)
      .Take("space", true,
            [&](const Place& space) {
              DecodeChoice(space, {"input", "output", "param", "arena"}, &buffer->space);
            })
      .Need("shape", &buffer->shape)
      .Need("dtype", &buffer->dtype)
      .Optional("offset", &buffer->offset)
      .End();
}

void Decode(const Place& place, PreparedWeight* weight) {
  Fields(place)
      .Need("name", &weight->name)
      .Need("kernel", &weight->kernel)
      .Need("source", &weight->source)
      .End();
}

void Decode(const Place& place, ValueCheck* check) {
  Fields(place)
      .Need("buffer", &check->buffer)
      .Need("column", &check->column)
      .Need("operator", &check->operation)
      .Take("kind", true,
            [&](const Place& kind) {
              DecodeChoice(kind, {"index", "length", "class", "division"}, &check->kind);
            })
      .Need("below", &check->below)
      .Need("high", &check->high)
      .End();
}

void Decode(const Place& place, DeviceSpec* device) {
  Fields(place)
      .Need("name", &device->name)
      .Need("kind", &device->kind)
      .Need("library", &device->library)
      .Need("target", &device->target)
      .Need("cpu_features", &device->cpu_features)
      .Need("arena_bytes", &device->arena_bytes)
      .Optional("device_code", &device->device_code)
      .End();
}

// An instruction is a list of the name of its kind, and its fields.
void Decode(const Place& place, Step* step) {
  constexpr std::string_view kKinds[] = {"call", "copy", "signal", "wait"};
  constexpr uint32_t kFields[] = {4, 2, 1, 1};
  const JsonValue& value = place.value;
  size_t kind = 4;
  if (value.is(JsonValue::kList) && value.size != 0 && value.items[0].is(JsonValue::kText)) {
    kind = std::find(kKinds, kKinds + 4, value.items[0].string()) - kKinds;
  }
  if (kind == 4) place.Refuse("a list that begins with one of call, copy, signal, wait");
  if (value.size != 1 + kFields[kind]) {
    place.Refuse(std::to_string(kFields[kind]) + " fields after " + Quoted(kKinds[kind]));
  }
  const auto field = [&](uint32_t i) { return Place{value.items[i], &place, {}, i}; };
  step->kind = static_cast<Step::Kind>(kind);
  switch (step->kind) {
    case Step::kCall:
      Decode(field(1), &step->operation);
      Decode(field(2), &step->kernel);
      Decode(field(3), &step->args);
      Decode(field(4), &step->outputs);
      break;
    case Step::kCopy:
      step->args.resize(2);
      step->outputs = 1;
      Decode(field(1), &step->args[0]);
      Decode(field(2), &step->args[1]);
      break;
    default:
      Decode(field(1), &step->event);
  }
}

void Decode(const Place& place, Program* program) {
  Fields(place)
      .Need("device", &program->device)
      .Need("stream", &program->stream)
      .Need("instructions", &program->instructions)
      .End();
}

void Decode(const Place& place, LaunchSpec* launch) {
  Fields(place)
      .Need("symbol", &launch->symbol)
      .Need("grid", &launch->grid)
      .Need("block", &launch->block)
      .Need("shared_bytes", &launch->shared_bytes)
      .Need("args", &launch->args)
      .End();
}

void Decode(const Place& place, GpuKernel* kernel) {
  Fields(place)
      .Need("launches", &kernel->launches)
      .Need("nbytes", &kernel->bytes)
      .Optional("scratch", &kernel->scratch)
      .End();
}

void Decode(const Place& place, Batch* batch) {
  Fields(place)
      .Need("inputs", &batch->inputs)
      .Need("outputs", &batch->outputs)
      .Need("smallest", &batch->smallest)
      .Need("largest", &batch->largest)
      .End();
}

void Decode(const Place& place, Shapes* shapes) {
  Fields(place).Need("others", &shapes->others).Need("batch", &shapes->batch).End();
}

namespace {

void ExpectObject(const Place& place) { place.Expect(JsonValue::kObject, "an object"); }

void CheckVersion(const JsonValue& root) {
  const JsonValue* version = root.is(JsonValue::kObject) ? root.find("format_version") : nullptr;
  const bool same = version != nullptr && version->is(JsonValue::kInteger) &&
                    version->integer == kFormatVersion;
  Require(same, [&] {
    const bool number = version != nullptr && version->is(JsonValue::kInteger);
    return "the artifact has format version " +
           (number ? std::to_string(version->integer) : std::string("None")) +
           ", this runtime reads version " + std::to_string(kFormatVersion);
  });
}

template <typename T>
const T* Find(const std::map<std::string_view, const T*>& map, std::string_view name) {
  const auto found = map.find(name);
  return found == map.end() ? nullptr : found->second;
}

}  // namespace

void ReadManifest(std::string_view text, Manifest* manifest) {
  const Json json(text);
  CheckVersion(json.root());
  const Place root{json.root(), nullptr, "manifest"};
  Fields(root)
      .Need("format_version", &manifest->format_version)
      .Need("tvm_version", &manifest->tvm_version)
      .Need("model", &manifest->model)
      .Need("inputs", &manifest->inputs)
      .Need("outputs", &manifest->outputs)
      .Need("devices", &manifest->devices)
      .Need("programs", &manifest->programs)
      .Need("buffers", &manifest->buffers)
      .Optional("prepared", &manifest->prepared)
      .Optional("checks", &manifest->checks)
      .Optional("gpu_kernels", &manifest->gpu_kernels)
      .Optional("entries", &manifest->entries)
      .Optional("graph", &manifest->graph)
      .Optional("shapes", &manifest->shapes)
      .Optional("replicas", &manifest->replicas)
      .Optional("in_flight", &manifest->in_flight)
      .Take("recipe", false, ExpectRecipe)
      .Take("schedule", false, ExpectObject)
      .Optional("prediction", &manifest->prediction)
      .Take("verification", false, ExpectVerification)
      .Take("compile_info", false, ExpectObject)
      .End();
  for (const Buffer& buffer : manifest->buffers) manifest->buffer_of[buffer.name] = &buffer;
  for (const DeviceSpec& device : manifest->devices) manifest->device_of[device.name] = &device;
}

std::string RebuildCommand(std::string_view text) {
  try {
    const Json json(text);
    const JsonValue* info = json.root().is(JsonValue::kObject) ? json.root().find("compile_info") : nullptr;
    const JsonValue* command =
        info != nullptr && info->is(JsonValue::kObject) ? info->find("command") : nullptr;
    if (command != nullptr && command->is(JsonValue::kText)) return std::string(command->string());
  } catch (const Error&) {
  }
  return "hios-tvm compile";
}

std::string_view Buffer::weight() const {
  std::string_view result = name;
  if (device && name.size() > device->size()) {
    const size_t start = name.size() - device->size() - 1;
    if (name[start] == '@' && result.substr(start + 1) == *device) result = result.substr(0, start);
  }
  return result;
}

const Buffer* Manifest::buffer(std::string_view name) const { return Find(buffer_of, name); }

const DeviceSpec* Manifest::device(std::string_view name) const { return Find(device_of, name); }

const std::string* Manifest::entry(std::string_view name) const {
  for (const auto& [key, digest] : entries) {
    if (key == name) return &digest;
  }
  return nullptr;
}

}  // namespace hios
