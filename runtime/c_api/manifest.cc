#include "manifest.h"

#include <algorithm>
#include <set>

#include "decode.h"

namespace hios {
namespace {

constexpr int64_t kFormatVersion = 4;

// --- Structs of JSON objects. They are found by their arguments, after the templates of decode.h.

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

void Decode(const Place& place, Operator* operation) {
  Fields(place)
      .Need("name", &operation->name)
      .Need("kernel", &operation->kernel)
      .Need("inputs", &operation->inputs)
      .Need("outputs", &operation->outputs)
      .Optional("nodes", &operation->nodes)
      .End();
}

namespace {

struct GraphTensor {
  std::string name;
  Shape shape;
  std::string dtype;
};

struct PredictedOperator {
  std::string operation;
  double cost_ms;
  PredictedSpan span;
};

struct PredictedTransfer {
  std::string src, dst;
  PredictedSpan span;
};

struct OutputError {
  std::string output;
  double error, allowed;
};

void Decode(const Place& place, GraphTensor* tensor) {
  Fields(place)
      .Need("name", &tensor->name)
      .Need("shape", &tensor->shape)
      .Need("dtype", &tensor->dtype)
      .End();
}

void Decode(const Place& place, PredictedOperator* item) {
  Fields(place)
      .Need("operator", &item->operation)
      .Need("cost_ms", &item->cost_ms)
      .Need("start_ms", &item->span.start_ms)
      .Need("end_ms", &item->span.end_ms)
      .End();
}

void Decode(const Place& place, PredictedTransfer* item) {
  Fields(place)
      .Need("src", &item->src)
      .Need("dst", &item->dst)
      .Need("start_ms", &item->span.start_ms)
      .Need("end_ms", &item->span.end_ms)
      .End();
}

void Decode(const Place& place, OutputError* item) {
  Fields(place)
      .Need("output", &item->output)
      .Need("error", &item->error)
      .Need("allowed", &item->allowed)
      .End();
}

[[noreturn]] void RefuseGraph(const std::string& problem) {
  Fail(HIOS_ARTIFACT, "manifest.graph: " + problem);
}

std::set<std::string_view> Distinct(const char* what, const Names& names) {
  std::set<std::string_view> known;
  for (const std::string& name : names) {
    if (!known.insert(name).second) {
      RefuseGraph(std::string(what) + " names must be unique; used twice: " + name);
    }
  }
  return known;
}

// Operators are in topological order, and each tensor is written once.
void CheckGraph(const OperatorGraph& graph) {
  Names names;
  for (const Operator& operation : graph.operators) names.push_back(operation.name);
  Distinct("operator", names);
  const std::set<std::string_view> known = Distinct("tensor", graph.tensors);
  std::set<std::string_view> written(graph.inputs.begin(), graph.inputs.end());
  written.insert(graph.constants.begin(), graph.constants.end());
  for (const Operator& operation : graph.operators) {
    for (const Names* tensors : {&operation.inputs, &operation.outputs}) {
      for (const std::string& tensor : *tensors) {
        if (known.count(tensor) == 0) {
          RefuseGraph("operator " + Quoted(operation.name) + " uses unknown tensor " + Quoted(tensor));
        }
      }
    }
    for (const std::string& tensor : operation.inputs) {
      if (written.count(tensor) == 0) {
        RefuseGraph("operator " + Quoted(operation.name) + " reads " + Quoted(tensor) +
                    " before it is written: the graph has a cycle or is not in topological order");
      }
    }
    for (const std::string& tensor : operation.outputs) {
      if (!written.insert(tensor).second) RefuseGraph("tensor " + Quoted(tensor) + " is written twice");
    }
  }
  for (const std::string& tensor : graph.outputs) {
    if (written.count(tensor) == 0) RefuseGraph("output " + Quoted(tensor) + " is never written");
  }
}

void ExpectObject(const Place& place) { place.Expect(JsonValue::kObject, "an object"); }

}  // namespace

void Decode(const Place& place, OperatorGraph* graph) {
  std::vector<GraphTensor> tensors;
  Fields(place)
      .Need("name", &graph->name)
      .Need("operators", &graph->operators)
      .Need("tensors", &tensors)
      .Optional("inputs", &graph->inputs)
      .Optional("constants", &graph->constants)
      .Optional("outputs", &graph->outputs)
      .End();
  for (GraphTensor& tensor : tensors) graph->tensors.push_back(std::move(tensor.name));
  CheckGraph(*graph);
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

void Decode(const Place& place, Prediction* prediction) {
  std::vector<PredictedOperator> operators;
  std::vector<PredictedTransfer> transfers;
  std::optional<double> makespan_ms;
  Mapping<double> work_ms;
  double independence;
  Fields(place)
      .Optional("operators", &operators)
      .Optional("transfers", &transfers)
      .Optional("makespan_ms", &makespan_ms)
      .Optional("work_ms", &work_ms)
      .Optional("independence", &independence)
      .End();
  for (PredictedOperator& item : operators) {
    prediction->operators.push_back(std::move(item.operation));
    prediction->costs_ms.push_back(item.cost_ms);
    prediction->spans.push_back(item.span);
  }
  for (const PredictedTransfer& item : transfers) prediction->spans.push_back(item.span);
}

namespace {

// What people and later commands read is checked like the rest, and not kept.
void ExpectRecipe(const Place& place) {
  Mapping<std::string> texts, traces;
  std::string precision;
  bool merge;
  Names dtypes;
  Fields(place)
      .Optional("targets", &texts)
      .Take("precision", false,
            [&](const Place& value) { DecodeChoice(value, {"fp32", "tf32", "fp16"}, &precision); })
      .Optional("merge_convolutions", &merge)
      .Optional("traces", &traces)
      .Optional("dtypes", &dtypes)
      .End();
}

void ExpectVerification(const Place& place) {
  bool verified;
  std::string reason, reference;
  Shape seeds;
  int64_t scale;
  std::vector<OutputError> outputs;
  Names notes;
  Fields(place)
      .Optional("verified", &verified)
      .Optional("reason", &reason)
      .Optional("reference", &reference)
      .Optional("seeds", &seeds)
      .Optional("scale", &scale)
      .Optional("outputs", &outputs)
      .Optional("notes", &notes)
      .End();
}

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
