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

// Four K of an int8 activation as the int16 pairs (0, 2) and (1, 3): where there is no instruction for bytes, the even
// and odd bytes of a weight group, widened by a mask and a shift, meet them in one multiply-add each.
inline void store_pairs(std::uint8_t* dst, const std::int32_t* q) {
  std::int16_t pairs[16];
  for (int i = 0; i < 16; i += 4) {
    pairs[i] = (std::int16_t)q[i], pairs[i + 1] = (std::int16_t)q[i + 2];
    pairs[i + 2] = (std::int16_t)q[i + 1], pairs[i + 3] = (std::int16_t)q[i + 3];
  }
  __builtin_memcpy(dst, pairs, sizeof pairs);
}

#include WINGBEAT_SIMD

struct F32Format {
  static constexpr int group = 1, phases = 1;
  static constexpr int act_bytes = 4;
  typedef F16 Weight;
  static Weight weight(const std::uint8_t* p, int) { return load((const float*)p); }
  static F16 mac(F16 acc, Weight w, const std::uint8_t* act, int) { return fma(set1(*(const float*)act), w, acc); }
};

inline float* slot_of(const Step& step, int sequence) {
  return step.pool + (std::size_t)step.slots[sequence] * step.slot_floats;
}

inline int min_int(int a, int b) { return a < b ? a : b; }

inline float sum(F16 v) {
  float lane[kLanes];
  store(lane, v);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  return lane[0];
}

inline float largest(F16 v) {
  float lane[kLanes];
  store(lane, v);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
  return lane[0];
}

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

inline F16 activate(Activation activation, F16 x) {
  switch (activation) {
    case Activation::kTanh: return sub(set1(1.0f), div(set1(2.0f), add(set1(1.0f), exp(add(x, x)))));
    case Activation::kSigmoid: return sigmoid(x);
    case Activation::kRelu2: x = max(set1(0.0f), x); return mul(x, x);
    case Activation::kDecay7: return exp(mul(set1(-0.60653066f), sigmoid(x)));
    case Activation::kNone: break;
  }
  return x;
}

// ---- activations in the forms that `linear` reads ----

inline void emit_int8(const Buffer& b, std::size_t row, int column, const F16* v) {
  F16 top = max(max(abs(v[0]), abs(v[1])), max(abs(v[2]), abs(v[3])));
  float scale = largest(top) * (1.0f / 127.0f);
  // The reciprocal of a denormal scale overflows: such a block is zero to every purpose.
  F16 poison = set1(0.0f);  // becomes NaN beside a NaN or an infinity, which the maximum may pass over
  F16 inverse = set1(scale > 1e-35f ? 1.0f / scale : 0.0f), limit = set1(127.0f), total = set1(0.0f);
  std::uint8_t* dst = b.int8 + row * b.int8_stride + (std::size_t)column * Int8Format::act_bytes;
  for (int i = 0; i < 4; ++i) {
    F16 q = max(min(round(mul(v[i], inverse)), limit), sub(set1(0.0f), limit));
    poison = fma(v[i], set1(0.0f), poison);
    total = add(total, q);  // whole numbers below 2^24: exact in any order
    Int8Format::store_act(dst + i * kLanes * Int8Format::act_bytes, to_int(q));
  }
  std::size_t block = row * (b.padded / kBlock) + column / kBlock;
  b.scales[block] = scale + sum(poison);
  b.offsets[block] = -128 * (std::int32_t)sum(total);
}

// Writes 64 columns of a row, from `column` on, in every form the buffer keeps.
inline void emit(const Buffer& b, std::size_t row, int column, const F16* v) {
  if (b.f32)
    for (int i = 0; i < 4; ++i) store(b.f32 + row * b.f32_stride + column + i * kLanes, v[i]);
  if (b.bf16)
    for (int i = 0; i < 4; ++i)
      Bf16Format::store_act(b.bf16 + row * b.bf16_stride + (std::size_t)(column + i * kLanes) * Bf16Format::act_bytes, v[i]);
  if (b.int8) emit_int8(b, row, column, v);
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

void embed(const EmbedOp& op, const Step& step, int unit, float* scratch) {
  int end = min_int(step.rows, (unit + 1) * kRowsPerUnit);
  for (int row = unit * kRowsPerUnit; row < end; ++row) {
    std::size_t start = (std::size_t)step.tokens[row] * op.stride;
    for (int i = 0; i < op.out->padded; i += kLanes)
      store(scratch + i, op.format == Format::kFloat32 ? load((const float*)op.table + start + i)
                                                       : load_bf16((const std::uint16_t*)op.table + start + i));
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

// ---- linear ----

struct Tile {  // R rows by 64 columns of a product
  const std::uint8_t* panels;  // the first of four
  std::size_t panel_bytes;
  const std::uint8_t* acts;
  std::size_t act_stride;
  int k;  // padded
  float* out;  // [R][64]
  // int8 only
  const std::uint16_t* scales;  // [4][k / 64][16]
  const float* act_scales;      // row stride k / 64
  const std::int32_t* act_offsets;
};

// Row r of a tile's activations: a base for every third row and one stride address them all from few registers.
template <int R>
struct RowCursor {
  const std::uint8_t* base[(R + 2) / 3];
  std::size_t stride;
  RowCursor(const std::uint8_t* acts, std::size_t act_stride) : stride(act_stride) {
    for (int i = 0; i < (R + 2) / 3; ++i) base[i] = acts + (std::size_t)(3 * i) * act_stride;
  }
  const std::uint8_t* row(int r) const { return base[r / 3] + (std::size_t)(r % 3) * stride; }
  void advance(int bytes) {
    for (int i = 0; i < (R + 2) / 3; ++i) base[i] += bytes;
  }
};

template <class Fmt, int R, int P>
inline void float_tile(const Tile& t, int panel) {
  F16 acc[R][P];
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) acc[r][p] = set1(0.0f);
  const std::uint8_t* w = t.panels + (std::size_t)panel * t.panel_bytes;
  RowCursor<R> a(t.acts, t.act_stride);
  for (int k = 0; k < t.k; k += Fmt::group, w += kGroupBytes, a.advance(Fmt::group * Fmt::act_bytes)) {
#pragma GCC unroll 2
    for (int phase = 0; phase < Fmt::phases; ++phase) {
      typename Fmt::Weight weight[P];
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        if (R == 1 && phase == 0) __builtin_prefetch(w + p * t.panel_bytes + 1024);
        weight[p] = Fmt::weight(w + p * t.panel_bytes, phase);
      }
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) acc[r][p] = Fmt::mac(acc[r][p], weight[p], a.row(r), phase);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) store(t.out + r * kBlock + (panel + p) * kLanes, acc[r][p]);
}

template <int R, int P>
inline void int8_tile(const Tile& t, int panel) {
  int blocks = t.k / kBlock;
  const std::uint8_t* w = t.panels + (std::size_t)panel * t.panel_bytes;
  RowCursor<R> a(t.acts, t.act_stride);
  float* out = t.out + panel * kLanes;
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) store(out + r * kBlock + p * kLanes, set1(0.0f));
  for (int block = 0; block < blocks; ++block) {
    I16 acc[R][P];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) acc[r][p] = set1i(t.act_offsets[r * blocks + block]);
    for (int k = 0; k < kBlock; k += 4, w += kGroupBytes, a.advance(4 * Int8Format::act_bytes)) {
#pragma GCC unroll 2
      for (int phase = 0; phase < Int8Format::phases; ++phase) {
        Int8Format::Weight weight[P];
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
          if (R == 1 && phase == 0) __builtin_prefetch(w + p * t.panel_bytes + 1024);
          weight[p] = Int8Format::weight(w + p * t.panel_bytes, phase);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
          for (int p = 0; p < P; ++p) acc[r][p] = Int8Format::mac(acc[r][p], weight[p], a.row(r), phase);
      }
    }
    for (int p = 0; p < P; ++p) {
      F16 scale = load_bf16(t.scales + ((std::size_t)(panel + p) * blocks + block) * kLanes);
      for (int r = 0; r < R; ++r) {
        float* o = out + r * kBlock + p * kLanes;
        store(o, fma(to_float(acc[r][p]), mul(scale, set1(t.act_scales[r * blocks + block])), load(o)));
      }
    }
  }
}

template <class Fmt, int R>
inline void float_rows(const Tile& t) {
  constexpr int P = FloatPanels<R>::value;
  for (int panel = 0; panel < 4; panel += P) float_tile<Fmt, R, P>(t, panel);
}

template <int R>
inline void int8_rows(const Tile& t) {
  constexpr int P = Int8Panels<R>::value;
  for (int panel = 0; panel < 4; panel += P) int8_tile<R, P>(t, panel);
}

template <class Fmt, int R>
inline void float_rows_of(int rows, const Tile& t) {
  if constexpr (R > 0) {
    if (rows == R) return float_rows<Fmt, R>(t);
    float_rows_of<Fmt, R - 1>(rows, t);
  }
}

template <int R>
inline void int8_rows_of(int rows, const Tile& t) {
  if constexpr (R > 0) {
    if (rows == R) return int8_rows<R>(t);
    int8_rows_of<R - 1>(rows, t);
  }
}

// Bias, activation, residual; then out in the forms its readers want.
inline void finish_row(const LinearOp& op, std::size_t row, int column, const float* product) {
  const Buffer& out = *op.out;
  F16 v[4];
  for (int i = 0; i < 4; ++i) {
    v[i] = load(product + i * kLanes);
    if (op.bias) v[i] = add(v[i], load(op.bias + column + i * kLanes));
    v[i] = activate(op.activation, v[i]);
    if (op.add) v[i] = add(v[i], load(out.f32 + row * out.f32_stride + column + i * kLanes));
  }
  if (column + kBlock > out.width) {  // keep the padding zero: it must not reach a block's scale or a norm's sum
    float lane[kBlock];
    for (int i = 0; i < 4; ++i) store(lane + i * kLanes, v[i]);
    for (int i = out.width - column; i < kBlock; ++i) lane[i] = 0.0f;
    for (int i = 0; i < 4; ++i) v[i] = load(lane + i * kLanes);
  }
  emit(out, row, column, v);
}

void linear(const LinearOp& op, int rows, int unit) {
  const PackedWeight& w = *op.weight;
  const Buffer& x = *op.x;
  int row_units = ceil_div(rows, kLinearRows), part = unit % row_units;
  int column = unit / row_units * kBlock;
  int first = (int)((long)rows * part / row_units), count = (int)((long)rows * (part + 1) / row_units) - first;
  int most = w.format == Format::kInt8 ? kInt8Rows : kFloatRows;
  int tiles = ceil_div(count, most);
  int blocks = w.k_padded / kBlock;
  constexpr int tallest = kFloatRows > kInt8Rows ? kFloatRows : kInt8Rows;
  alignas(64) float product[tallest * kBlock];
  Tile t{};
  t.panels = w.data + (std::size_t)(column / kLanes) * w.panel_bytes;
  t.panel_bytes = w.panel_bytes;
  t.k = w.k_padded;
  t.out = product;
  if (w.format == Format::kInt8) t.scales = w.scales + (std::size_t)(column / kLanes) * blocks * kLanes;
  for (int tile = 0; tile < tiles; ++tile) {  // tiles of nearly equal height
    int begin = first + (int)((long)count * tile / tiles), end = first + (int)((long)count * (tile + 1) / tiles);
    std::size_t row = (std::size_t)begin;
    switch (w.format) {
      case Format::kFloat32:
        t.acts = (const std::uint8_t*)(x.f32 + row * x.f32_stride);
        t.act_stride = x.f32_stride * sizeof(float);
        float_rows_of<F32Format, kFloatRows>(end - begin, t);
        break;
      case Format::kBfloat16:
        t.acts = x.bf16 + row * x.bf16_stride;
        t.act_stride = x.bf16_stride;
        float_rows_of<Bf16Format, kFloatRows>(end - begin, t);
        break;
      case Format::kInt8:
        t.acts = x.int8 + row * x.int8_stride;
        t.act_stride = x.int8_stride;
        t.act_scales = x.scales + row * blocks;
        t.act_offsets = x.offsets + row * blocks;
        int8_rows_of<kInt8Rows>(end - begin, t);
        break;
    }
    for (int r = begin; r < end; ++r) finish_row(op, (std::size_t)r, column, product + (r - begin) * kBlock);
  }
}

// ---- RWKV-7 time mixing ----

// One token of one head for 16 * NV value rows: S <- S diag(w) - (S kk) b^T + v k^T, y = S r, with nb = -b.
// Lanes are value rows; sums over the key run in one order, in two interleaved chains.
template <int NV>
inline void wkv7_rows(float* s, int n, int stride, const float* kk, const float* nb, const float* w, const float* k,
                      const float* r, const float* v, float* y) {
  F16 sa[NV], sb[NV], value[NV], out[NV];
  for (int i = 0; i < NV; ++i) {
    sa[i] = sb[i] = out[i] = set1(0.0f);
    value[i] = load(v + i * kLanes);
  }
  int j = 0;
  for (; j + 1 < n; j += 2) {
    const float* row = s + (std::size_t)j * stride;
    for (int i = 0; i < NV; ++i) sa[i] = fma(load(row + i * kLanes), set1(kk[j]), sa[i]);
    for (int i = 0; i < NV; ++i) sb[i] = fma(load(row + stride + i * kLanes), set1(kk[j + 1]), sb[i]);
  }
  if (j < n)
    for (int i = 0; i < NV; ++i) sa[i] = fma(load(s + (std::size_t)j * stride + i * kLanes), set1(kk[j]), sa[i]);
  for (int i = 0; i < NV; ++i) sa[i] = add(sa[i], sb[i]);
  for (j = 0; j < n; ++j) {
    float* row = s + (std::size_t)j * stride;
    for (int i = 0; i < NV; ++i) {
      F16 x = mul(load(row + i * kLanes), set1(w[j]));
      x = fma(sa[i], set1(nb[j]), x);
      x = fma(value[i], set1(k[j]), x);
      store(row + i * kLanes, x);
      out[i] = fma(x, set1(r[j]), out[i]);
    }
  }
  for (int i = 0; i < NV; ++i) store(y + i * kLanes, out[i]);
}

// One token's vectors of one head, padded to a multiple of 16. Heads of such a size are read where they are.
struct HeadRow {
  const float *w, *r, *g, *r_k;
  float *kk, *nb, *k, *v, *y;
};

// n floats with zeros up to `padded`: the source itself, or a copy.
inline const float* padded_view(const float* source, int n, int padded, float* copy) {
  if (n == padded) return source;
  for (int i = 0; i < n; ++i) copy[i] = source[i];
  for (int i = n; i < padded; ++i) copy[i] = 0.0f;
  return copy;
}

// `tmp` has room for 13 vectors; the row's own start after it.
inline HeadRow load_head_row(const Wkv7Op& op, std::size_t row, int channel, int padded, float* tmp) {
  auto room = [&](int i) { return tmp + i * padded; };
  auto vec = [&](const float* all, int i) { return padded_view(all + channel, op.size, padded, room(i)); };
  auto at = [&](const Buffer* b, int i) { return vec(b->f32 + row * b->f32_stride, i); };
  HeadRow h{at(op.w, 0), at(op.r, 1), at(op.g, 2), vec(op.r_k, 3), room(13), room(14), room(15), room(16), room(17)};
  const float *k = at(op.k, 4), *v = at(op.v, 5), *a = at(op.a, 6), *k_k = vec(op.k_k, 7), *k_a = vec(op.k_a, 8);
  const float *first = op.mix ? at(op.v_first, 9) : v, *mix = op.mix ? at(op.mix, 10) : v;
  F16 squares = set1(0.0f), one = set1(1.0f);
  for (int i = 0; i < padded; i += kLanes) {
    F16 value = load(v + i), kk = mul(load(k + i), load(k_k + i));
    store(h.v + i, op.mix ? fma(sub(load(first + i), value), load(mix + i), value) : value);
    squares = fma(kk, kk, squares);
    store(h.kk + i, kk);
  }
  float length = __builtin_sqrtf(sum(squares));
  F16 inverse = set1(1.0f / (length > 1e-12f ? length : 1e-12f));
  for (int i = 0; i < padded; i += kLanes) {
    F16 kk = mul(load(h.kk + i), inverse), rate = load(a + i);
    store(h.kk + i, kk);
    store(h.nb + i, sub(set1(0.0f), mul(kk, rate)));
    store(h.k + i, mul(load(k + i), fma(sub(rate, one), load(k_a + i), one)));
  }
  return h;
}

// A head's rows lie a whole row apart, which the hardware does not foresee.
inline void prefetch_head_row(const Wkv7Op& op, std::size_t row, int channel) {
  const Buffer* inputs[] = {op.r, op.w, op.k, op.v, op.a, op.g, op.v_first, op.mix};
  for (const Buffer* b : inputs) {
    if (!b) continue;
    const float* start = b->f32 + row * b->f32_stride + channel;
    for (int i = 0; i < op.size; i += kLanes) __builtin_prefetch(start + i);
  }
}

// GroupNorm of y, plus the bonus of the current token, times the gate.
inline void finish_head_row(const Wkv7Op& op, int channel, int padded, float* tmp, const HeadRow& h, float* out) {
  F16 bonus = set1(0.0f);
  for (int i = 0; i < padded; i += kLanes) bonus = fma(mul(load(h.r + i), load(h.k + i)), load(h.r_k + i), bonus);
  F16 amount = set1(sum(bonus));
  float* normed = tmp + 11 * padded;
  const float* weight = padded_view(op.norm_weight + channel, op.size, padded, tmp + 9 * padded);
  const float* bias = padded_view(op.norm_bias + channel, op.size, padded, tmp + 10 * padded);
  norm_row(h.y, op.size, weight, bias, op.eps, normed);
  for (int i = 0; i < padded; i += kLanes)
    store(h.y + i, mul(fma(amount, load(h.v + i), load(normed + i)), load(h.g + i)));
  for (int i = 0; i < op.size; ++i) out[i] = h.y[i];
}

void wkv7(const Wkv7Op& op, const Step& step, int unit, float* scratch) {
  int n = op.size, padded = round_up(n, kLanes);
  int group = heads_per_unit(op.heads, n), units = ceil_div(op.heads, group);
  int sequence = unit / units, head = unit % units * group, heads = min_int(group, op.heads - head);
  int columns = round_up(heads * n, kBlock);
  float *out = scratch, *tmp = out + columns;
  float* state = slot_of(step, sequence) + op.state_offset + (std::size_t)head * n * padded;
  for (int i = 0; i < columns; ++i) out[i] = 0.0f;
  int end = step.seq_starts[sequence + 1];
  for (int row = step.seq_starts[sequence]; row < end; ++row) {
    for (int j = 0; j < heads; ++j) {
      int channel = (head + j) * n;
      float* s = state + (std::size_t)j * n * padded;
      if (row + 1 < end) prefetch_head_row(op, (std::size_t)row + 1, channel);
      HeadRow h = load_head_row(op, (std::size_t)row, channel, padded, tmp);
      int i = 0;
      for (; i + kValueVectors * kLanes <= padded; i += kValueVectors * kLanes)
        wkv7_rows<kValueVectors>(s + i, n, padded, h.kk, h.nb, h.w, h.k, h.r, h.v + i, h.y + i);
      for (; i < padded; i += kLanes)
        wkv7_rows<1>(s + i, n, padded, h.kk, h.nb, h.w, h.k, h.r, h.v + i, h.y + i);
      finish_head_row(op, channel, padded, tmp, h, out + j * n);
    }
    for (int c = 0; c < columns; c += kBlock) {
      F16 v[4];
      for (int i = 0; i < 4; ++i) v[i] = load(out + c + i * kLanes);
      emit(*op.out, (std::size_t)row, head * n + c, v);
    }
  }
}

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

template <class Fmt>
inline double float_peak(int iterations, float* sink) {
  constexpr int rows = kFloatRows, panels = FloatPanels<kFloatRows>::value;
  alignas(64) std::uint8_t data[panels * kGroupBytes * 64] = {}, acts[rows * 256] = {};
  alignas(64) float out[rows * kBlock];
  Tile t{data, kGroupBytes * 64, acts, 256, 64, out, nullptr, nullptr, nullptr};
  for (int i = 0; i < iterations; ++i) {
    float_tile<Fmt, rows, panels>(t, 0);
    asm volatile("" ::"r"(data), "r"(acts), "r"(out) : "memory");  // the data is not known to be zero
    *sink += out[0];
  }
  return (double)iterations * rows * panels * kLanes * t.k;
}

inline double int8_peak(int iterations, float* sink) {
  constexpr int rows = kInt8Rows, panels = Int8Panels<kInt8Rows>::value, blocks = 8;
  alignas(64) std::uint8_t data[panels * kLanes * blocks * kBlock] = {}, acts[rows * blocks * kBlock * 2] = {};
  alignas(64) float out[rows * kBlock], scales[rows * blocks] = {};
  std::uint16_t weight_scales[panels * blocks * kLanes] = {};
  std::int32_t offsets[rows * blocks] = {};
  Tile t{data, kLanes * blocks * kBlock, acts, blocks * kBlock * 2, blocks * kBlock, out, weight_scales, scales, offsets};
  for (int i = 0; i < iterations; ++i) {
    int8_tile<rows, panels>(t, 0);
    asm volatile("" ::"r"(data), "r"(acts), "r"(out) : "memory");  // the data is not known to be zero
    *sink += out[0];
  }
  return (double)iterations * rows * panels * kLanes * t.k;
}

double peak(Format format, int iterations, float* sink) {
  if (format == Format::kInt8) return int8_peak(iterations, sink);
  return format == Format::kBfloat16 ? float_peak<Bf16Format>(iterations, sink) : float_peak<F32Format>(iterations, sink);
}

constexpr KernelTable kTable{WINGBEAT_NAME, Bf16Format::act_bytes, Int8Format::act_bytes, embed,      norm_shift_mix,
                             linear,        wkv7,                  gather_norm,           read_bytes, peak};

}  // namespace WINGBEAT_UNIT
}  // namespace
}  // namespace wingbeat
