// Checks of the shapes of an artifact that has several.

#include <algorithm>
#include <set>

#include "check_manifest.h"
#include "error.h"
#include "limits.h"

namespace hios {
namespace {

// Whether two lists of tensors have the same names, types and numbers of dimensions.
bool SameKinds(const std::vector<TensorSpec>& a, const std::vector<TensorSpec>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const TensorSpec& one, const TensorSpec& other) {
                      return one.name == other.name && one.dtype == other.dtype &&
                             one.shape.size() == other.shape.size();
                    });
}

std::map<std::string_view, std::string_view> EntriesWithout(const Manifest& manifest,
                                                            const Names& left_out) {
  std::map<std::string_view, std::string_view> entries(manifest.entries.begin(),
                                                       manifest.entries.end());
  for (const std::string& name : left_out) entries.erase(name);
  return entries;
}

// The sizes of tensors along their axes.
std::vector<int64_t> Extents(const Mapping<int64_t>& axes, const std::vector<TensorSpec>& specs) {
  std::map<std::string_view, const Shape*> shapes;
  for (const TensorSpec& spec : specs) shapes[spec.name] = &spec.shape;
  std::vector<int64_t> extents;
  for (const auto& [name, axis] : axes) {
    const auto shape = shapes.find(name);
    Require(shape != shapes.end() && axis < static_cast<int64_t>(shape->second->size()), [&] {
      return Quoted(name) + " has no axis " + std::to_string(axis) + " for a batch";
    });
    extents.push_back((*shape->second)[static_cast<size_t>(axis)]);
  }
  return extents;
}

void CheckBatch(const Batch& batch, const std::vector<std::unique_ptr<Manifest>>& manifests) {
  Require(1 <= batch.smallest && batch.smallest <= batch.largest, "its batch has no sizes");
  Require(!batch.inputs.empty(), "its batch is of no input");
  for (const auto& manifest : manifests) {
    const std::vector<int64_t> inputs = Extents(batch.inputs, manifest->inputs);
    const int64_t rows = inputs[0];
    Require(std::all_of(inputs.begin(), inputs.end(), [&](int64_t n) { return n == rows; }),
            "the inputs of a shape have batches of different sizes");
    const std::vector<int64_t> outputs = Extents(batch.outputs, manifest->outputs);
    Require(rows > 0 && std::all_of(outputs.begin(), outputs.end(),
                                    [&](int64_t extent) { return extent % rows == 0; }),
            "an output has not as many entries for each row");
  }
}

}  // namespace

void CheckShapes(const std::vector<std::unique_ptr<Manifest>>& manifests) {
  const Manifest& first = *manifests[0];
  Require(manifests.size() <= kMaxShapes,
          [&] { return "it has " + std::to_string(manifests.size()) + " shapes"; });
  const Names names = first.shapes ? first.shapes->others : Names();
  const auto entries = EntriesWithout(first, names);
  std::set<std::vector<Shape>> distinct;
  for (const auto& manifest : manifests) {
    if (manifest.get() != &first) {
      Require(!manifest->shapes && EntriesWithout(*manifest, {}) == entries,
              "a shape of it has entries of its own");
      Require(SameKinds(first.inputs, manifest->inputs), "its shapes have different inputs");
      Require(SameKinds(first.outputs, manifest->outputs), "its shapes have different outputs");
    }
    std::vector<Shape> shape;
    for (const TensorSpec& spec : manifest->inputs) shape.push_back(spec.shape);
    Require(distinct.insert(std::move(shape)).second, "two of its shapes are equal");
  }
  if (first.shapes && first.shapes->batch) CheckBatch(*first.shapes->batch, manifests);
}

}  // namespace hios
