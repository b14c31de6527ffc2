// RWKV-4 time mixing, channel by channel. Part of kernels.inl.hpp.
//
// The state is a numerator, a denominator and the logarithm of the scale that both are divided by: the largest exponent
// seen, so that no exponential overflows.

struct Wkv4State {
  F16 numerator, denominator, scale;
};

// y of one token, from the state before it.
inline F16 wkv4_read(const Wkv4State& s, F16 k, F16 v, F16 first) {
  F16 bonus = add(first, k), top = max(s.scale, bonus);
  F16 before = exp(sub(s.scale, top)), now = exp(sub(bonus, top));
  return div(fma(before, s.numerator, mul(now, v)), fma(before, s.denominator, now));
}

inline void wkv4_update(Wkv4State& s, F16 k, F16 v, F16 decay) {
  F16 decayed = add(s.scale, decay), top = max(decayed, k);
  F16 before = exp(sub(decayed, top)), now = exp(sub(k, top));
  s.numerator = fma(before, s.numerator, mul(now, v));
  s.denominator = fma(before, s.denominator, now);
  s.scale = top;
}

// Rows of the state are padded to 16 with zeros, which no channel is.
inline void store_channels(float* p, F16 v, int channels) {
  float lane[kLanes];
  store(lane, v);
  for (int i = 0; i < kLanes && i < channels; ++i) p[i] = lane[i];
}

void wkv4(const Wkv4Op& op, const Step& step, int unit) {
  int width = op.out->width, stride = round_up(width, kLanes), blocks = ceil_div(width, kBlock);
  int sequence = unit / blocks, column = unit % blocks * kBlock;
  int vectors = min_int(kBlock / kLanes, (stride - column) / kLanes);
  float* state = slot_of(step, sequence) + op.state_offset + column;
  Wkv4State s[kBlock / kLanes];
  F16 y[kBlock / kLanes];
  for (int i = 0; i < kBlock / kLanes; ++i) y[i] = set1(0.0f);
  for (int i = 0; i < vectors; ++i) {
    const float* p = state + i * kLanes;
    s[i] = {load(p), load(p + stride), load(p + 2 * (std::size_t)stride)};
  }
  for (int row = step.seq_starts[sequence]; row < step.seq_starts[sequence + 1]; ++row) {
    auto at = [&](const Buffer* b, int i) { return load(b->f32 + (std::size_t)row * b->f32_stride + column + i * kLanes); };
    for (int i = 0; i < vectors; ++i) {
      F16 k = at(op.k, i), v = at(op.v, i);
      y[i] = mul(at(op.r, i), wkv4_read(s[i], k, v, load(op.first + column + i * kLanes)));
      wkv4_update(s[i], k, v, load(op.decay + column + i * kLanes));
    }
    emit(*op.out, (std::size_t)row, column, y);
  }
  for (int i = 0; i < vectors; ++i) {
    float* p = state + i * kLanes;
    int channels = width - column - i * kLanes;
    store_channels(p, s[i].numerator, channels);
    store_channels(p + stride, s[i].denominator, channels);
    store_channels(p + 2 * (std::size_t)stride, s[i].scale, channels);
  }
}
