// Runs random programs on the executor again and again, with kernels that fail, runs that are given
// up, callers that lead or do not, and parallel loops on teams: for builds with sanitizers.
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
uint64_t hios_session_bytes(uint32_t num_events);
void hios_open(Session* session, uint32_t num_workers, uint32_t num_events);
int32_t hios_work(Session* session, Worker* worker);
int32_t hios_lead(Session* session, Worker* worker, int64_t slice_ns);
void hios_start(Session* session, int32_t leads);
int32_t hios_run(Session* session, Worker* worker, int64_t slice_ns, int64_t spin_ns);
int32_t hios_join(Session* session, int64_t limit_ns);
void hios_abort(Session* session);
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

struct Operator {
  int left, right;  // values
  bool is_copy;
  TVMFFIAny args[3];
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
        spin_ns_(std::vector<int64_t>{0, 2'000, 500'000}[Below(random, 3)]),
        team_(hios_team_bytes()),
        programs_(num_workers_),
        workers_(num_workers_) {
    const int team_size = 1 + Below(random, num_workers_);
    hios_team_open(team_.get(), team_size, spin_ns_);
    const int count = 1 + Below(random, 20);
    operators_.reserve(count);
    values_.resize(1 + count);
    for (Value& value : values_) value.tensor.data = value.numbers.data();
    std::vector<int> home(1 + count, -1);
    for (int i = 0; i < count; ++i) Add(random, i, team_size, &home);
    session_ = std::make_unique<Aligned<Session>>(hios_session_bytes(num_events_));
    hios_open(session(), num_workers_, num_events_);
    for (int i = 0; i < num_workers_; ++i) Start(i);
  }

  ~Network() {
    hios_stop(session());
    for (std::thread& thread : threads_) thread.join();
  }

  // Runs once, perhaps with a kernel that fails or given up; returns whether results are right.
  bool Run(Random& random, int64_t input) {
    for (int64_t& number : values_[0].numbers) number = input;
    const bool fails = Below(random, 6) == 0, aborts = Below(random, 6) == 0;
    Value& victim = values_[1 + Below(random, static_cast<int>(operators_.size()))];
    failing.store(fails ? &victim.tensor : nullptr);
    if (!aborts && Below(random, 2) == 0) {
      Lead();
    } else {
      hios_start(session(), 0);
      if (aborts) {
        if (Below(random, 2) == 0) std::this_thread::yield();
        hios_abort(session());
      }
    }
    while (hios_join(session(), 1'000'000) == 0) {
    }
    return fails || aborts || IsRight(input);
  }

 private:
  Session* session() { return session_->get(); }

  // Appends operator `i` to the programs: a copy, a call on one worker, or one on the team.
  void Add(Random& random, int i, int team_size, std::vector<int>* home) {
    const int kind = Below(random, 4);
    const int worker = kind == 0 ? 0 : Below(random, num_workers_);
    Operator op{Below(random, i + 1), Below(random, i + 1), kind == 1, {}};
    Value &left = values_[op.left], &right = values_[op.right], &result = values_[i + 1];
    for (int value : {op.left, op.right}) AwaitValue((*home)[value], worker);
    op.args[0].v_ptr = &left.tensor;
    op.args[1].v_ptr = &right.tensor;
    op.args[2].v_ptr = &result.tensor;
    operators_.push_back(op);
    std::vector<Instruction>& program = programs_[worker];
    if (kind == 1) {
      program.push_back({Opcode::kCopy, 0, &result.tensor, &left.tensor, 8 * kLength, nullptr});
    } else if (kind == 0) {
      const uint32_t end = num_events_++;
      program.push_back(CallOf(i, team_.get()));
      program.push_back({Opcode::kDismiss, end, nullptr, nullptr, 0, team_.get()});
      for (int other = 1; other < team_size; ++other) {
        programs_[other].push_back({Opcode::kAssist, end, nullptr, nullptr, 0, team_.get()});
      }
    } else {
      program.push_back(CallOf(i, nullptr));
    }
    (*home)[i + 1] = worker;
  }

  Instruction CallOf(int i, Team* team) {
    return {Opcode::kCall, 3, reinterpret_cast<void*>(Kernel), operators_[i].args, 0, team};
  }

  void AwaitValue(int from, int to) {
    if (from < 0 || from == to) return;
    const uint32_t event = num_events_++;
    programs_[from].push_back({Opcode::kSignal, event, nullptr, nullptr, 0, nullptr});
    programs_[to].push_back({Opcode::kWait, event, nullptr, nullptr, 0, nullptr});
  }

  void Start(int number) {
    const auto length = static_cast<uint32_t>(programs_[number].size());
    times_.push_back(std::make_unique<int64_t[]>(length + 1));
    Worker& worker = workers_[number];
    worker = {programs_[number].data(), times_.back().get(), nullptr, nullptr, spin_ns_, 0, 0, length,
              kLeft, 0, 0, number == 0 ? FirstCore() : kNoCore};
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

  bool IsRight(int64_t input) const {
    std::vector<int64_t> expected{input};
    for (size_t i = 0; i < operators_.size(); ++i) {
      const Operator& op = operators_[i];
      expected.push_back(op.is_copy ? expected[op.left] : expected[op.left] + expected[op.right] + 1);
      for (int64_t number : values_[i + 1].numbers) {
        if (number != expected.back()) return false;
      }
    }
    return true;
  }

  const int num_workers_;
  const int64_t spin_ns_;
  uint32_t num_events_ = 0;
  Aligned<Team> team_;
  std::unique_ptr<Aligned<Session>> session_;
  std::vector<Value> values_;
  std::vector<Operator> operators_;
  std::vector<std::vector<Instruction>> programs_;
  std::vector<Worker> workers_;
  std::vector<std::unique_ptr<int64_t[]>> times_;
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
        std::fprintf(stderr, "wrong: network %d, run %d\n", networks, i);
        return 1;
      }
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
