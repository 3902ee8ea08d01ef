// CUDA's model of threads on one CPU thread, for generated kernels: every thread of a block is a
// fiber, and runs until it waits for the others. Fibers take turns in an order that changes with
// every turn, so that a barrier that is missing shows.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define CUDART_INF_F INFINITY

using std::max;
using std::min;
typedef unsigned int uint;
typedef unsigned char uchar;

struct Dim3 {
  unsigned x, y, z;
};

struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
struct int2 {
  int x, y;
};
struct int4 {
  int x, y, z, w;
};
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float __expf(float x) { return expf(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

namespace emulator {

constexpr size_t kStackBytes = 64 << 10;
constexpr unsigned kWarp = 32;

struct Barrier {
  unsigned arrived = 0;
  unsigned generation = 0;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Dim3 index;
  unsigned number = 0;
  bool ended = false;
};

struct Block {
  ucontext_t scheduler;
  std::vector<Fiber> fibers;
  std::function<void()> body;
  Fiber* current = nullptr;
  Barrier all;
  std::vector<Barrier> warps;
  std::vector<uint64_t> exchanged;
  unsigned seed = 1;
};

inline Block block;
inline Dim3 block_index, block_size, grid_size;

inline void Yield() { swapcontext(&block.current->context, &block.scheduler); }

inline unsigned Alive(unsigned first, unsigned end) {
  unsigned alive = 0;
  for (unsigned i = first; i < end; ++i) alive += !block.fibers[i].ended;
  return alive;
}

inline void Await(Barrier& barrier, unsigned first, unsigned end) {
  const unsigned generation = barrier.generation;
  ++barrier.arrived;
  while (barrier.generation == generation) {
    if (barrier.arrived >= Alive(first, end)) {
      barrier.arrived = 0;
      ++barrier.generation;
    } else {
      Yield();
    }
  }
}

inline void AwaitWarp() {
  const unsigned warp = block.current->number / kWarp;
  const unsigned end = std::min<unsigned>((warp + 1) * kWarp, block.fibers.size());
  Await(block.warps[warp], warp * kWarp, end);
}

template <typename T>
T Exchange(T value, int source) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "");
  const unsigned number = block.current->number;
  *reinterpret_cast<T*>(&block.exchanged[number]) = value;
  AwaitWarp();
  const unsigned from = number / kWarp * kWarp + source;
  const T result = source >= 0 && source < int(kWarp) && from < block.fibers.size()
                       ? *reinterpret_cast<T*>(&block.exchanged[from])
                       : value;
  AwaitWarp();
  return result;
}

inline int Lane() { return block.current->number % kWarp; }

inline void Enter() {
  block.body();
  block.current->ended = true;
  Yield();
}

inline void RunBlock() {
  const unsigned count = block.fibers.size();
  for (unsigned i = 0; i < count; ++i) {
    Fiber& fiber = block.fibers[i];
    fiber.number = i;
    fiber.ended = false;
    fiber.index = {i % block_size.x, i / block_size.x % block_size.y,
                   i / (block_size.x * block_size.y)};
    if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, Enter, 0);
  }
  while (Alive(0, count) != 0) {
    block.seed = block.seed * 1664525u + 1013904223u;
    const unsigned start = block.seed % count;
    const bool backwards = block.seed >> 31;
    for (unsigned step = 0; step < count; ++step) {
      Fiber& fiber = block.fibers[(start + (backwards ? count - step : step)) % count];
      if (fiber.ended) continue;
      block.current = &fiber;
      swapcontext(&block.scheduler, &fiber.context);
    }
  }
}

inline void Launch(const unsigned* grid, const unsigned* size, std::function<void()> body) {
  grid_size = {grid[0], grid[1], grid[2]};
  block_size = {size[0], size[1], size[2]};
  block.body = std::move(body);
  block.fibers.resize(size[0] * size[1] * size[2]);
  block.warps.assign((block.fibers.size() + kWarp - 1) / kWarp, Barrier{});
  block.exchanged.assign(block.fibers.size(), 0);
  block.all = Barrier{};
  for (unsigned z = 0; z < grid[2]; ++z) {
    for (unsigned y = 0; y < grid[1]; ++y) {
      for (unsigned x = 0; x < grid[0]; ++x) {
        block_index = {x, y, z};
        RunBlock();
      }
    }
  }
}

}  // namespace emulator

#define threadIdx (emulator::block.current->index)
#define blockIdx (emulator::block_index)
#define blockDim (emulator::block_size)
#define gridDim (emulator::grid_size)

inline void __syncthreads() {
  emulator::Await(emulator::block.all, 0, emulator::block.fibers.size());
}
inline void __syncwarp(unsigned = ~0u) { emulator::AwaitWarp(); }
inline unsigned __activemask() { return ~0u; }

template <typename T>
T __shfl_sync(unsigned, T value, int lane, int = 32) {
  return emulator::Exchange(value, lane);
}
template <typename T>
T __shfl_down_sync(unsigned, T value, int delta, int = 32) {
  return emulator::Exchange(value, emulator::Lane() + delta);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, int delta, int = 32) {
  return emulator::Exchange(value, emulator::Lane() - delta);
}
