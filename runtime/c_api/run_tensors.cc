#include "run_tensors.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>

#include "error.h"

namespace hios {
namespace {

std::string ShapeText(const Shape& shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

// Collects what is wrong, so that a message can list all of it.
class Problems {
 public:
  void Add(const std::string& problem) { text_ += (text_.empty() ? "" : "; ") + problem; }

  void Throw(const char* kind) const {
    if (!text_.empty()) Fail(HIOS_INPUT, std::string(kind) + "s: " + text_);
  }

 private:
  std::string text_;
};

// The given tensors in the order of `specs`; nullptr for those that are missing.
std::vector<const hios_tensor*> InOrder(const std::vector<TensorSpec>& specs,
                                        const hios_tensor* given, size_t count, Problems* problems) {
  std::vector<const hios_tensor*> found(specs.size());
  for (size_t i = 0; i < count; ++i) {
    size_t place = i;
    if (given[i].name != nullptr) {
      const auto spec = std::find_if(specs.begin(), specs.end(), [&](const TensorSpec& one) {
        return one.name == given[i].name;
      });
      place = static_cast<size_t>(spec - specs.begin());
    }
    const std::string name = given[i].name != nullptr ? given[i].name : std::to_string(i);
    if (place >= specs.size()) {
      problems->Add(Quoted(name) + " is unknown");
    } else if (found[place] != nullptr) {
      problems->Add(Quoted(name) + " is given twice");
    } else if (given[i].rank < 0 || (given[i].rank > 0 && given[i].shape == nullptr)) {
      problems->Add(Quoted(name) + " has no shape");
    } else {
      found[place] = &given[i];
    }
  }
  return found;
}

Shape ShapeOf(const hios_tensor& tensor) {
  return Shape(tensor.shape, tensor.shape + tensor.rank);
}

// Whether a given tensor is what a run needs; says what is wrong.
bool Fits(const hios_tensor& given, const TensorSpec& spec, const Shape& shape, Problems* problems) {
  const std::string dtype = given.dtype == nullptr ? "without a type" : given.dtype;
  const bool has_memory = given.data != nullptr || Product(shape, 1) == 0;
  if (dtype == spec.dtype && ShapeOf(given) == shape && has_memory) return true;
  problems->Add(Quoted(spec.name) + " is " + dtype + " " + ShapeText(ShapeOf(given)) +
                (has_memory ? "" : " without memory") + ", not " + spec.dtype + " " +
                ShapeText(shape));
  return false;
}

// The shape of the artifact that runs inputs, and their rows where they are fewer than its own.
struct Choice {
  size_t shape;
  int64_t rows;
};

bool IsShapeOf(const Manifest& manifest, const Batch* batch, int64_t rows,
               const std::vector<const hios_tensor*>& given) {
  for (size_t i = 0; i < given.size(); ++i) {
    const TensorSpec& spec = manifest.inputs[i];
    Shape shape = spec.shape;
    if (batch != nullptr) {
      shape = ShapeOfRows(shape, BatchAxis(batch->inputs, spec.name), rows, BatchRows(*batch, manifest));
    }
    if (ShapeOf(*given[i]) != shape) return false;
  }
  return true;
}

// The rows of the given inputs, where they have the axis of the batch.
std::optional<int64_t> RowsOf(const Batch& batch, const Manifest& manifest,
                              const std::vector<const hios_tensor*>& given) {
  const auto& [name, axis] = batch.inputs[0];
  for (size_t i = 0; i < given.size(); ++i) {
    if (manifest.inputs[i].name == name && axis < given[i]->rank) return given[i]->shape[axis];
  }
  return {};
}

std::optional<Choice> FindShape(const Artifact& artifact, const std::vector<const hios_tensor*>& given) {
  const auto& manifests = artifact.manifests;
  for (size_t i = 0; i < manifests.size(); ++i) {
    if (IsShapeOf(*manifests[i], nullptr, 0, given)) return Choice{i, 0};
  }
  if (!manifests[0]->shapes || !manifests[0]->shapes->batch) return {};
  const Batch& batch = *manifests[0]->shapes->batch;
  const std::optional<int64_t> rows = RowsOf(batch, *manifests[0], given);
  if (!rows || *rows < batch.smallest || *rows > batch.largest) return {};
  std::optional<Choice> best;
  int64_t best_rows = 0;
  for (size_t i = 0; i < manifests.size(); ++i) {
    const int64_t own = BatchRows(batch, *manifests[i]);
    if (own < *rows || (best && own >= best_rows)) continue;
    if (!IsShapeOf(*manifests[i], &batch, *rows, given)) continue;
    best = Choice{i, *rows};
    best_rows = own;
  }
  return best;
}

// Says which shapes can be run.
std::string KnownShapes(const Artifact& artifact) {
  std::string text = "the artifact has programs for ";
  for (size_t i = artifact.manifests.size(); i-- > 0;) {
    for (const TensorSpec& spec : artifact.manifests[i]->inputs) {
      text += spec.name + " " + ShapeText(spec.shape) + (&spec == &artifact.manifests[i]->inputs.back() ? "" : ", ");
    }
    if (i != 0) text += "; ";
  }
  const auto& shapes = artifact.manifests[0]->shapes;
  if (shapes && shapes->batch) {
    text += ", and runs batches from " + std::to_string(shapes->batch->smallest) + " to " +
            std::to_string(shapes->batch->largest);
  }
  return text;
}

Choice ChooseShape(const Artifact& artifact, const std::vector<const hios_tensor*>& given) {
  const bool complete = std::find(given.begin(), given.end(), nullptr) == given.end();
  if (artifact.manifests.size() == 1 || !complete) {
    const auto& shapes = artifact.manifests[0]->shapes;
    if (!complete || !shapes) return {0, 0};  // messages say what is missing or wrong
  }
  const std::optional<Choice> choice = FindShape(artifact, given);
  if (!choice) Fail(HIOS_INPUT, "inputs: no program for these shapes; " + KnownShapes(artifact));
  return *choice;
}

void RefuseOverlaps(const Manifest& manifest, const RunTensors& run,
                    const std::vector<size_t>& input_bytes, const std::vector<size_t>& output_bytes) {
  const auto overlap = [](const char* a, size_t a_bytes, const char* b, size_t b_bytes) {
    return a != nullptr && b != nullptr && a < b + b_bytes && b < a + a_bytes;
  };
  for (size_t i = 0; i < run.outputs.size(); ++i) {
    bool apart = true;
    for (size_t k = 0; k < run.inputs.size(); ++k) {
      apart = apart && !overlap(run.outputs[i], output_bytes[i], run.inputs[k], input_bytes[k]);
    }
    for (size_t k = 0; k < i; ++k) {
      apart = apart && !overlap(run.outputs[i], output_bytes[i], run.outputs[k], output_bytes[k]);
    }
    if (!apart) {
      Fail(HIOS_INPUT, "output " + Quoted(manifest.outputs[i].name) +
                           " shares memory with an input or another output");
    }
  }
}

}  // namespace

int64_t BatchAxis(const Mapping<int64_t>& axes, std::string_view name) {
  for (const auto& [other, axis] : axes) {
    if (other == name) return axis;
  }
  return -1;
}

int64_t BatchRows(const Batch& batch, const Manifest& manifest) {
  const auto& [name, axis] = batch.inputs[0];
  for (const TensorSpec& spec : manifest.inputs) {
    if (spec.name == name) return spec.shape[static_cast<size_t>(axis)];
  }
  return 0;
}

Shape ShapeOfRows(const Shape& full, int64_t axis, int64_t rows, int64_t full_rows) {
  Shape shape = full;
  if (axis >= 0 && rows != 0) {
    int64_t& size = shape[static_cast<size_t>(axis)];
    size = size / full_rows * rows;
  }
  return shape;
}

void CopyRows(const char* from, const Shape& from_shape, char* to, const Shape& to_shape,
              size_t axis, size_t element_bytes) {
  size_t blocks = 1, entry = element_bytes;
  for (size_t i = 0; i < axis; ++i) blocks *= static_cast<size_t>(to_shape[i]);
  for (size_t i = axis + 1; i < to_shape.size(); ++i) entry *= static_cast<size_t>(to_shape[i]);
  const auto given = static_cast<size_t>(from_shape[axis]), wanted = static_cast<size_t>(to_shape[axis]);
  for (size_t block = 0; block < blocks; ++block) {
    const char* source = from + block * given * entry;
    char* target = to + block * wanted * entry;
    std::memcpy(target, source, std::min(given, wanted) * entry);
    for (size_t i = given; i < wanted; ++i) {
      std::memcpy(target + i * entry, source + (given - 1) * entry, entry);
    }
  }
}

void CheckValues(const Manifest& manifest, TensorTable* tensors) {
  std::vector<std::string> problems;
  for (const ValueCheck& check : manifest.checks) {
    const DLTensor& extremes = *tensors->tensor(check.buffer);
    const auto* values = static_cast<const int64_t*>(extremes.data);
    const int64_t low = ~values[check.column], high = values[extremes.shape[1] + check.column];
    if (high <= check.high && low >= -check.below) continue;
    const int64_t value = high > check.high ? high : low;
    std::string problem;
    if (check.kind == "division") {
      problem = check.operation + " makes an integer division " +
                (value == 1 ? "by 0" : "of the least number by -1") + ", which has no result";
    } else {
      problem = check.operation + " got the " + check.kind + " " + std::to_string(value) +
                "; valid are " + std::to_string(-check.below) + " to " + std::to_string(check.high);
    }
    if (std::find(problems.begin(), problems.end(), problem) == problems.end()) {
      problems.push_back(problem);
    }
  }
  std::string text;
  for (const std::string& problem : problems) text += (text.empty() ? "" : "; ") + problem;
  if (!text.empty()) Fail(HIOS_INPUT, text);
}

RunTensors AcceptTensors(const Artifact& artifact, const hios_tensor* inputs, size_t num_inputs,
                         const hios_tensor* outputs, size_t num_outputs) {
  Problems of_inputs, of_outputs;
  const Manifest& first = *artifact.manifests[0];
  const auto given = InOrder(first.inputs, inputs, num_inputs, &of_inputs);
  const auto wanted = InOrder(first.outputs, outputs, num_outputs, &of_outputs);
  of_inputs.Throw("input");
  const auto [number, rows] = ChooseShape(artifact, given);
  const Manifest& manifest = *artifact.manifests[number];
  const Batch* batch = rows == 0 ? nullptr : &*first.shapes->batch;
  RunTensors run{number, rows, {}, {}};
  std::vector<size_t> input_bytes, output_bytes;
  const auto shape_of = [&](const TensorSpec& spec, bool is_input) {
    if (batch == nullptr) return spec.shape;
    const int64_t axis = BatchAxis(is_input ? batch->inputs : batch->outputs, spec.name);
    return ShapeOfRows(spec.shape, axis, rows, BatchRows(*batch, manifest));
  };
  for (size_t i = 0; i < given.size(); ++i) {
    const TensorSpec& spec = manifest.inputs[i];
    const Shape shape = shape_of(spec, true);
    if (given[i] == nullptr) {
      of_inputs.Add(Quoted(spec.name) + " is missing: " + spec.dtype + " " + ShapeText(shape));
    } else if (Fits(*given[i], spec, shape, &of_inputs)) {
      run.inputs.push_back(static_cast<const char*>(given[i]->data));
      input_bytes.push_back(static_cast<size_t>(TensorBytes(shape, spec.dtype)));
    }
  }
  of_inputs.Throw("input");
  for (size_t i = 0; i < wanted.size(); ++i) {
    const TensorSpec& spec = manifest.outputs[i];
    const Shape shape = shape_of(spec, false);
    const bool fits = wanted[i] != nullptr && Fits(*wanted[i], spec, shape, &of_outputs);
    run.outputs.push_back(fits ? static_cast<char*>(wanted[i]->data) : nullptr);
    output_bytes.push_back(static_cast<size_t>(TensorBytes(shape, spec.dtype)));
  }
  of_outputs.Throw("output");
  RefuseOverlaps(manifest, run, input_bytes, output_bytes);
  return run;
}

}  // namespace hios
