#include "thread_pool.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace wingbeat {
namespace {

// 25 to 100 us, by how long the processor pauses: longer than most waits for another thread's last unit, far shorter
// than a time slice.
constexpr int kSpins = 2000;

inline void relax() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

// While it lives, this thread computes as all others do: rounding to nearest, denormals flushed to zero. The caller may
// have other ideas (a library built with -ffast-math sets them for its whole thread).
class FloatMode {
 public:
#if defined(__x86_64__) || defined(_M_X64)
  FloatMode() : saved_(_mm_getcsr()) { _mm_setcsr(0x9fc0); }
  ~FloatMode() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FloatMode() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" ::"r"(std::uint64_t{1} << 24));
  }
  ~FloatMode() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

 private:
  std::uint64_t saved_;
#endif
};

}  // namespace

ThreadPool::ThreadPool(int threads, void (*leave)()) : threads_(threads < 1 ? 1 : threads), leave_(leave) {
  for (int i = 0; i <= threads_; ++i) runs_.push_back(std::make_unique<Run>());
  try {
    for (int i = 1; i < threads_; ++i) workers_.emplace_back([this, i] { worker(i); });
  } catch (...) {
    shut_down();
    throw;
  }
}

ThreadPool::~ThreadPool() { shut_down(); }

void ThreadPool::shut_down() {
  stop_.store(true);
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (auto& w : workers_) w.join();
}

ThreadPool::Run& ThreadPool::free_run(std::size_t stages) {
  for (;;) {
    for (auto& run : runs_) {
      if (run->inside.load() != 0) continue;
      if (run->stages.size() < stages) {
        run->stages = std::vector<Stage>(stages);
        for (Stage& stage : run->stages) stage.shares = std::make_unique<Share[]>((std::size_t)threads_);
      }
      return *run;
    }
    relax();
  }
}

void ThreadPool::run(const std::vector<int>& units, const Work& work, std::shared_ptr<const FetchPlan> plan) {
  std::scoped_lock lock(running_);
  FloatMode mode;
  if (threads_ == 1) {
    for (std::size_t s = 0; s < units.size(); ++s)
      for (int u = 0; u < units[s]; ++u) work((int)s, u, 0);
    leave_();
    return;
  }
  Run& run = free_run(units.size());
  for (std::size_t s = 0; s < run.stages.size(); ++s) {
    Stage& stage = run.stages[s];
    stage.done.store(0, std::memory_order_relaxed);
    stage.units = s < units.size() ? units[s] : 0;
    for (int t = 0; t < threads_; ++t) {
      stage.shares[t].next.store(share_begin(stage.units, t, threads_), std::memory_order_relaxed);
      stage.shares[t].end = share_begin(stage.units, t + 1, threads_);
    }
  }
  run.work = &work;
  run.plan = std::move(plan);
  run.open.store(true);
  current_.store(&run);
  wake();
  take_part(run, 0);
  run.open.store(false);
}

void ThreadPool::wake() {
  epoch_.fetch_add(1);
  if (sleepers_.load() > 0) epoch_.notify_all();
}

int ThreadPool::run_units(Run& run, int stage, int thread) noexcept {
  int count = 0;
  for (int i = 0; i < threads_; ++i) {
    Share& share = run.stages[(std::size_t)stage].shares[(thread + i) % threads_];
    for (int u; (u = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end; ++count) (*run.work)(stage, u, thread);
  }
  return count;
}

void ThreadPool::take_part(Run& run, int thread) noexcept {
  Fetcher fetcher(run.plan.get(), thread);
  for (std::size_t s = 0; s < run.stages.size(); ++s) {
    Stage& stage = run.stages[s];
    int units = stage.units, mine = run_units(run, (int)s, thread);
    int done = stage.done.fetch_add(mine, std::memory_order_acq_rel) + mine;
    if (mine && done == units) stage.done.notify_all();
    for (int spins = 0; done < units; ++spins) {
      if (spins < kSpins) {
        if (!fetcher.next((int)s)) relax();
      } else stage.done.wait(done, std::memory_order_acquire);
      done = stage.done.load(std::memory_order_acquire);
    }
  }
  leave_();
}

void ThreadPool::worker(int thread) {
  FloatMode mode;
  std::uint32_t seen = 0;
  for (;;) {
    for (int spins = 0; epoch_.load(std::memory_order_acquire) == seen; ++spins) {
      if (spins < kSpins) {
        relax();
        continue;
      }
      sleepers_.fetch_add(1);
      epoch_.wait(seen);
      sleepers_.fetch_sub(1);
    }
    seen = epoch_.load();
    if (stop_.load()) return;
    Run* run = current_.load();
    if (!run) continue;
    // Enter first, then look: the record cannot be reset while `inside` is not zero.
    run->inside.fetch_add(1);
    if (run->open.load() && current_.load() == run) take_part(*run, thread);
    run->inside.fetch_sub(1);
  }
}

}  // namespace wingbeat
