// From one shape of an artifact to what a session runs: memory, prepared weights, worker threads.

#ifndef HIOS_C_API_LOAD_SHAPE_H_
#define HIOS_C_API_LOAD_SHAPE_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "read_artifact.h"
#include "tensor_table.h"
#include "worker_threads.h"

namespace hios {

using Arenas = std::map<std::string, Pages>;       // memory for the buffers of each device
using DeviceNames = std::map<std::string, std::string>;  // the artifact's, and those that are used

// Memory that runs of all shapes, one at a time, use. Throws `Error` (HIOS_MEMORY).
std::shared_ptr<Arenas> MakeArenas(const Artifact& artifact);

// The device to use for each of the artifact's, parts of devices included. `devices` is as in
// hios_session_options. Throws `Error` (HIOS_DEVICE) where they do not fit.
DeviceNames MapDevices(const Manifest& manifest, const char* devices);

// Memory for tensors of runs that kernels cannot use where the caller has them.
struct RunMemory {
  std::vector<Pages> inputs, outputs;     // of each of the model's; made where one is needed
  std::map<std::string, Pages> extremes;  // that checks of values compare, by buffer
};

// One shape on its cores.
struct LoadedShape {
  const Manifest* manifest;
  std::shared_ptr<RunMemory> memory;
  std::shared_ptr<TensorTable> tensors;  // inputs and outputs have no addresses yet
  std::unique_ptr<WorkerThreads> threads;
};

// Throws `Error`: HIOS_ARTIFACT where a library does not fit this runtime, HIOS_DEVICE where a core
// is not this process's or a device no CPU, HIOS_MEMORY.
LoadedShape LoadShape(const std::shared_ptr<Artifact>& artifact, const Manifest& manifest,
                      const DeviceNames& names, const std::shared_ptr<Arenas>& arenas,
                      double spin_us);

}  // namespace hios

#endif  // HIOS_C_API_LOAD_SHAPE_H_
