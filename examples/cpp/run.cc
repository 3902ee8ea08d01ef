// Runs an artifact from several threads, which share one session.
//
//     g++ -std=c++17 examples/cpp/run.cc -Ibuild/c-runtime -Lbuild/c-runtime -lhios_runtime
//         -pthread -Wl,-rpath,'$ORIGIN' -o build/c-runtime/threads
//     build/c-runtime/threads model.hios 4
//
// Inputs are numbers from 0 to 1, and zeros where they are whole numbers. All threads have the same
// inputs, so that their outputs have to be equal, bit for bit.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "hios_runtime.h"

namespace {

void Check(hios_status status) {
  if (status != HIOS_OK) throw std::runtime_error(hios_error());
}

// Ends what a function of the runtime has made.
template <typename T, void (*close)(T*)>
struct Closer {
  void operator()(T* value) const { close(value); }
};

using Artifact = std::unique_ptr<hios_artifact, Closer<hios_artifact, hios_artifact_close>>;
using Session = std::unique_ptr<hios_session, Closer<hios_session, hios_session_close>>;

Artifact OpenArtifact(const std::string& path) {
  hios_artifact* artifact;
  Check(hios_artifact_open(path.c_str(), nullptr, &artifact));
  return Artifact(artifact);
}

Session OpenSession(const Artifact& artifact) {
  hios_session_options options{};
  options.devices = std::getenv("HIOS_DEVICES");  // other cores than the artifact's
  hios_session* session;
  Check(hios_session_open(artifact.get(), &options, &session));
  return Session(session);
}

// The tensors of one run, and their memory.
struct Tensors {
  std::vector<std::vector<char>> memory;
  std::vector<hios_tensor> views;

  void Add(const hios_tensor_spec& spec) {
    memory.emplace_back(spec.bytes);
    views.push_back({spec.name, spec.dtype, spec.rank, spec.shape, memory.back().data()});
  }
};

Tensors MakeTensors(const hios_tensor_spec* specs, size_t count) {
  Tensors tensors;
  for (size_t i = 0; i < count; ++i) tensors.Add(specs[i]);
  return tensors;
}

void Fill(Tensors* tensors) {
  for (size_t i = 0; i < tensors->views.size(); ++i) {
    if (std::string(tensors->views[i].dtype) != "float32") continue;
    std::vector<char>& bytes = tensors->memory[i];
    for (size_t k = 0; k + 4 <= bytes.size(); k += 4) {
      const float value = static_cast<float>(k / 4 % 101) / 101;
      std::memcpy(&bytes[k], &value, 4);
    }
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error(std::string(argv[0]) + " MODEL THREADS");
  const Artifact artifact = OpenArtifact(argv[1]);
  const Session session = OpenSession(artifact);
  size_t num_inputs, num_outputs;
  const hios_tensor_spec* inputs = hios_artifact_inputs(artifact.get(), 0, &num_inputs);
  const hios_tensor_spec* outputs = hios_artifact_outputs(artifact.get(), 0, &num_outputs);
  Tensors given = MakeTensors(inputs, num_inputs);
  Fill(&given);

  const auto count = static_cast<size_t>(std::stoi(argv[2]));
  std::vector<Tensors> results;
  for (size_t i = 0; i < count; ++i) results.push_back(MakeTensors(outputs, num_outputs));
  std::vector<std::string> errors(count);  // the message is that of the thread
  std::vector<std::thread> threads;
  for (size_t i = 0; i < count; ++i) {
    threads.emplace_back([&, i] {
      if (hios_session_run(session.get(), given.views.data(), num_inputs, results[i].views.data(),
                           num_outputs, nullptr) != HIOS_OK) {
        errors[i] = hios_error();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < count; ++i) {
    if (!errors[i].empty()) throw std::runtime_error(errors[i]);
    if (results[i].memory != results[0].memory) throw std::runtime_error("outputs differ");
  }
  std::cout << count << " runs of " << hios_artifact_model(artifact.get()) << " are equal\n";
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
