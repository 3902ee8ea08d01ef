// Calls of the CUDA driver that a worker makes. Python loads the driver (libcuda.so.1, or a stand-in with the
// same functions) and fills these structs; nothing here needs CUDA's headers or library.

#ifndef HIOS_CUDA_H_
#define HIOS_CUDA_H_

#include <dlpack/dlpack.h>

#include <cstdint>

#include "events.h"

namespace hios {

// Functions of the driver; each returns 0 where it has succeeded.
struct CudaDriver {
  int (*launch)(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                void* stream, void** params, void** extra);
  int (*copy)(uint64_t destination, uint64_t source, size_t bytes, void* stream);
  int (*copy_peer)(uint64_t destination, void* destination_context, uint64_t source,
                   void* source_context, size_t bytes, void* stream);
  int (*record)(void* event, void* stream);
  int (*wait_event)(void* stream, void* event, unsigned flags);
  int (*call_host)(void* stream, void (*function)(void*), void* data);
  int (*launch_graph)(void* graph, void* stream);
  int (*synchronize)(void* stream);
  int (*query)(void* stream);
  int (*push_context)(void* context);
  int (*pop_context)(void** context);
};

constexpr int kNotReady = 600;  // CUDA_ERROR_NOT_READY: a stream is not empty yet

struct GpuLaunch {
  void* function;
  void** params;          // addresses of the arguments: the `data` of DLTensors
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t shared_bytes;
};

struct GpuCopy {
  const DLTensor* destination;
  const DLTensor* source;
  void* destination_context;  // contexts are given where both ends are on GPUs
  void* source_context;
  uint64_t bytes;
};

// An event of workers that a GPU's stream signals.
struct HostSignal {
  Event* event;
  uint64_t run;
};

inline int Copy(const CudaDriver& driver, const GpuCopy& copy, void* stream) {
  const auto destination = reinterpret_cast<uint64_t>(copy.destination->data);
  const auto source = reinterpret_cast<uint64_t>(copy.source->data);
  if (copy.source_context == copy.destination_context) {
    return driver.copy(destination, source, copy.bytes, stream);
  }
  return driver.copy_peer(destination, copy.destination_context, source, copy.source_context,
                          copy.bytes, stream);
}

inline int Launch(const CudaDriver& driver, const GpuLaunch& launch, void* stream) {
  return driver.launch(launch.function, launch.grid[0], launch.grid[1], launch.grid[2],
                       launch.block[0], launch.block[1], launch.block[2], launch.shared_bytes,
                       stream, launch.params, nullptr);
}

// Waits until a stream is empty. Returns the driver's result code: `kNotReady` where `until` was before.
// A thread that cannot wait for ever polls, and sees the end at once.
inline int AwaitStream(const CudaDriver& driver, void* stream, int64_t until) {
  if (until == kForever) return driver.synchronize(stream);
  int status;
  while ((status = driver.query(stream)) == kNotReady && Now() < until) Pause();
  return status;
}

inline void SignalFromStream(void* data) {
  const auto* signal = static_cast<const HostSignal*>(data);
  Signal(*signal->event, signal->run);
}

}  // namespace hios

#endif  // HIOS_CUDA_H_
