// RWKV-7 time mixing, head by head. Part of kernels.inl.hpp.
//
// A token of a head is S <- S diag(w) + sa nb^T + v k^T, y = S r, where sa = S kk and nb = -kk a. Lanes are value rows;
// sums over the key run in one order: y in one chain, sa in two interleaved ones.

// sa of 16 * NV value rows.
template <int NV>
inline void wkv7_remembered(const float* s, int n, int stride, const float* kk, float* sa) {
  F16 even[NV], odd[NV];
  for (int i = 0; i < NV; ++i) even[i] = odd[i] = set1(0.0f);
  int j = 0;
  for (; j + 1 < n; j += 2, s += 2 * (std::size_t)stride) {
    for (int i = 0; i < NV; ++i) even[i] = fma(load(s + i * kLanes), set1(kk[j]), even[i]);
    for (int i = 0; i < NV; ++i) odd[i] = fma(load(s + stride + i * kLanes), set1(kk[j + 1]), odd[i]);
  }
  if (j < n)
    for (int i = 0; i < NV; ++i) even[i] = fma(load(s + i * kLanes), set1(kk[j]), even[i]);
  for (int i = 0; i < NV; ++i) store(sa + i * kLanes, add(even[i], odd[i]));
}

// One token's vectors of one head, padded to a multiple of 16. Heads of such a size are read where they are.
struct Wkv7Token {
  const float *w, *r, *g;
  float *kk, *nb, *k, *v, *y;
};

// Moves 16 * NV value rows, from `at` on, by a token. With kMore the sa of the token after it, whose kk is `next`, is
// summed up on the way, for the state is in registers then.
template <int NV, bool kMore>
inline void wkv7_token(float* s, int n, int stride, int at, const Wkv7Token& t, const float* next, float* sa) {
  F16 removed[NV], value[NV], out[NV], even[NV], odd[NV];
  for (int i = 0; i < NV; ++i) {
    removed[i] = load(sa + i * kLanes);
    value[i] = load(t.v + at + i * kLanes);
    out[i] = even[i] = odd[i] = set1(0.0f);
  }
  auto row = [&](int j, F16* sums) {
    F16 w = set1(t.w[j]), nb = set1(t.nb[j]), k = set1(t.k[j]), r = set1(t.r[j]), kk = set1(kMore ? next[j] : 0.0f);
    for (int i = 0; i < NV; ++i) {
      F16 x = fma(value[i], k, fma(removed[i], nb, mul(load(s + i * kLanes), w)));
      store(s + i * kLanes, x);
      out[i] = fma(x, r, out[i]);
      if (kMore) sums[i] = fma(x, kk, sums[i]);
    }
    s += stride;
  };
  int j = 0;
  for (; j + 1 < n; j += 2) {
    row(j, even);
    row(j + 1, odd);
  }
  if (j < n) row(j, even);
  for (int i = 0; i < NV; ++i) {
    store(t.y + at + i * kLanes, out[i]);
    if (kMore) store(sa + i * kLanes, add(even[i], odd[i]));
  }
}

// `count` tokens of 16 * NV value rows.
template <int NV>
inline void wkv7_rows(float* s, int n, int stride, int at, const Wkv7Token* tokens, int count) {
  float sa[NV * kLanes];
  wkv7_remembered<NV>(s, n, stride, tokens[0].kk, sa);
  for (int t = 0; t + 1 < count; ++t) wkv7_token<NV, true>(s, n, stride, at, tokens[t], tokens[t + 1].kk, sa);
  wkv7_token<NV, false>(s, n, stride, at, tokens[count - 1], nullptr, sa);
}

// n floats with zeros up to `padded`: the source itself, or a copy.
inline const float* padded_view(const float* source, int n, int padded, float* copy) {
  if (n == padded) return source;
  for (int i = 0; i < n; ++i) copy[i] = source[i];
  for (int i = n; i < padded; ++i) copy[i] = 0.0f;
  return copy;
}

// `mine` has room for the token's own vectors, `tmp` for those that nobody needs afterwards.
inline Wkv7Token load_token(const Wkv7Op& op, std::size_t row, int channel, int padded, float* mine, float* tmp) {
  auto room = [&](int i) { return mine + i * padded; };
  auto free = [&](int i) { return tmp + i * padded; };
  auto vec = [&](const float* all, float* copy) { return padded_view(all + channel, op.size, padded, copy); };
  auto at = [&](const Buffer* b, float* copy) { return vec(b->f32 + row * b->f32_stride, copy); };
  Wkv7Token t{at(op.w, room(0)), at(op.r, room(1)), at(op.g, room(2)), room(3), room(4), room(5), room(6), room(7)};
  const float *k = at(op.k, free(0)), *v = at(op.v, free(1)), *a = at(op.a, free(2));
  const float *k_k = vec(op.k_k, free(3)), *k_a = vec(op.k_a, free(4));
  const float *first = op.mix ? at(op.v_first, free(5)) : v, *mix = op.mix ? at(op.mix, free(6)) : v;
  F16 squares = set1(0.0f), one = set1(1.0f);
  for (int i = 0; i < padded; i += kLanes) {
    F16 value = load(v + i), kk = mul(load(k + i), load(k_k + i));
    store(t.v + i, op.mix ? fma(sub(load(first + i), value), load(mix + i), value) : value);
    squares = fma(kk, kk, squares);
    store(t.kk + i, kk);
  }
  float length = __builtin_sqrtf(sum(squares));
  F16 inverse = set1(1.0f / (length > 1e-12f ? length : 1e-12f));
  for (int i = 0; i < padded; i += kLanes) {
    F16 kk = mul(load(t.kk + i), inverse), rate = load(a + i);
    store(t.kk + i, kk);
    store(t.nb + i, sub(set1(0.0f), mul(kk, rate)));
    store(t.k + i, mul(load(k + i), fma(sub(rate, one), load(k_a + i), one)));
  }
  return t;
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
inline void finish_token(const Wkv7Op& op, int channel, int padded, float* tmp, const Wkv7Token& t, float* out) {
  auto vec = [&](const float* all, int i) { return padded_view(all + channel, op.size, padded, tmp + i * padded); };
  const float *r_k = vec(op.r_k, 0), *weight = vec(op.norm_weight, 1), *bias = vec(op.norm_bias, 2);
  F16 bonus = set1(0.0f);
  for (int i = 0; i < padded; i += kLanes) bonus = fma(mul(load(t.r + i), load(t.k + i)), load(r_k + i), bonus);
  F16 amount = set1(sum(bonus));
  norm_row(t.y, op.size, weight, bias, op.eps, t.y);
  for (int i = 0; i < padded; i += kLanes)
    store(t.y + i, mul(fma(amount, load(t.v + i), load(t.y + i)), load(t.g + i)));
  for (int i = 0; i < op.size; ++i) out[i] = t.y[i];
}

// Where a unit keeps what it computes.
struct Wkv7Scratch {
  float* out;      // [kHeadTokens][columns]
  float* vectors;  // [kHeadTokens][kWkv7Vectors][padded]
  float* tmp;      // [kWkv7Temporary][padded]
};

// `count` tokens of one head whose state is `s`, into `out`, `columns` from token to token. What is done for each token
// alone is done for all of them, so that it overlaps.
inline void wkv7_head(const Wkv7Op& op, int row, int count, int channel, float* s, const Wkv7Scratch& scratch, float* out, int columns) {
  int n = op.size, padded = round_up(n, kLanes);
  Wkv7Token tokens[kHeadTokens];
  for (int t = 0; t < count; ++t) {
    float* mine = scratch.vectors + t * kWkv7Vectors * padded;
    tokens[t] = load_token(op, (std::size_t)(row + t), channel, padded, mine, scratch.tmp);
  }
  int i = 0;
  for (; i + kWkv7ValueVectors * kLanes <= padded; i += kWkv7ValueVectors * kLanes)
    wkv7_rows<kWkv7ValueVectors>(s + i, n, padded, i, tokens, count);
  for (; i < padded; i += kLanes) wkv7_rows<1>(s + i, n, padded, i, tokens, count);
  for (int t = 0; t < count; ++t) finish_token(op, channel, padded, scratch.tmp, tokens[t], out + t * columns);
}

// Columns of `count` rows, from `column` on: values are [count][columns].
inline void emit_rows(const Buffer& b, int row, int count, int column, int columns, const float* values) {
  for (int t = 0; t < count; ++t)
    for (int c = 0; c < columns; c += kBlock, values += kBlock) {
      F16 v[4];
      for (int i = 0; i < 4; ++i) v[i] = load(values + i * kLanes);
      emit(b, (std::size_t)(row + t), column + c, v);
    }
}

void wkv7(const Wkv7Op& op, const Step& step, int unit, float* memory) {
  int n = op.size, padded = round_up(n, kLanes);
  int group = heads_per_unit(op.heads, n), units = ceil_div(op.heads, group);
  int sequence = unit / units, head = unit % units * group, heads = min_int(group, op.heads - head);
  int columns = round_up(heads * n, kBlock), begin = step.seq_starts[sequence], end = step.seq_starts[sequence + 1];
  float* state = slot_of(step, sequence) + op.state_offset + (std::size_t)head * n * padded;
  float* vectors = memory + kHeadTokens * columns;
  Wkv7Scratch scratch{memory, vectors, vectors + kHeadTokens * kWkv7Vectors * padded};
  for (int i = 0; i < min_int(kHeadTokens, end - begin) * columns; ++i) scratch.out[i] = 0.0f;
  for (int row = begin; row < end; row += kHeadTokens) {
    int count = min_int(kHeadTokens, end - row), ahead = min_int(kHeadTokens, end - row - count);
    for (int j = 0; j < heads; ++j) {
      int channel = (head + j) * n;
      for (int t = 0; t < ahead; ++t) prefetch_head_row(op, (std::size_t)(row + count + t), channel);
      wkv7_head(op, row, count, channel, state + (std::size_t)j * n * padded, scratch, scratch.out + j * n, columns);
    }
    emit_rows(*op.out, row, count, head * n, columns, scratch.out);
  }
}
