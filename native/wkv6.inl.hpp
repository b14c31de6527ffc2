// RWKV-5 and RWKV-6 time mixing, head by head. Part of kernels.inl.hpp.

// One token of one head for 16 * NV value rows: y = S r, then S <- S diag(w) + v k^T. Lanes are value rows; sums over the
// key run in one order.
template <int NV>
inline void wkv6_rows(float* s, int n, int stride, const float* w, const float* k, const float* r, const float* v, float* y) {
  F16 value[NV], out[NV];
  for (int i = 0; i < NV; ++i) {
    out[i] = set1(0.0f);
    value[i] = load(v + i * kLanes);
  }
  for (int j = 0; j < n; ++j, s += stride)
    for (int i = 0; i < NV; ++i) {
      F16 x = load(s + i * kLanes);
      out[i] = fma(x, set1(r[j]), out[i]);
      store(s + i * kLanes, fma(value[i], set1(k[j]), mul(x, set1(w[j]))));
    }
  for (int i = 0; i < NV; ++i) store(y + i * kLanes, out[i]);
}

// y plus the bonus of the current token, through GroupNorm, times the gate.
inline void finish_wkv6(const Wkv6Op& op, int channel, int padded, float* tmp, const float* r, const float* k, const float* v,
                        const float* g, float* y, float* out) {
  auto vec = [&](const float* all, int i) { return padded_view(all + channel, op.size, padded, tmp + i * padded); };
  const float *bonus = vec(op.bonus, 0), *weight = vec(op.norm_weight, 1), *bias = vec(op.norm_bias, 2);
  F16 products = set1(0.0f);
  for (int i = 0; i < padded; i += kLanes) products = fma(mul(load(r + i), load(k + i)), load(bonus + i), products);
  F16 amount = set1(sum(products));
  for (int i = 0; i < padded; i += kLanes) store(y + i, fma(amount, load(v + i), load(y + i)));
  float* normed = tmp + 3 * padded;
  norm_row(y, op.size, weight, bias, op.eps, normed);
  if (g)
    for (int i = 0; i < padded; i += kLanes) store(normed + i, mul(load(normed + i), load(g + i)));
  for (int i = 0; i < op.size; ++i) out[i] = normed[i];
}

// One token of one head. `tmp` has room for 10 vectors.
inline void wkv6_token(const Wkv6Op& op, std::size_t row, int channel, int padded, float* s, float* tmp, float* out) {
  int n = op.size;
  auto at = [&](const Buffer* b, int i) {
    return padded_view(b->f32 + row * b->f32_stride + channel, n, padded, tmp + i * padded);
  };
  const float *r = at(op.r, 0), *k = at(op.k, 1), *v = at(op.v, 2), *g = op.g ? at(op.g, 3) : nullptr;
  const float* w = op.w ? op.w->f32 + row * op.w->f32_stride + channel : op.decay + channel;
  float* y = tmp + 4 * padded;
  int i = 0;
  for (; i + kValueVectors * kLanes <= padded; i += kValueVectors * kLanes)
    wkv6_rows<kValueVectors>(s + i, n, padded, w, k, r, v + i, y + i);
  for (; i < padded; i += kLanes) wkv6_rows<1>(s + i, n, padded, w, k, r, v + i, y + i);
  finish_wkv6(op, channel, padded, tmp + 5 * padded, r, k, v, g, y, out);
}

// A head's rows lie a whole row apart, which the hardware does not foresee.
inline void prefetch_wkv6(const Wkv6Op& op, std::size_t row, int channel) {
  const Buffer* inputs[] = {op.r, op.k, op.v, op.w, op.g};
  for (const Buffer* b : inputs) {
    if (!b) continue;
    const float* start = b->f32 + row * b->f32_stride + channel;
    for (int i = 0; i < op.size; i += kLanes) __builtin_prefetch(start + i);
  }
}

void wkv6(const Wkv6Op& op, const Step& step, int unit, float* scratch) {
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
      if (row + 1 < end) prefetch_wkv6(op, (std::size_t)row + 1, channel);
      wkv6_token(op, (std::size_t)row, channel, padded, state + (std::size_t)j * n * padded, tmp, out + j * n);
    }
    for (int c = 0; c < columns; c += kBlock) {
      F16 v[4];
      for (int i = 0; i < 4; ++i) v[i] = load(out + c + i * kLanes);
      emit(*op.out, (std::size_t)row, head * n + c, v);
    }
  }
}
