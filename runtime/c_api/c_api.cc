// The functions of hios_runtime.h: exceptions become codes here.

#include <string>

#include "guard.h"
#include "hios_runtime.h"
#include "read_artifact.h"
#include "session.h"

namespace {

std::vector<hios_tensor_spec> Describe(const std::vector<hios::TensorSpec>& specs) {
  std::vector<hios_tensor_spec> result;
  for (const hios::TensorSpec& spec : specs) {
    result.push_back({spec.name.c_str(), spec.dtype.c_str(), static_cast<int32_t>(spec.shape.size()),
                      spec.shape.data(),
                      static_cast<uint64_t>(hios::TensorBytes(spec.shape, spec.dtype))});
  }
  return result;
}

void RequireArgument(bool holds, const char* message) {
  if (!holds) hios::Fail(HIOS_USAGE, message);
}

}  // namespace

struct hios_artifact {
  std::shared_ptr<hios::Artifact> artifact;
  std::vector<std::vector<hios_tensor_spec>> inputs, outputs;  // of each shape
  std::vector<const char*> devices;
};

struct hios_session {
  hios::Session session;
};

namespace {

// A list of an artifact's, with its length.
template <typename T>
const T* Listed(const std::vector<std::vector<T>>& lists, size_t number, size_t* count) {
  *count = number < lists.size() ? lists[number].size() : 0;
  return number < lists.size() ? lists[number].data() : nullptr;
}

}  // namespace

int32_t hios_runtime_version(void) { return HIOS_RUNTIME_VERSION; }

const char* hios_runtime_tvm_version(void) { return HIOS_TVM_VERSION; }

const char* hios_error(void) { return hios::last_error.c_str(); }

hios_status hios_artifact_open(const char* path, const char* key, hios_artifact** artifact) {
  return hios::Guard([&] {
    RequireArgument(path != nullptr && artifact != nullptr, "hios_artifact_open lacks an argument");
    auto result = std::make_unique<hios_artifact>();
    result->artifact = hios::OpenArtifact(path, key);
    for (const auto& manifest : result->artifact->manifests) {
      result->inputs.push_back(Describe(manifest->inputs));
      result->outputs.push_back(Describe(manifest->outputs));
    }
    for (const hios::DeviceSpec& device : result->artifact->manifests[0]->devices) {
      result->devices.push_back(device.name.c_str());
    }
    *artifact = result.release();
  });
}

void hios_artifact_close(hios_artifact* artifact) { delete artifact; }

const char* hios_artifact_model(const hios_artifact* artifact) {
  return artifact->artifact->manifests[0]->model.c_str();
}

size_t hios_artifact_shapes(const hios_artifact* artifact) {
  return artifact->artifact->manifests.size();
}

const hios_tensor_spec* hios_artifact_inputs(const hios_artifact* artifact, size_t shape,
                                             size_t* count) {
  return Listed(artifact->inputs, shape, count);
}

const hios_tensor_spec* hios_artifact_outputs(const hios_artifact* artifact, size_t shape,
                                              size_t* count) {
  return Listed(artifact->outputs, shape, count);
}

const char* const* hios_artifact_devices(const hios_artifact* artifact, size_t* count) {
  *count = artifact->devices.size();
  return artifact->devices.data();
}

const char* hios_artifact_manifest(const hios_artifact* artifact, size_t shape, size_t* bytes) {
  const auto& texts = artifact->artifact->texts;
  *bytes = shape < texts.size() ? texts[shape].size() : 0;
  return shape < texts.size() ? texts[shape].c_str() : nullptr;
}

int32_t hios_artifact_batch(const hios_artifact* artifact, int64_t* smallest, int64_t* largest) {
  const auto& shapes = artifact->artifact->manifests[0]->shapes;
  if (!shapes || !shapes->batch) return 0;
  *smallest = shapes->batch->smallest;
  *largest = shapes->batch->largest;
  return 1;
}

hios_status hios_session_open(const hios_artifact* artifact, const hios_session_options* options,
                              hios_session** session) {
  return hios::Guard([&] {
    RequireArgument(artifact != nullptr && session != nullptr, "hios_session_open lacks an argument");
    const hios_session_options defaults = {};
    *session = new hios_session{{artifact->artifact, options == nullptr ? defaults : *options}};
  });
}

void hios_session_close(hios_session* session) { delete session; }

hios_status hios_session_run(hios_session* session, const hios_tensor* inputs, size_t num_inputs,
                             const hios_tensor* outputs, size_t num_outputs,
                             const hios_run_options* options) {
  return hios::Guard([&] {
    RequireArgument(session != nullptr && (inputs != nullptr || num_inputs == 0) &&
                        (outputs != nullptr || num_outputs == 0),
                    "hios_session_run lacks an argument");
    const hios_run_options used = options == nullptr ? hios_run_options{} : *options;
    auto trace = session->session.Run(inputs, num_inputs, outputs, num_outputs, used.timeout_s,
                                      used.trace != nullptr);
    if (used.trace != nullptr) *used.trace = &trace.release()->view;
  });
}

void hios_trace_free(hios_trace* trace) { delete reinterpret_cast<hios::Trace*>(trace); }
