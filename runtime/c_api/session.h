// A loaded artifact that can be run.

#ifndef HIOS_C_API_SESSION_H_
#define HIOS_C_API_SESSION_H_

#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "claims.h"
#include "hios_runtime.h"
#include "load_shape.h"

namespace hios {

// What ran when, for the caller of a run.
struct Trace {
  hios_trace view;
  std::vector<hios_span> spans;
  std::deque<std::string> events;      // names of them
  std::shared_ptr<Artifact> artifact;  // which has all other names
};

// The tensors of a run in the model's order. Outputs that nobody wants are nullptr.
struct RunTensors {
  size_t shape;    // which of the artifact's
  int64_t rows;    // of a batch that is smaller than that shape's; 0: all
  std::vector<const char*> inputs;
  std::vector<char*> outputs;
};

class Session {
 public:
  Session(std::shared_ptr<Artifact> artifact, const hios_session_options& options);

  // As hios_session_run. Returns a trace where one is wanted.
  std::unique_ptr<Trace> Run(const hios_tensor* inputs, size_t num_inputs,
                             const hios_tensor* outputs, size_t num_outputs, double timeout_s,
                             bool is_traced);

 private:
  void Place(const RunTensors& run, LoadedShape* shape) const;
  void Write(const RunTensors& run, const LoadedShape& shape) const;
  std::unique_ptr<Trace> MakeTrace(const LoadedShape& shape, int64_t start_ns) const;

  std::shared_ptr<Artifact> artifact_;
  std::unique_ptr<CoreClaim> claim_;
  std::vector<LoadedShape> shapes_;  // ended before the claim is given back
  size_t last_ = 0;                  // the shape of the latest run
  std::timed_mutex turn_;
};

}  // namespace hios

#endif  // HIOS_C_API_SESSION_H_
