// CUDA's model of threads on one CPU thread, for generated kernels: every thread of a block is a
// fiber, and runs until it waits for the others. Fibers take turns in an order that changes with
// every turn, so that a barrier that is missing shows.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <type_traits>
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

typedef _Float16 half;

// As aligned as a GPU demands: the compiler of the emulator checks every access
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(4) ushort2 {
  unsigned short x, y;
};
struct alignas(8) ushort4 {
  unsigned short x, y, z, w;
};
struct alignas(8) half4 {
  half x, y, z, w;
};
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline half4 make_half4(half x, half y, half z, half w) { return {x, y, z, w}; }
inline half __float2half_rn(float x) { return half(x); }
inline float __expf(float x) { return expf(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

namespace emulator {

constexpr size_t kStackBytes = 128 << 10;
constexpr unsigned kWarp = 32;

struct Barrier {
  unsigned arrived = 0;
  unsigned generation = 0;
};

// A copy that a thread started: it lands when the thread waits for its group, and not before
struct Copy {
  unsigned char* to;
  std::vector<unsigned char> bytes;
};

struct Fiber {
  ucontext_t context;
  std::vector<Copy> started;
  std::deque<std::vector<Copy>> groups;
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

// Dynamic shared memory; what lies behind a launch's share must never change
constexpr size_t kSharedBytes = 64 << 10;
constexpr unsigned char kPoison = 0xFF;  // of floats: not a number
alignas(64) inline unsigned char shared_memory[kSharedBytes];

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

// Starts a copy of elements at offsets, or stores zeros now. Bytes that are on their way may have
// arrived in part: nobody may read them, nor what they replace
template <unsigned kBytes, unsigned kTo, unsigned kFrom>
void CopyAsync(void* to, int to_offset, const void* from, int from_offset, bool copies = true) {
  auto* target = static_cast<unsigned char*>(to) + int64_t(to_offset) * kTo;
  auto* source = static_cast<const unsigned char*>(from) + int64_t(from_offset) * kFrom;
  if (reinterpret_cast<uintptr_t>(target) % kBytes != 0) abort();
  memset(target, copies ? kPoison : 0, kBytes);
  if (!copies) return;
  if (reinterpret_cast<uintptr_t>(source) % kBytes != 0) abort();
  block.current->started.push_back({target, {source, source + kBytes}});
}

inline void CommitGroup() {
  block.current->groups.push_back(std::move(block.current->started));
  block.current->started.clear();
}

inline void WaitGroup(unsigned left) {
  auto& groups = block.current->groups;
  for (; groups.size() > left; groups.pop_front()) {
    for (const Copy& copy : groups.front()) memcpy(copy.to, copy.bytes.data(), copy.bytes.size());
  }
}

inline void RunBlock() {
  const unsigned count = block.fibers.size();
  for (unsigned i = 0; i < count; ++i) {
    Fiber& fiber = block.fibers[i];
    fiber.number = i;
    fiber.ended = false;
    fiber.started.clear();
    fiber.groups.clear();
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

inline void Launch(const unsigned* grid, const unsigned* size, size_t shared_bytes,
                   std::function<void()> body) {
  memset(shared_memory, kPoison, kSharedBytes);
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
  for (size_t i = shared_bytes; i < kSharedBytes; ++i) {
    if (shared_memory[i] != kPoison) abort();
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

// Fragments of tensor cores. The first thread of a warp holds all of them
namespace nvcuda {
namespace wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
enum layout_t { mem_row_major };
namespace precision {
struct tf32 {};
}  // namespace precision

template <typename T>
struct Stored {
  typedef T type;
};
template <>
struct Stored<precision::tf32> {
  typedef float type;
};

template <typename Use, int M, int N, int K, typename T, typename Layout = row_major>
struct fragment {
  static constexpr bool kIsA = std::is_same<Use, matrix_a>::value;
  static constexpr bool kIsB = std::is_same<Use, matrix_b>::value;
  static constexpr bool kIsTf32 = std::is_same<T, precision::tf32>::value;
  static_assert(K == (kIsTf32 || (!kIsA && !kIsB && K == 8) ? 8 : 16), "no such fragment");
  static constexpr int kRows = kIsB ? K : M;
  static constexpr int kColumns = kIsA ? K : N;
  static constexpr int num_elements = kRows * kColumns;
  typename Stored<T>::type x[num_elements];
};

inline void CheckPointer(const void* pointer, unsigned stride_bytes) {
  if (reinterpret_cast<uintptr_t>(pointer) % 32 != 0 || stride_bytes % 16 != 0) abort();
}

template <typename Fragment, typename T>
void load_matrix_sync(Fragment& fragment, const T* pointer, unsigned stride) {
  CheckPointer(pointer, stride * sizeof(T));
  emulator::AwaitWarp();
  for (int i = 0; i < Fragment::kRows && emulator::Lane() == 0; ++i) {
    for (int j = 0; j < Fragment::kColumns; ++j) {
      fragment.x[i * Fragment::kColumns + j] = pointer[i * stride + j];
    }
  }
  emulator::AwaitWarp();
}

template <typename Fragment, typename T>
void store_matrix_sync(T* pointer, const Fragment& fragment, unsigned stride, layout_t) {
  CheckPointer(pointer, stride * sizeof(T));
  emulator::AwaitWarp();
  for (int i = 0; i < Fragment::kRows && emulator::Lane() == 0; ++i) {
    for (int j = 0; j < Fragment::kColumns; ++j) {
      pointer[i * stride + j] = fragment.x[i * Fragment::kColumns + j];
    }
  }
  emulator::AwaitWarp();
}

template <typename Fragment>
void fill_fragment(Fragment& fragment, float value) {
  for (auto& element : fragment.x) element = value;
}

// Tensor cores ignore the bits that TF32 lacks: a value that was not rounded would change
inline float AsRead(float value, bool is_tf32) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  if (is_tf32 && (bits & 0x1fff) != 0) abort();
  return value;
}

inline float __float_to_tf32(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  bits = (bits + 0x1000) & ~0x1fffu;
  memcpy(&value, &bits, sizeof(bits));
  return value;
}

template <typename D, typename A, typename B, typename C>
void mma_sync(D& result, const A& a, const B& b, const C& sums) {
  emulator::AwaitWarp();
  for (int i = 0; i < A::kRows && emulator::Lane() == 0; ++i) {
    for (int j = 0; j < B::kColumns; ++j) {
      float sum = sums.x[i * B::kColumns + j];
      for (int k = 0; k < A::kColumns; ++k) {
        sum += AsRead(a.x[i * A::kColumns + k], A::kIsTf32) *
               AsRead(b.x[k * B::kColumns + j], B::kIsTf32);
      }
      result.x[i * B::kColumns + j] = sum;
    }
  }
}

}  // namespace wmma
}  // namespace nvcuda
