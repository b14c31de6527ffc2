// What each thread will read first in each stage of a run: while it waits for the last units of other threads, and the
// memory would have nothing to do, it asks for that.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace wingbeat {

struct Blob {
  const std::uint8_t* data;
  std::size_t bytes;
};

// A thread fetches no more than this ahead: a part of its second-level cache, and more than it has time for in a wait.
constexpr std::size_t kFetchedAhead = 128 * 1024;

// Filled before a run and not changed from then on.
class FetchPlan {
 public:
  FetchPlan(std::size_t stages, int threads) : threads_((std::size_t)threads), next_(stages, -1), starts_(stages * threads_) {}

  // What `thread` reads in `stage`, in order. Returns whether there is room for more.
  bool add(std::size_t stage, int thread, Blob blob) {
    Start& start = starts_[stage * threads_ + (std::size_t)thread];
    blob.bytes = std::min(blob.bytes, kFetchedAhead - start.bytes);
    start.bytes += blob.bytes;
    if (blob.bytes) start.blobs.push_back(blob);
    return start.bytes < kFetchedAhead;
  }

  // To be called when all is added.
  void finish() {
    int next = -1;
    for (std::size_t s = next_.size(); s-- > 0;) {
      next_[s] = next;
      for (std::size_t t = 0; t < threads_; ++t)
        if (!starts_[s * threads_ + t].blobs.empty()) next = (int)s;
    }
  }

  // The first stage after this one that reads anything; -1: none.
  int next(int stage) const { return next_[(std::size_t)stage]; }
  const std::vector<Blob>& blobs(int stage, int thread) const { return starts_[(std::size_t)stage * threads_ + (std::size_t)thread].blobs; }

 private:
  struct Start {
    std::size_t bytes = 0;
    std::vector<Blob> blobs;
  };

  std::size_t threads_;
  std::vector<int> next_;
  std::vector<Start> starts_;
};

// How far a thread has come in a plan.
class Fetcher {
 public:
  // Without a plan there is never anything to fetch.
  Fetcher(const FetchPlan* plan, int thread) : plan_(plan), thread_(thread) {}

  // Asks for some lines of what the thread reads after `stage`, in the second-level cache; returns whether any were left.
  bool next(int stage) {
    if (!plan_) return false;
    if (target_ <= stage) begin(plan_->next(stage)), left_ = kFetchedAhead;
    for (; target_ != kNone; begin(plan_->next(target_))) {
      const std::vector<Blob>& blobs = plan_->blobs(target_, thread_);
      if (blob_ < blobs.size()) return left_ && fetch(blobs[blob_]);
    }
    return false;
  }

 private:
  static constexpr int kNone = 1 << 30;
  static constexpr std::size_t kBytes = 512;  // soon done: after each call the thread looks whether its wait is over

  void begin(int stage) {
    target_ = stage < 0 ? kNone : stage;
    blob_ = at_ = 0;
  }

  bool fetch(const Blob& blob) {
    std::size_t end = std::min(at_ + std::min(kBytes, left_), blob.bytes);
    left_ -= end - at_;
    for (; at_ < end; at_ += 64) __builtin_prefetch(blob.data + at_, 0, 2);
    if (end < blob.bytes) return true;
    ++blob_;
    at_ = 0;
    return true;
  }

  const FetchPlan* plan_;
  int thread_, target_ = -1;
  std::size_t blob_ = 0, at_ = 0, left_ = 0;
};

}  // namespace wingbeat
