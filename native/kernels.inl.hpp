// The kernels, written once over sixteen lanes. Each instruction-set unit defines WINGBEAT_UNIT (a namespace) and
// WINGBEAT_SIMD (its header), and includes this file. Everything here has internal linkage: code compiled for one
// instruction set must never be picked by the linker for another, so no standard templates either.
//
// The numeric contract: a lane is an output row (or a value row of the state) and its sum runs over K in one order,
// whatever the number of rows in the tile.

#include "kernels.hpp"

namespace wingbeat {
namespace {
namespace WINGBEAT_UNIT {

inline std::int32_t load_int32(const std::uint8_t* p) {
  std::int32_t v;
  __builtin_memcpy(&v, p, 4);
  return v;
}

// Whole, since it is read whole in a moment: bytes stored one by one would be waited for.
inline void store_int32(std::uint8_t* p, std::int32_t v) { __builtin_memcpy(p, &v, 4); }

// Four K of an int8 activation as the int16 pairs (0, 2) and (1, 3): where there is no instruction for bytes, the even
// and odd bytes of a weight group, widened by a mask and a shift, meet them in one multiply-add each.
[[maybe_unused]] inline void store_pair_group(std::uint8_t* dst, const std::int32_t* q) {
  store_int32(dst, (q[0] & 0xffff) | (std::int32_t)((std::uint32_t)q[2] << 16));
  store_int32(dst + 4, (q[1] & 0xffff) | (std::int32_t)((std::uint32_t)q[3] << 16));
}

[[maybe_unused]] inline void store_pairs(std::uint8_t* dst, const std::int32_t* q) {
  for (int i = 0; i < 16; i += 4) store_pair_group(dst + 2 * i, q + i);
}

// The K-th value of such a row.
[[maybe_unused]] inline std::int32_t paired_act(const std::uint8_t* row, int k) {
  constexpr int place[4] = {0, 2, 1, 3};
  std::int16_t value;
  __builtin_memcpy(&value, row + 2 * (k / 4 * 4 + place[k % 4]), sizeof value);
  return value;
}

#include WINGBEAT_SIMD

struct F32Format {
  static constexpr int group = 1, phases = 1;
  static constexpr int act_bytes = 4;
  typedef F16 Weight;
  static Weight weight(I16 w, int) { return as_float(w); }
  static F16 mac(F16 acc, Weight w, const std::uint8_t* act, int) { return fma(set1(*(const float*)act), w, acc); }
};

inline float* slot_of(const Step& step, int sequence) {
  return step.pool + (std::size_t)step.slots[sequence] * step.slot_floats;
}

inline int min_int(int a, int b) { return a < b ? a : b; }

// e^x by Cody-Waite reduction and a polynomial of degree 6; about 1 ulp. Saturates outside [-87, 88].
inline F16 exp(F16 x) {
  x = min(set1(88.0f), max(set1(-87.0f), x));  // in this order NaN stays NaN
  F16 n = round(mul(x, set1(1.44269504f)));
  F16 r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  F16 p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, mul(r, r), add(r, set1(1.0f)));
  return scale_by_power(p, n);
}

inline F16 sigmoid(F16 x) { return div(set1(1.0f), add(set1(1.0f), exp(sub(set1(0.0f), x)))); }

// Four vectors: the choice is made once for them.
inline void activate(Activation activation, F16* v) {
  auto each = [v](auto function) __attribute__((always_inline)) {
    for (int i = 0; i < 4; ++i) v[i] = function(v[i]);
  };
  switch (activation) {
    case Activation::kTanh:
      return each([](F16 x) { return sub(set1(1.0f), div(set1(2.0f), add(set1(1.0f), exp(add(x, x))))); });
    case Activation::kSigmoid: return each([](F16 x) { return sigmoid(x); });
    case Activation::kRelu2:
      return each([](F16 x) {
        x = max(set1(0.0f), x);
        return mul(x, x);
      });
    case Activation::kSilu: return each([](F16 x) { return mul(x, sigmoid(x)); });
    case Activation::kDecay6: return each([](F16 x) { return exp(sub(set1(0.0f), exp(x))); });
    case Activation::kDecay7: return each([](F16 x) { return exp(mul(set1(-0.60653066f), sigmoid(x))); });
    case Activation::kNone: return;
  }
}

// ---- activations in the forms that `linear` reads ----

// In the form that int8, nf4 and sf4 weights read, in that of int4, or in both.
inline void emit_int8(const Buffer& b, std::size_t row, int column, const F16* v) {
  // Of magnitudes, the bits order as the numbers do; NaN and the infinities come last, which a maximum of floats may pass.
  I16 top = maxi(maxi(magnitude(v[0]), magnitude(v[1])), maxi(magnitude(v[2]), magnitude(v[3])));
  std::int32_t top_bits = largest(top);
  float most;
  __builtin_memcpy(&most, &top_bits, sizeof most);
  float scale = most * (1.0f / 127.0f);
  // The reciprocal of a denormal scale overflows: such a block is zero to every purpose.
  F16 inverse = set1(scale > 1e-35f ? 1.0f / scale : 0.0f), limit = set1(127.0f);
  I16 q[4];
  for (int i = 0; i < 4; ++i) {
    q[i] = to_int(min(mul(v[i], inverse), limit));  // the limit stands in for NaN; others round to 127 at most
    std::size_t at = (std::size_t)(column + i * kLanes);
    if (b.int8) Int8Format::store_act(b.int8 + row * b.int8_stride + at * Int8Format::act_bytes, q[i]);
    if (b.int4) store_bytes(b.int4 + row * b.int4_stride + at, q[i]);
  }
  std::size_t block = row * (b.padded / kBlock) + column / kBlock;
  b.scales[block] = scale + most * 0.0f;  // NaN beside a NaN or an infinity
  I16 first = addi(q[0], q[1]), second = addi(q[2], q[3]);
  if (b.int8) b.offsets[block] = -128 * sum(addi(first, second));
  if (b.int4) {
    b.offsets4[2 * block] = -8 * sum(first);
    b.offsets4[2 * block + 1] = -8 * sum(second);
  }
  if (!b.mask) return;
  std::uint64_t mask = 0;
  for (int i = 0; i < 4; ++i) mask |= (std::uint64_t)nonzero(to_float(q[i])) << (i * kLanes);
  b.mask[block] = mask;
}

// Writes 64 columns of a row, from `column` on, in every form the buffer keeps.
inline void emit(const Buffer& b, std::size_t row, int column, const F16* v) {
  if (b.f32)
    for (int i = 0; i < 4; ++i) store(b.f32 + row * b.f32_stride + column + i * kLanes, v[i]);
  if (b.bf16)
    for (int i = 0; i < 4; ++i)
      Bf16Format::store_act(b.bf16 + row * b.bf16_stride + (std::size_t)(column + i * kLanes) * Bf16Format::act_bytes, v[i]);
  if (b.int8 || b.int4) return emit_int8(b, row, column, v);
  if (!b.mask) return;
  std::uint64_t mask = 0;
  for (int i = 0; i < 4; ++i) mask |= (std::uint64_t)nonzero(v[i]) << (i * kLanes);
  b.mask[row * (b.padded / kBlock) + column / kBlock] = mask;
}

inline void emit_row(const Buffer& b, std::size_t row, const float* values) {
  for (int column = 0; column < b.padded; column += kBlock) {
    F16 v[4];
    for (int i = 0; i < 4; ++i) v[i] = load(values + column + i * kLanes);
    emit(b, row, column, v);
  }
}

// ---- norms ----

// z = LayerNorm(x) over d values; rows and parameters are padded with zeros, so z's padding becomes zero.
inline void norm_row(const float* x, int d, const float* weight, const float* bias, float eps, float* z) {
  int padded = round_up(d, kLanes), whole = d - d % kLanes;
  F16 total = set1(0.0f), squares = set1(0.0f);
  for (int i = 0; i < padded; i += kLanes) total = add(total, load(x + i));
  F16 mean = set1(sum(total) / (float)d);
  for (int i = 0; i < whole; i += kLanes) {
    F16 c = sub(load(x + i), mean);
    squares = fma(c, c, squares);
  }
  if (whole < d) {
    float tail[kLanes] = {};
    store(tail, sub(load(x + whole), mean));
    for (int i = d - whole; i < kLanes; ++i) tail[i] = 0.0f;
    F16 c = load(tail);
    squares = fma(c, c, squares);
  }
  F16 scale = set1(1.0f / __builtin_sqrtf(sum(squares) / (float)d + eps));
  for (int i = 0; i < padded; i += kLanes)
    store(z + i, fma(mul(sub(load(x + i), mean), scale), load(weight + i), load(bias + i)));
}

// 16 values of a table of float32 or bfloat16.
inline F16 load_table(Format format, const void* table, std::size_t at) {
  return format == Format::kFloat32 ? load((const float*)table + at) : load_bf16((const std::uint16_t*)table + at);
}

void embed(const EmbedOp& op, const Step& step, int unit, float* scratch) {
  int end = min_int(step.rows, (unit + 1) * kRowsPerUnit);
  for (int row = unit * kRowsPerUnit; row < end; ++row) {
    std::size_t start = (std::size_t)step.tokens[row] * op.stride;
    for (int i = 0; i < op.out->padded; i += kLanes)
      store(scratch + i, load_table(op.format, op.table, start + (std::size_t)i));
    emit_row(*op.out, (std::size_t)row, scratch);
  }
}

void norm_shift_mix(const NormShiftMixOp& op, const Step& step, int unit, float* scratch) {
  const Buffer& x = *op.x;
  float *z = scratch, *previous = scratch + x.padded;
  int begin = unit * kRowsPerUnit, end = min_int(step.rows, begin + kRowsPerUnit);
  auto norm = [&](int row, float* out) {
    norm_row(x.f32 + (std::size_t)row * x.f32_stride, x.width, op.norm_weight, op.norm_bias, op.eps, out);
  };
  for (int i = round_up(x.width, kLanes); i < x.padded; ++i) z[i] = previous[i] = 0.0f;
  for (int row = begin; row < end; ++row) {
    int sequence = step.row_sequence[row];
    bool first = row == step.seq_starts[sequence];
    if (!first && row == begin) norm(row - 1, previous);
    const float* before = first ? slot_of(step, sequence) + op.state_offset : previous;
    norm(row, z);
    for (int column = 0; column < x.padded; column += kBlock) {
      F16 here[4], delta[4], mixed[4];
      for (int i = 0; i < 4; ++i) {
        int at = column + i * kLanes;
        here[i] = load(z + at);
        // The state is padded to 16 lanes only: past that, nothing of it is read.
        delta[i] = at < x.width ? sub(load(before + at), here[i]) : set1(0.0f);
      }
      for (int c = 0; c < op.mixes; ++c) {
        const float* mu = op.mu + (std::size_t)c * x.padded + column;
        for (int i = 0; i < 4; ++i) mixed[i] = fma(delta[i], load(mu + i * kLanes), here[i]);
        emit(*op.outs[c], (std::size_t)row, column, mixed);
      }
    }
    if (row + 1 == step.seq_starts[sequence + 1]) emit_row(*op.last, (std::size_t)sequence, z);
    float* swap = previous;
    previous = z;
    z = swap;
  }
}

void gather_norm(const GatherNormOp& op, const Step& step, int unit, float* scratch) {
  const Buffer& x = *op.x;
  for (int i = round_up(x.width, kLanes); i < x.padded; ++i) scratch[i] = 0.0f;
  int end = min_int(step.wanted, (unit + 1) * kRowsPerUnit);
  for (int i = unit * kRowsPerUnit; i < end; ++i) {
    const float* row = x.f32 + (std::size_t)step.logit_rows[i] * x.f32_stride;
    norm_row(row, x.width, op.norm_weight, op.norm_bias, op.eps, scratch);
    emit_row(*op.out, (std::size_t)i, scratch);
  }
}

void tap(const TapOp& op, const Step& step, int unit, float* scratch) {
  const Buffer& x = *op.x;
  for (int i = round_up(x.width, kLanes); i < x.padded; ++i) scratch[i] = 0.0f;
  int end = min_int(step.hidden, (unit + 1) * kRowsPerUnit);
  for (int i = unit * kRowsPerUnit; i < end; ++i) {
    if (step.hidden_layers[i] != op.layer) continue;
    const float* row = x.f32 + (std::size_t)step.hidden_rows[i] * x.f32_stride;
    if (op.norm_weight) norm_row(row, x.width, op.norm_weight, op.norm_bias, op.eps, scratch);
    emit_row(*op.out, (std::size_t)i, op.norm_weight ? scratch : row);
  }
}

#include "linear.inl.hpp"
#include "wkv7.inl.hpp"
#include "wkv4.inl.hpp"
#include "wkv6.inl.hpp"
#include "deep_embed.inl.hpp"

float read_bytes(const std::uint8_t* data, std::size_t bytes) {
  F16 acc[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
  std::size_t quarter = bytes / 4;
  for (std::size_t i = 0; i < quarter; i += kGroupBytes)
    for (int p = 0; p < 4; ++p) {
      const std::uint8_t* at = data + p * quarter + i;
      __builtin_prefetch(at + 1024);
      acc[p] = add(acc[p], load((const float*)at));
    }
  return sum(add(add(acc[0], acc[1]), add(acc[2], acc[3])));
}

// One call of a format's tiles on data that stays in the first-level cache: rows_at_once() rows by 64 columns.
double peak(Format format, int iterations, float* sink) {
  constexpr int k = 128, rows = 32, blocks = k / kInt4Block;
  static_assert(rows >= kFloatRows && rows >= kBf16RowsAtOnce && rows >= kInt8RowsAtOnce);
  alignas(64) std::uint8_t panels[kBlock * k * 4] = {}, acts[rows * k * 4] = {};
  alignas(64) float out[rows * kBlock], act_scales[rows * blocks] = {};
  std::uint16_t scales[kBlock * blocks] = {};
  std::int32_t offsets[rows * blocks] = {};
  Tile t{panels, 0, 0, acts, k, k, true, false, nullptr, 0, out, blocks / 2, scales, blocks * kLanes, act_scales, offsets, false, nullptr};
  alignas(64) std::uint8_t wide[kBlock * k];
  int count = rows_at_once(format);
  t.panel_bytes = kGroupBytes * k / (std::size_t)group_k(format);
  switch (format) {
    case Format::kFloat32: t.act_stride *= sizeof(float); break;
    case Format::kBfloat16: t.act_stride *= Bf16Format::act_bytes; break;
    case Format::kInt8:
    case Format::kNf4:
    case Format::kSf4: t.act_stride *= Int8Format::act_bytes; break;
    case Format::kInt4: break;
  }
  if (takes_signed(format, kLinearRows)) sign_weights(format, t, wide);
  for (int i = 0; i < iterations; ++i) {
    multiply(format, count, t);
    asm volatile("" ::"r"(panels), "r"(acts), "r"(out) : "memory");  // the data is not known to be zero
    *sink += out[0];
  }
  return (double)iterations * count * kBlock * k;
}

constexpr KernelTable kTable{WINGBEAT_NAME, Bf16Format::act_bytes, Int8Format::act_bytes,
                             embed,         norm_shift_mix,        linear,
                             wkv4,          wkv6,                  wkv7,
                             deep_embed,    gather_norm,           tap,
                             read_bytes,    peak,                  leave};

}  // namespace WINGBEAT_UNIT
}  // namespace
}  // namespace wingbeat
