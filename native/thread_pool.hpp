// Threads that share a step's stages. Each begins with a share of a stage's units that lie side by side, as its weights
// do in memory, and then helps others with theirs. Units are claimed one by one, so a thread that loses its core to
// another process delays only the unit it holds. Threads spin briefly between stages, then sleep.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "fetch_plan.hpp"

namespace wingbeat {

class ThreadPool {
 public:
  // Runs a unit: (stage, unit, thread).
  using Work = std::function<void(int, int, int)>;

  // `leave` is called by each thread that has run units and has none for now.
  explicit ThreadPool(int threads, void (*leave)() = [] {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // The first unit of a thread's share of `units`.
  static int share_begin(int units, int thread, int threads) { return (int)((long)units * thread / threads); }

  // Runs all units of stage 0, then of stage 1, ...; returns when the last is done. The caller takes part.
  // One call at a time: others wait.
  // While a thread waits for the last units of others it fetches what `plan` says.
  void run(const std::vector<int>& units, const Work& work, std::shared_ptr<const FetchPlan> plan = nullptr);

  // A run follows in a moment: wakes the threads that sleep, and keeps the others from falling asleep.
  void wake();

 private:
  struct Share {  // on a cache line of its own: a claim must not disturb others
    alignas(64) std::atomic<int> next{0};
    int end = 0;
  };
  struct Stage {
    std::unique_ptr<Share[]> shares;  // one for each thread
    int units = 0;
    alignas(64) std::atomic<int> done{0};
  };
  // One run. A thread that was preempted inside a finished run may still look at its counters, so a run's record is
  // used again only when nobody is inside; there is one more record than there are threads.
  struct Run {
    std::vector<Stage> stages;
    const Work* work = nullptr;
    std::shared_ptr<const FetchPlan> plan;
    std::atomic<int> inside{0};
    std::atomic<bool> open{false};
  };

  void worker(int thread);
  void take_part(Run& run, int thread) noexcept;  // a unit that throws ends the process
  int run_units(Run& run, int stage, int thread) noexcept;  // returns how many
  void shut_down();
  Run& free_run(std::size_t stages);

  std::mutex running_;
  int threads_;
  void (*leave_)();
  std::vector<std::unique_ptr<Run>> runs_;
  std::atomic<Run*> current_{nullptr};
  std::atomic<std::uint32_t> epoch_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace wingbeat
