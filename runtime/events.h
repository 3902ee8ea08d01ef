// Events between threads: they count runs and are never reset; waiters poll first, then sleep.

#ifndef HIOS_TVM_RUNTIME_EVENTS_H_
#define HIOS_TVM_RUNTIME_EVENTS_H_

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

#define HIOS_EXPORT extern "C" __attribute__((visibility("default")))

namespace hios {

using Word = std::atomic<uint32_t>;
using RunNumber = std::atomic<uint64_t>;  // of 64 bits, so that no number comes twice

static_assert(Word::is_always_lock_free && RunNumber::is_always_lock_free);
static_assert(sizeof(RunNumber) == 8 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "the kernel's futex has 32 bits: the lower half of a number lies at its address");

constexpr int kChecksPerClockRead = 16;
constexpr int64_t kYieldAfterNs = 20'000;
constexpr int64_t kSliceNs = 20'000'000;  // how soon a sleeper sees that its run was given up
constexpr int64_t kForever = INT64_MAX;

// Holds the number of the last run that signalled it. It has a cache line of its own, so that a
// thread that polls one event does not slow down another.
struct alignas(64) Event {
  RunNumber run;
  Word sleepers;
};

inline int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

inline void WakeSleepers(Event& event) {
  if (event.sleepers.load(std::memory_order_seq_cst) != 0) {
    syscall(SYS_futex, &event.run, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
  }
}

inline void Signal(Event& event, uint64_t run) {
  event.run.store(run, std::memory_order_seq_cst);
  WakeSleepers(event);
}

// Sleeps until `event` no longer holds `seen`, or until the time is over. The kernel compares the lower
// halves only, and would miss a step of 2^32 runs: none is that long, for no run begins before the
// workers of the last one have left it.
inline void Sleep(Event& event, uint64_t seen, int64_t limit_ns) {
  timespec limit{static_cast<time_t>(limit_ns / 1'000'000'000), limit_ns % 1'000'000'000};
  syscall(SYS_futex, &event.run, FUTEX_WAIT_PRIVATE, static_cast<uint32_t>(seen),
          limit_ns == kForever ? nullptr : &limit, nullptr, 0);
}

inline bool Reached(const Event& event, uint64_t run) {
  return event.run.load(std::memory_order_seq_cst) == run;
}

// Polls until `done()`, for `spin_ns` at most; returns whether it was. After `kYieldAfterNs`, longer
// than a hand-over takes, other threads may have the core, such as the one that starts the next run.
template <typename Condition>
bool Poll(Condition done, int64_t spin_ns) {
  if (done()) return true;
  if (spin_ns <= 0) return false;
  const int64_t begin = Now();
  int64_t spent = 0;
  do {
    for (int i = 0; i < kChecksPerClockRead; ++i) {
      if (done()) return true;
      Pause();
    }
    if (spent > kYieldAfterNs) sched_yield();
    spent = Now() - begin;
  } while (spent < spin_ns);
  return false;
}

// Waits for `event` of run `run`; false when that run was given up, or at `until`.
inline bool Await(Event& event, uint64_t run, int64_t spin_ns, const Event* aborted = nullptr,
                  int64_t until = kForever) {
  if (Poll([&] { return Reached(event, run); }, spin_ns)) return true;
  event.sleepers.fetch_add(1, std::memory_order_seq_cst);
  bool reached;
  uint64_t seen;
  while (!(reached = (seen = event.run.load(std::memory_order_seq_cst)) == run) &&
         (aborted == nullptr || (!Reached(*aborted, run) && Now() < until))) {
    Sleep(event, seen, aborted == nullptr ? kForever : kSliceNs);
  }
  event.sleepers.fetch_sub(1, std::memory_order_seq_cst);
  return reached;
}

// Waits until `event` is of another run than `seen`, at most for `limit_ns` after polling; returns its
// run.
inline uint64_t AwaitChange(Event& event, uint64_t seen, int64_t spin_ns, int64_t limit_ns) {
  uint64_t run = seen;
  const auto changed = [&] { return (run = event.run.load(std::memory_order_seq_cst)) != seen; };
  if (Poll(changed, spin_ns)) return run;
  event.sleepers.fetch_add(1, std::memory_order_seq_cst);
  const int64_t end = limit_ns == kForever ? kForever : Now() + limit_ns;
  int64_t left = limit_ns;
  while (!changed() && left > 0) {
    Sleep(event, seen, left);
    if (limit_ns != kForever) left = end - Now();
  }
  event.sleepers.fetch_sub(1, std::memory_order_seq_cst);
  return run;
}

}  // namespace hios

#endif  // HIOS_TVM_RUNTIME_EVENTS_H_
