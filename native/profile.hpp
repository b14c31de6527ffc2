// What a profiled run takes down: the time inside the units of each op, and how long each stage lasted.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace wingbeat {

struct OpTimes {
  double seconds;  // inside its units, over all threads
  std::int64_t units;
};

struct StageTimes {
  double seconds;  // from the last unit of the stage before it (or the start) to its own last unit
  std::vector<OpTimes> ops;
};

class Profile {
 public:
  // `ops`: how many each stage has.
  Profile(int threads, const std::vector<std::size_t>& ops) : threads_((std::size_t)threads) {
    std::size_t all = 0;
    for (std::size_t n : ops) {
      stages_.push_back({all, n, {}});
      all += n;
    }
    for (Thread& t : threads_) {
      t.ops.resize(all);
      t.ends.resize(ops.size());
    }
  }

  void start() { start_ = Clock::now(); }

  // Runs a unit and counts its time for the op. A thread writes to its own memory only.
  template <class Unit>
  void time(int stage, std::size_t op, int thread, const Unit& unit) {
    auto start = Clock::now();
    unit();
    auto end = Clock::now();
    Thread& t = threads_[(std::size_t)thread];
    Counted& counted = t.ops[stages_[(std::size_t)stage].first_op + op];
    counted.time += end - start;
    ++counted.units;
    t.ends[(std::size_t)stage] = end;
  }

  // To be called when all stages are done.
  void finish() {
    for (std::size_t s = 0; s < stages_.size(); ++s) {
      auto end = start_;
      for (const Thread& t : threads_) end = std::max(end, t.ends[s]);
      stages_[s].time = end - start_;
      start_ = end;
    }
  }

  std::vector<StageTimes> stages() const {
    std::vector<StageTimes> result;
    for (const Stage& stage : stages_) {
      result.push_back({seconds(stage.time), {}});
      for (std::size_t op = stage.first_op; op < stage.first_op + stage.ops; ++op) {
        Counted total;
        for (const Thread& t : threads_) {
          total.time += t.ops[op].time;
          total.units += t.ops[op].units;
        }
        result.back().ops.push_back({seconds(total.time), total.units});
      }
    }
    return result;
  }

 private:
  using Clock = std::chrono::steady_clock;

  struct Stage {
    std::size_t first_op, ops;
    Clock::duration time;
  };
  struct Counted {
    Clock::duration time{};
    std::int64_t units = 0;
  };
  struct Thread {
    std::vector<Counted> ops;
    std::vector<Clock::time_point> ends;  // of its last unit in each stage
  };

  static double seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

  std::vector<Stage> stages_;
  std::vector<Thread> threads_;
  Clock::time_point start_{};
};

}  // namespace wingbeat
