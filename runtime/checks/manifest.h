// What manifest.json holds; hios_tvm/schema/manifest.py documents every field.

#ifndef HIOS_CHECKS_MANIFEST_H_
#define HIOS_CHECKS_MANIFEST_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dtypes.h"

namespace hios {

using Names = std::vector<std::string>;

template <typename T>
using Mapping = std::vector<std::pair<std::string, T>>;  // in the order of the text, no name twice

struct TensorSpec {
  std::string name, buffer;
  Shape shape;
  std::string dtype;
};

struct Buffer {
  std::string name;
  std::optional<std::string> device;
  std::string space;  // input, output, param or arena
  Shape shape;
  std::string dtype;
  std::optional<int64_t> offset;

  int64_t bytes() const { return TensorBytes(shape, dtype); }
  std::string_view weight() const;  // its name among the weights
};

struct PreparedWeight {
  std::string name, kernel, source;
};

struct ValueCheck {
  std::string buffer;
  int64_t column;
  std::string operation, kind;
  int64_t below, high;
};

struct DeviceSpec {
  std::string name, kind;
  std::optional<std::string> library;
  std::string target;
  Names cpu_features;
  int64_t arena_bytes;
  std::optional<std::string> device_code;
};

struct Step {
  enum Kind { kCall, kCopy, kSignal, kWait };

  Kind kind;
  std::string operation, kernel;  // call
  Names args;                     // call; copy: source and destination
  int64_t outputs = 0;            // call: how many of the last arguments it writes; copy: 1
  int64_t event = 0;              // signal, wait

  // The arguments from this one on are written, those before it are read. Of valid calls.
  size_t first_output() const { return args.size() - static_cast<size_t>(outputs); }
};

struct Program {
  std::string device;
  int64_t stream;
  std::vector<Step> instructions;
};

struct LaunchSpec {
  std::string symbol;
  Shape grid, block;
  int64_t shared_bytes;
  Shape args;
};

struct GpuKernel {
  std::vector<LaunchSpec> launches;
  Shape bytes, scratch;
};

struct Operator {
  std::string name, kernel;
  Names inputs, outputs, nodes;
};

struct OperatorGraph {
  std::string name;
  std::vector<Operator> operators;
  Names tensors, inputs, constants, outputs;
};

struct Batch {
  Mapping<int64_t> inputs, outputs;
  int64_t smallest, largest;
};

struct Shapes {
  Names others;
  std::optional<Batch> batch;
};

struct PredictedSpan {
  double start_ms, end_ms;
};

struct Prediction {
  Names operators;
  std::vector<double> costs_ms;
  std::vector<PredictedSpan> spans;  // of operators and transfers
};

struct Manifest {
  int64_t format_version;
  std::string tvm_version, model;
  std::vector<TensorSpec> inputs, outputs;
  std::vector<DeviceSpec> devices;
  std::vector<Program> programs;
  std::vector<Buffer> buffers;
  std::vector<PreparedWeight> prepared;
  std::vector<ValueCheck> checks;
  Mapping<GpuKernel> gpu_kernels;
  Mapping<std::string> entries;
  std::optional<OperatorGraph> graph;
  std::optional<Shapes> shapes;
  std::vector<Names> replicas;
  int64_t in_flight = 1;
  Prediction prediction;

  // By name, or nullptr; of names that are used twice the last one.
  const Buffer* buffer(std::string_view name) const;
  const DeviceSpec* device(std::string_view name) const;
  const std::string* entry(std::string_view name) const;

  std::map<std::string_view, const Buffer*> buffer_of;
  std::map<std::string_view, const DeviceSpec*> device_of;

  Manifest() = default;
  Manifest(const Manifest&) = delete;  // the maps point into it
  Manifest& operator=(const Manifest&) = delete;
};

// Reads what a compile wrote into `manifest`; throws `Error` (HIOS_ARTIFACT) where a field is
// unknown, missing, or of another type, and for another version.
void ReadManifest(std::string_view text, Manifest* manifest);

// The command that makes an artifact again, by a manifest of whatever version.
std::string RebuildCommand(std::string_view text);

}  // namespace hios

#endif  // HIOS_CHECKS_MANIFEST_H_
