// Runs random programs on the executor again and again, with kernels that fail, runs that are given
// up, callers that lead or do not, parallel loops on teams, and several runs at once: for builds with
// sanitizers.
//
//     stress SECONDS SEED
//
// Each operator adds two earlier values and one; results are compared with the same sums made here.

#include <tvm/ffi/c_api.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "program.h"

namespace hios {

struct Session;

extern "C" {
uint64_t hios_session_bytes(uint32_t num_events, uint32_t num_slots);
void hios_open(Session* session, uint32_t num_workers, uint32_t num_events, uint32_t num_slots);
int32_t hios_work(Session* session, Worker* worker);
int32_t hios_lead(Session* session, Worker* worker, int64_t slice_ns);
uint64_t hios_start(Session* session, int32_t leads);
int32_t hios_run(Session* session, Worker* worker, int64_t slice_ns, int64_t spin_ns);
uint64_t hios_latest(Session* session);
int32_t hios_join(Session* session, uint64_t run, int64_t limit_ns);
void hios_abort(Session* session, uint64_t run);
void hios_stop(Session* session);
uint64_t hios_team_bytes();
void hios_team_open(Team* team, uint32_t size, int64_t spin_ns);
int hios_parallel_launch(ParallelBody body, void* closure, int num_tasks);
}

namespace {

constexpr int kLength = 64;
constexpr int64_t kSliceOfLeaderNs = 300'000;

using Random = std::mt19937_64;

int Below(Random& random, int end) { return static_cast<int>(random() % static_cast<uint64_t>(end)); }

// Zeroed memory on a cache line, as Python allocates it.
template <typename T>
class Aligned {
 public:
  explicit Aligned(uint64_t nbytes) : memory_(new char[nbytes + 64]()) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    object_ = reinterpret_cast<T*>((address + 63) / 64 * 64);
  }
  T* get() const { return object_; }

 private:
  std::unique_ptr<char[]> memory_;
  T* object_;
};

struct Value {
  std::vector<int64_t> numbers = std::vector<int64_t>(kLength);
  DLTensor tensor{};
};

enum Kind { kOnTeam, kCopied, kAlone };

struct Operator {
  Kind kind;
  int worker;
  int left, right;  // values
};

// The values of a run, the input first, and the arguments of its kernels.
struct Memory {
  explicit Memory(const std::vector<Operator>& operators)
      : values(1 + operators.size()), args(3 * operators.size()) {
    for (Value& value : values) value.tensor.data = value.numbers.data();
    for (size_t i = 0; i < operators.size(); ++i) {
      args[3 * i].v_ptr = &values[operators[i].left].tensor;
      args[3 * i + 1].v_ptr = &values[operators[i].right].tensor;
      args[3 * i + 2].v_ptr = &values[i + 1].tensor;
    }
  }

  std::vector<Value> values;
  std::vector<TVMFFIAny> args;
};

std::atomic<const void*> failing{nullptr};  // the result whose kernel is to fail

struct Sum {
  const DLTensor *left, *right, *result;
};

int SumPart(int task, ParallelEnv* env, void* closure) {
  const Sum& sum = *static_cast<Sum*>(closure);
  const auto data = [](const DLTensor* tensor) { return static_cast<int64_t*>(tensor->data); };
  const int begin = kLength * task / env->num_tasks, end = kLength * (task + 1) / env->num_tasks;
  for (int i = begin; i < end; ++i) {
    data(sum.result)[i] = data(sum.left)[i] + data(sum.right)[i] + 1;
  }
  return failing.load() == sum.result ? -1 : 0;
}

int Kernel(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  const auto tensor = [&](int i) { return static_cast<const DLTensor*>(args[i].v_ptr); };
  Sum sum{tensor(0), tensor(1), tensor(2)};
  return hios_parallel_launch(SumPart, &sum, 0);
}

// A random network, its programs and the threads that run them.
class Network {
 public:
  explicit Network(Random& random)
      : num_workers_(1 + Below(random, 4)),
        num_slots_(Below(random, 2) == 0 ? 1u : 2u + static_cast<uint32_t>(Below(random, 3))),
        spin_ns_(std::vector<int64_t>{0, 2'000, 500'000}[Below(random, 3)]),
        team_size_(1 + Below(random, num_workers_)),
        team_(hios_team_bytes()),
        programs_(num_workers_),
        workers_(num_workers_),
        inputs_(num_slots_),
        is_spoilt_(num_slots_) {
    hios_team_open(team_.get(), team_size_, spin_ns_);
    const int count = 1 + Below(random, 20);
    for (int i = 0; i < count; ++i) {
      const Kind kind = std::vector<Kind>{kOnTeam, kCopied, kAlone, kAlone}[Below(random, 4)];
      const int worker = kind == kOnTeam ? 0 : Below(random, num_workers_);
      operators_.push_back({kind, worker, Below(random, i + 1), Below(random, i + 1)});
    }
    for (uint32_t i = 0; i < num_slots_; ++i) slots_.push_back(std::make_unique<Memory>(operators_));
    for (const auto& slot : slots_) Write(*slot);
    session_ = std::make_unique<Aligned<Session>>(hios_session_bytes(num_events_, num_slots_));
    hios_open(session(), num_workers_, num_events_, num_slots_);
    for (int i = 0; i < num_workers_; ++i) Start(i);
  }

  ~Network() {
    hios_stop(session());
    for (std::thread& thread : threads_) thread.join();
  }

  // Runs once, perhaps with a kernel that fails or given up, when the last run of its slot has ended;
  // returns whether the results of that one are right.
  bool Run(Random& random, int64_t input) {
    const uint64_t run = hios_latest(session()) + 1;
    const auto number = static_cast<size_t>(run % num_slots_);
    if (!IsRight(run, number)) return false;
    Memory& slot = *slots_[number];
    for (int64_t& value : slot.values[0].numbers) value = input;
    const bool fails = Below(random, 6) == 0, aborts = Below(random, 6) == 0;
    const void* victim = &slot.values[1 + Below(random, static_cast<int>(operators_.size()))].tensor;
    if (fails) {
      failing.store(victim);
    } else {
      for (const Value& value : slot.values) {  // those of other slots may go on to fail
        const void* tensor = &value.tensor;
        failing.compare_exchange_strong(tensor, nullptr);
      }
    }
    inputs_[number] = input;
    is_spoilt_[number] = fails || aborts;
    if (num_slots_ == 1 && !aborts && Below(random, 2) == 0) {
      Lead();
      return true;
    }
    hios_start(session(), 0);
    if (aborts) {
      if (Below(random, 2) == 0) std::this_thread::yield();
      hios_abort(session(), run);
    }
    return true;
  }

  // Returns whether the results of all last runs are right.
  bool End() {
    const uint64_t next = hios_latest(session()) + 1;
    for (uint64_t run = next; run < next + num_slots_; ++run) {
      if (!IsRight(run, static_cast<size_t>(run % num_slots_))) return false;
    }
    return true;
  }

 private:
  Session* session() { return session_->get(); }

  // Appends the instructions for one slot to the programs.
  void Write(Memory& slot) {
    num_events_ = 0;
    for (size_t i = 0; i < operators_.size(); ++i) {
      const Operator& op = operators_[i];
      for (int value : {op.left, op.right}) {
        if (value > 0) AwaitValue(operators_[value - 1].worker, op.worker);
      }
      std::vector<Instruction>& program = programs_[op.worker];
      TVMFFIAny* args = &slot.args[3 * i];
      if (op.kind == kCopied) {
        program.push_back({Opcode::kCopy, 0, args[2].v_ptr, args[0].v_ptr, 8 * kLength, nullptr});
      } else if (op.kind == kOnTeam) {
        const uint32_t end = num_events_++;
        program.push_back(CallOf(args, team_.get()));
        program.push_back({Opcode::kDismiss, end, nullptr, nullptr, 0, team_.get()});
        for (int other = 1; other < team_size_; ++other) {
          const auto member = static_cast<uint64_t>(other);
          programs_[other].push_back({Opcode::kAssist, end, nullptr, nullptr, member, team_.get()});
        }
      } else {
        program.push_back(CallOf(args, nullptr));
      }
    }
  }

  static Instruction CallOf(TVMFFIAny* args, Team* team) {
    return {Opcode::kCall, 3, reinterpret_cast<void*>(Kernel), args, 0, team};
  }

  void AwaitValue(int from, int to) {
    if (from == to) return;
    const uint32_t event = num_events_++;
    programs_[from].push_back({Opcode::kSignal, event, nullptr, nullptr, 0, nullptr});
    programs_[to].push_back({Opcode::kWait, event, nullptr, nullptr, 0, nullptr});
  }

  void Start(int number) {
    const auto length = static_cast<uint32_t>(programs_[number].size()) / num_slots_;
    times_.push_back(std::make_unique<int64_t[]>((length + 1) * num_slots_));
    Worker& worker = workers_[number];
    const bool leads = number == 0 && num_slots_ == 1;
    worker = {programs_[number].data(), times_.back().get(), nullptr, nullptr, spin_ns_, 0, 0, length,
              kLeft, 0, 0, leads ? FirstCore() : kNoCore};
    threads_.emplace_back([this, &worker] {
      while (hios_work(session(), &worker) != 0) {
      }
    });
  }

  static int32_t FirstCore() {
    cpu_set_t cores;
    sched_getaffinity(0, sizeof(cores), &cores);
    int32_t core = 0;
    while (!CPU_ISSET(core, &cores)) ++core;
    return core;
  }

  void Lead() {
    int32_t code = hios_run(session(), &workers_[0], kSliceOfLeaderNs, 20'000);
    while (code == 1 || code == 2) code = hios_lead(session(), &workers_[0], kSliceOfLeaderNs);
  }

  // Waits for the last run before `run` in its slot, if there was one; returns whether it is right.
  bool IsRight(uint64_t run, size_t number) {
    if (run <= num_slots_) return true;
    while (hios_join(session(), run - num_slots_, 1'000'000) == 0) {
    }
    if (is_spoilt_[number]) return true;
    std::vector<int64_t> expected{inputs_[number]};
    for (size_t i = 0; i < operators_.size(); ++i) {
      const Operator& op = operators_[i];
      const int64_t left = expected[op.left], right = expected[op.right];
      expected.push_back(op.kind == kCopied ? left : left + right + 1);
      for (int64_t value : slots_[number]->values[i + 1].numbers) {
        if (value != expected.back()) return false;
      }
    }
    return true;
  }

  const int num_workers_;
  const uint32_t num_slots_;
  const int64_t spin_ns_;
  const int team_size_;
  uint32_t num_events_ = 0;
  Aligned<Team> team_;
  std::unique_ptr<Aligned<Session>> session_;
  std::vector<Operator> operators_;
  std::vector<std::unique_ptr<Memory>> slots_;
  std::vector<std::vector<Instruction>> programs_;
  std::vector<Worker> workers_;
  std::vector<std::unique_ptr<int64_t[]>> times_;
  std::vector<int64_t> inputs_;
  std::vector<bool> is_spoilt_;
  std::vector<std::thread> threads_;
};

int Main(double seconds, uint64_t seed) {
  Random random(seed);
  const int64_t end = Now() + static_cast<int64_t>(seconds * 1e9);
  int networks = 0, runs = 0;
  while (networks < 2 || Now() < end) {
    Network network(random);
    ++networks;
    for (int i = 0; i < 40; ++i, ++runs) {
      if (!network.Run(random, i)) {
        std::fprintf(stderr, "wrong: network %d, before run %d\n", networks, i);
        return 1;
      }
    }
    if (!network.End()) {
      std::fprintf(stderr, "wrong: network %d, at the end\n", networks);
      return 1;
    }
  }
  std::printf("%d networks, %d runs\n", networks, runs);
  return 0;
}

}  // namespace
}  // namespace hios

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  return hios::Main(std::atof(argv[1]), std::strtoull(argv[2], nullptr, 10));
}
