// A program bound to weights: buffers, packed weights and ops in stages, run in one call a step.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "fetch_plan.hpp"
#include "kernels.hpp"
#include "memory.hpp"
#include "packing.hpp"
#include "profile.hpp"
#include "thread_pool.hpp"
#include "weight_memory.hpp"

namespace wingbeat {

enum class Rows : std::uint8_t { kTokens, kLogits, kSequences, kHidden };

struct BufferSpec {
  int width;
  Rows rows;
  bool f32, bf16, int8, int4, mask;  // the forms its readers want
};

using OpBody =
    std::variant<EmbedOp, NormShiftMixOp, CommitShiftOp, LinearOp, Wkv4Op, Wkv6Op, Wkv7Op, DeepEmbedOp, GatherNormOp, TapOp>;

class Program {
 public:
  Program(const KernelTable& kernels, int threads, int vocab_size, std::size_t slot_floats);

  int add_buffer(BufferSpec spec);
  int add_weight(WeightKind kind, Format format, const Matrix& m, const RowNorm& norm);  // packs on the program's threads
  // A weight that was packed before: blobs that outlive the program. Throws std::invalid_argument unless they fit.
  int add_packed(const WeightShape& shape, Blob data, Blob scales);
  std::uint64_t checksum(Blob data);  // see checksum.hpp; on the program's threads
  void add_stage(std::vector<OpBody> ops);
  void set_logits(int buffer);
  void set_hidden(int buffer);

  const Buffer* buffer(int id) const { return id < 0 ? nullptr : &buffers_.at((std::size_t)id); }
  const BufferSpec& spec(int id) const { return specs_.at((std::size_t)id); }
  const Weight& weight(int id) const { return weights_.at((std::size_t)id); }
  const KernelTable& kernels() const { return kernels_; }
  ThreadPool& pool() { return pool_; }
  int vocab_size() const { return vocab_size_; }

  struct Result {
    Buffer rows;                     // until the next run
    std::shared_ptr<Memory> memory;  // keeps them readable, if stale, after a run that needed larger buffers
  };

  // Checks the step (throws std::invalid_argument before anything is written) and runs it. One run at a time: others
  // wait. A profiled run gives the same results.
  // Returns the logits [wanted, vocabulary].
  Result run(Step step, std::size_t pool_slots, std::size_t slot_floats, bool profiled = false);

  // The hidden vectors [hidden, width] of the last run, and their number. Throws std::logic_error without set_hidden.
  std::pair<Result, int> hidden();

  // The times of the last profiled run. Throws std::logic_error when there was none.
  std::vector<StageTimes> profile();

  // Bytes of all weights but the tables, which a step reads a row of: what a decode step must read.
  std::size_t weight_bytes() const;
  // Of one packed matrix; 0 for tables and vectors.
  std::size_t matrix_bytes(int weight) const;

 private:
  void check(const Step& step, std::size_t pool_slots);
  void reserve(const Step& step);
  int units(const OpBody& op, const Step& step) const;
  void plan_fetches();
  void plan_share(FetchPlan& plan, std::size_t stage, int thread) const;
  void run_stages(bool profiled);
  std::size_t find_op(int stage, int& unit) const;
  void run_unit(const OpBody& op, int unit, int thread);

  const KernelTable& kernels_;
  ThreadPool pool_;
  int vocab_size_;
  std::size_t slot_floats_;
  std::vector<BufferSpec> specs_;
  std::deque<Buffer> buffers_;  // ops keep pointers into it
  std::vector<std::shared_ptr<Memory>> storage_;  // of the buffers; shared with views of the logits in Python
  WeightMemory memory_;
  std::deque<Weight> weights_;  // ops keep pointers into it
  std::vector<std::vector<OpBody>> stages_;
  int logits_ = -1, hidden_ = -1;
  int capacity_[4] = {0, 0, 0, 0};
  std::vector<Memory> scratch_;
  std::size_t scratch_floats_ = 0;
  std::vector<SparseLines> lines_;  // of each thread
  std::vector<Memory> lines_memory_;
  int longest_by_k_ = 0;  // K of the weights that are kept by it
  std::mutex running_;
  // of the step that runs
  Step step_{};
  std::vector<std::int32_t> row_sequence_;
  std::vector<int> stage_units_;
  std::vector<std::vector<int>> op_units_;
  std::vector<std::uint8_t> slot_seen_;
  std::shared_ptr<const FetchPlan> plan_;
  int planned_ = 0;  // the kind of step that the plan is for
  std::optional<Profile> profile_;  // of the last run that was profiled
};

}  // namespace wingbeat
