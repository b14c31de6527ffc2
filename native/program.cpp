#include "program.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "checksum.hpp"

namespace wingbeat {
namespace {

template <class... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

// Units of `commit_shift` are whole copies; a few sequences share one.
constexpr int kCommitSequences = 16;

std::size_t scratch_floats(const OpBody& op) {
  return std::visit(Overloaded{
                        [](const EmbedOp& o) { return (std::size_t)o.out->padded; },
                        [](const NormShiftMixOp& o) { return 2 * (std::size_t)o.x->padded; },
                        [](const GatherNormOp& o) { return (std::size_t)o.x->padded; },
                        [](const TapOp& o) { return (std::size_t)o.x->padded; },
                        [](const Wkv7Op& o) { return (std::size_t)wkv7_scratch(o.heads, o.size); },
                        [](const Wkv6Op& o) {
                          int columns = round_up(heads_per_unit(o.heads, o.size) * o.size, kBlock);
                          return (std::size_t)(columns + 10 * round_up(o.size, kLanes));
                        },
                        [](const DeepEmbedOp& o) { return (std::size_t)(o.extra->padded + kLanes + o.out->padded); },
                        [](const LinearOp&) { return kLinearScratch; },
                        [](const auto&) { return std::size_t{0}; },
                    },
                    op);
}

// Of a panel.
std::size_t scale_bytes(const PackedWeight& w) {
  int block = w.format == Format::kInt4 ? kInt4Block : kBlock;
  return w.scales ? (std::size_t)(w.k_padded / block) * kLanes * sizeof(std::uint16_t) : 0;
}

void commit_shift(const CommitShiftOp& op, const Step& step, int unit) {
  int end = std::min(step.sequences, (unit + 1) * kCommitSequences);
  for (int b = unit * kCommitSequences; b < end; ++b)
    std::memcpy(step.pool + (std::size_t)step.slots[b] * step.slot_floats + op.state_offset, op.last->f32 + (std::size_t)b * op.last->f32_stride,
                sizeof(float) * (std::size_t)op.last->width);
}

}  // namespace

Program::Program(const KernelTable& kernels, int threads, int vocab_size, std::size_t slot_floats)
    : kernels_(kernels), pool_(threads, kernels.leave), vocab_size_(vocab_size), slot_floats_(slot_floats) {}

int Program::add_buffer(BufferSpec spec) {
  Buffer b{};
  b.width = spec.width;
  b.padded = round_up(spec.width, kBlock);
  buffers_.push_back(b);
  specs_.push_back(spec);
  storage_.emplace_back();
  return (int)buffers_.size() - 1;
}

int Program::add_weight(WeightKind kind, Format format, const Matrix& m, const RowNorm& norm) {
  std::scoped_lock lock(running_);
  WeightShape shape{kind, format, m.rows, m.columns};
  std::uint8_t* data = memory_.take(shape.data_bytes(), pool_);
  std::uint8_t* scales = shape.scales_bytes() ? memory_.take(shape.scales_bytes(), pool_) : nullptr;
  pack(m, norm, shape, data, scales, pool_);
  weights_.push_back(weight_at(shape, data, scales));
  return (int)weights_.size() - 1;
}

int Program::add_packed(const WeightShape& shape, Blob data, Blob scales) {
  auto aligned = [](Blob b) { return reinterpret_cast<std::uintptr_t>(b.data) % 64 == 0; };
  if (shape.rows < 0 || shape.columns < 0 || data.bytes != shape.data_bytes() || scales.bytes != shape.scales_bytes() ||
      !aligned(data) || (scales.bytes && !aligned(scales)))
    throw std::invalid_argument("the packed bytes are not those of a weight of this shape");
  weights_.push_back(weight_at(shape, data.data, scales.bytes ? scales.data : nullptr));
  return (int)weights_.size() - 1;
}

std::uint64_t Program::checksum(Blob data) {
  std::scoped_lock lock(running_);
  return wingbeat::checksum(data.data, data.bytes, pool_);
}

void Program::set_logits(int buffer) {
  if (buffer < 0 || (std::size_t)buffer >= buffers_.size()) throw std::out_of_range("no such buffer");
  logits_ = buffer;
}

void Program::set_hidden(int buffer) {
  if (buffer < 0 || (std::size_t)buffer >= buffers_.size()) throw std::out_of_range("no such buffer");
  hidden_ = buffer;
}

void Program::add_stage(std::vector<OpBody> ops) {
  if (!scratch_.empty()) throw std::logic_error("a program that has run takes no more ops");
  for (const OpBody& op : ops) {
    scratch_floats_ = std::max(scratch_floats_, scratch_floats(op));
    const LinearOp* linear = std::get_if<LinearOp>(&op);
    if (linear && linear->weight->by_k) longest_by_k_ = std::max(longest_by_k_, linear->weight->k_padded);
  }
  op_units_.emplace_back(ops.size());
  stages_.push_back(std::move(ops));
  stage_units_.push_back(0);
}

void Program::check(const Step& step, std::size_t pool_slots) {
  auto fail = [](const std::string& what) { throw std::invalid_argument(what); };
  if (step.sequences < 1 || step.seq_starts[0] != 0 || step.seq_starts[step.sequences] != step.rows)
    fail("seq_starts must rise from 0 to the number of rows, one range for each slot");
  for (int b = 0; b < step.sequences; ++b)
    if (step.seq_starts[b + 1] <= step.seq_starts[b])
      fail("seq_starts must rise from 0 to the number of rows, one range for each slot");
  for (int i = 0; i < step.rows; ++i)
    if (step.tokens[i] < 0 || step.tokens[i] >= vocab_size_)
      fail("token id " + std::to_string(step.tokens[i]) + " is outside the model's vocabulary of " + std::to_string(vocab_size_));
  slot_seen_.assign(pool_slots, 0);
  for (int b = 0; b < step.sequences; ++b) {
    if (step.slots[b] < 0 || (std::size_t)step.slots[b] >= pool_slots)
      fail("a slot is outside the pool of " + std::to_string(pool_slots));
    if (slot_seen_[(std::size_t)step.slots[b]]++) fail("a slot occurs twice in one step");
  }
  for (int i = 0; i < step.wanted; ++i)
    if (step.logit_rows[i] < (i ? step.logit_rows[i - 1] + 1 : 0) || step.logit_rows[i] >= step.rows)
      fail("logit_rows must be rising row indices of this step");
  for (int i = 0; i < step.hidden; ++i)
    if (step.hidden_rows[i] < 0 || step.hidden_rows[i] >= step.rows) fail("hidden_rows must be row indices of this step");
}

// Grows the buffers to the step's rows. Contents do not outlive a step, so growing may drop them.
void Program::reserve(const Step& step) {
  int wanted[4] = {step.rows, step.wanted, step.sequences, step.hidden};
  for (int kind = 0; kind < 4; ++kind) {
    if (wanted[kind] <= capacity_[kind]) continue;
    std::size_t rows = (std::size_t)(wanted[kind] <= 64 ? std::max(wanted[kind], std::min(2 * capacity_[kind], 64))
                                                        : round_up(wanted[kind], 64));
    capacity_[kind] = 0;  // until all buffers are there: an allocation may fail
    for (std::size_t i = 0; i < buffers_.size(); ++i) {
      const BufferSpec& spec = specs_[i];
      if ((int)spec.rows != kind) continue;
      Buffer& b = buffers_[i];
      std::size_t padded = (std::size_t)b.padded, blocks = padded / kBlock;
      // One more cache line a row: rows of a tile must not share a cache set.
      b.f32_stride = padded + 16;
      b.bf16_stride = padded * (std::size_t)kernels_.bf16_act_bytes + 64;
      b.int8_stride = padded * (std::size_t)kernels_.int8_act_bytes + 64;
      std::size_t f32 = spec.f32 ? rows * b.f32_stride * sizeof(float) : 0;
      b.int4_stride = padded + 64;
      std::size_t bf16 = spec.bf16 ? rows * b.bf16_stride : 0, int8 = spec.int8 ? rows * b.int8_stride : 0;
      std::size_t int4 = spec.int4 ? rows * b.int4_stride : 0;
      std::size_t masks = spec.mask ? rows * blocks * 8 : 0;
      std::size_t side = spec.int8 || spec.int4 ? ((rows + kLanes - 1) * blocks * 4 + 63) / 64 * 64 : 0;
      storage_[i] = nullptr;
      storage_[i] = std::make_shared<Memory>(f32 + bf16 + int8 + int4 + 4 * side + masks);
      std::uint8_t* p = storage_[i]->as<std::uint8_t>();
      auto take = [&p](bool wanted, std::size_t bytes) {
        std::uint8_t* part = wanted ? p : nullptr;
        p += bytes;
        return part;
      };
      b.f32 = (float*)take(spec.f32, f32);
      b.bf16 = take(spec.bf16, bf16);
      b.int8 = take(spec.int8, int8);
      b.int4 = take(spec.int4, int4);
      b.scales = (float*)take(side, side);
      b.offsets = (std::int32_t*)take(spec.int8, side);
      b.offsets4 = (std::int32_t*)take(spec.int4, 2 * side);
      b.mask = (std::uint64_t*)take(spec.mask, masks);
    }
    capacity_[kind] = (int)rows;
  }
  while ((int)scratch_.size() < pool_.threads()) {
    std::size_t k = (std::size_t)longest_by_k_, lines = (k + kLinesAhead) * sizeof(std::uint32_t);
    std::size_t starts = (k / 32 + 16) * sizeof(int);
    lines_memory_.emplace_back(lines + k * kLineActBytes + starts);
    std::uint8_t* p = lines_memory_.back().as<std::uint8_t>();
    lines_.push_back({0, nullptr, 0, (int*)(p + lines + k * kLineActBytes), (std::uint32_t*)p, p + lines});
    scratch_.emplace_back(scratch_floats_ * sizeof(float) + 64);
  }
}

int Program::units(const OpBody& op, const Step& step) const {
  return std::visit(Overloaded{
                        [&](const EmbedOp&) { return ceil_div(step.rows, kRowsPerUnit); },
                        [&](const NormShiftMixOp&) { return ceil_div(step.rows, kRowsPerUnit); },
                        [&](const CommitShiftOp&) { return ceil_div(step.sequences, kCommitSequences); },
                        [&](const LinearOp& o) {
                          return ceil_div(o.wanted ? step.wanted : step.rows, kLinearRows) * ceil_div(o.weight->out, kBlock);
                        },
                        [&](const Wkv4Op& o) { return step.sequences * ceil_div(o.out->width, kBlock); },
                        [&](const Wkv6Op& o) { return step.sequences * ceil_div(o.heads, heads_per_unit(o.heads, o.size)); },
                        [&](const Wkv7Op& o) { return step.sequences * ceil_div(o.heads, heads_per_unit(o.heads, o.size)); },
                        [&](const DeepEmbedOp&) { return ceil_div(step.rows, kRowsPerUnit); },
                        [&](const GatherNormOp&) { return ceil_div(step.wanted, kRowsPerUnit); },
                        [&](const TapOp&) { return ceil_div(step.hidden, kRowsPerUnit); },
                    },
                    op);
}

// The op of a stage that a unit belongs to; `unit` becomes its number within the op.
std::size_t Program::find_op(int stage, int& unit) const {
  const std::vector<int>& counts = op_units_[(std::size_t)stage];
  std::size_t i = 0;
  while (unit >= counts[i]) unit -= counts[i++];
  return i;
}

void Program::run_unit(const OpBody& op, int unit, int thread) {
  float* scratch = scratch_[(std::size_t)thread].as<float>();
  std::visit(Overloaded{
                 [&](const EmbedOp& o) { kernels_.embed(o, step_, unit, scratch); },
                 [&](const NormShiftMixOp& o) { kernels_.norm_shift_mix(o, step_, unit, scratch); },
                 [&](const CommitShiftOp& o) { commit_shift(o, step_, unit); },
                 [&](const LinearOp& o) { kernels_.linear(o, step_, unit, scratch, lines_[(std::size_t)thread]); },
                 [&](const Wkv4Op& o) { kernels_.wkv4(o, step_, unit); },
                 [&](const Wkv6Op& o) { kernels_.wkv6(o, step_, unit, scratch); },
                 [&](const Wkv7Op& o) { kernels_.wkv7(o, step_, unit, scratch); },
                 [&](const DeepEmbedOp& o) { kernels_.deep_embed(o, step_, unit, scratch); },
                 [&](const GatherNormOp& o) { kernels_.gather_norm(o, step_, unit, scratch); },
                 [&](const TapOp& o) { kernels_.tap(o, step_, unit, scratch); },
             },
             op);
}

// Of what each thread reads first, for steps whose matrices are read once: longer ones do not wait for the memory.
void Program::plan_fetches() {
  bool once = step_.rows <= kLinearRows && step_.wanted <= kLinearRows;
  int kind = !once ? 0 : (step_.rows == 1 ? 1 : 2) + (step_.wanted ? 2 : 0);
  if (kind == planned_) return;
  planned_ = kind;
  plan_ = nullptr;
  if (!once) return;
  auto plan = std::make_shared<FetchPlan>(stages_.size(), pool_.threads());
  for (std::size_t s = 0; s < stages_.size(); ++s)
    for (int t = 0; t < pool_.threads(); ++t) plan_share(*plan, s, t);
  plan->finish();
  plan_ = std::move(plan);
}

void Program::plan_share(FetchPlan& plan, std::size_t stage, int thread) const {
  int unit = ThreadPool::share_begin(stage_units_[stage], thread, pool_.threads());
  int end = ThreadPool::share_begin(stage_units_[stage], thread + 1, pool_.threads());
  bool room = true;
  for (; room && unit < end; ++unit) {
    int block = unit;
    const LinearOp* op = std::get_if<LinearOp>(&stages_[stage][find_op((int)stage, block)]);
    if (!op) continue;
    const PackedWeight& w = *op->weight;
    std::size_t panel = 4 * (std::size_t)block, scales = scale_bytes(w);
    if (scales) room = plan.add(stage, thread, {(const std::uint8_t*)w.scales + panel * scales, 4 * scales});
    // Which lines of a weight kept by K a single row reads is not known yet.
    if (!w.by_k || step_.rows > 1) room = plan.add(stage, thread, {w.data + panel * w.panel_bytes, 4 * w.panel_bytes});
  }
}

// The choice is made once a run: a unit that nobody profiles does not pay for it.
void Program::run_stages(bool profiled) {
  if (!profiled) {
    auto work = [this](int stage, int unit, int thread) {
      std::size_t op = find_op(stage, unit);
      run_unit(stages_[(std::size_t)stage][op], unit, thread);
    };
    return pool_.run(stage_units_, work, plan_);
  }
  std::vector<std::size_t> ops;
  for (const std::vector<OpBody>& stage : stages_) ops.push_back(stage.size());
  Profile& profile = profile_.emplace(pool_.threads(), ops);
  profile.start();
  auto work = [&](int stage, int unit, int thread) {
    std::size_t op = find_op(stage, unit);
    profile.time(stage, op, thread, [&] { run_unit(stages_[(std::size_t)stage][op], unit, thread); });
  };
  pool_.run(stage_units_, work, plan_);
  profile.finish();
}

std::vector<StageTimes> Program::profile() {
  std::scoped_lock lock(running_);
  if (!profile_) throw std::logic_error("no run of this program was profiled");
  return profile_->stages();
}

std::size_t Program::matrix_bytes(int weight) const {
  const Weight& w = weights_.at((std::size_t)weight);
  return w.shape.is_matrix() ? w.shape.data_bytes() + w.shape.scales_bytes() : 0;
}

std::size_t Program::weight_bytes() const {
  std::size_t total = 0;
  for (std::size_t i = 0; i < weights_.size(); ++i) total += matrix_bytes((int)i);
  return total;
}

std::pair<Program::Result, int> Program::hidden() {
  std::scoped_lock lock(running_);
  if (hidden_ < 0) throw std::logic_error("this program has no hidden rows");
  return {{*buffer(hidden_), storage_[(std::size_t)hidden_]}, step_.hidden};
}

Program::Result Program::run(Step step, std::size_t pool_slots, std::size_t slot_floats, bool profiled) {
  std::scoped_lock lock(running_);
  if (logits_ < 0) throw std::logic_error("set_logits comes before the first run");
  if (slot_floats != slot_floats_) throw std::invalid_argument("the pool's slots have another size than this model's state");
  check(step, pool_slots);
  reserve(step);
  row_sequence_.resize((std::size_t)step.rows);
  for (int b = 0; b < step.sequences; ++b)
    std::fill(row_sequence_.begin() + step.seq_starts[b], row_sequence_.begin() + step.seq_starts[b + 1], b);
  step.row_sequence = row_sequence_.data();
  step.slot_floats = slot_floats_;
  step.number = step_.number + 1;
  step_ = step;
  for (std::size_t s = 0; s < stages_.size(); ++s) {
    stage_units_[s] = 0;
    for (std::size_t i = 0; i < stages_[s].size(); ++i)
      stage_units_[s] += op_units_[s][i] = units(stages_[s][i], step_);
  }
  plan_fetches();
  run_stages(profiled);
  return {*buffer(logits_), storage_[(std::size_t)logits_]};
}

}  // namespace wingbeat
