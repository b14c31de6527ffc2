// RWKV-7 time mixing, head by head. Part of kernels.inl.hpp.

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
