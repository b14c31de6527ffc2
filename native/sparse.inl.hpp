// Weights kept by K: 64 columns in a unit, a line of them for each K (of int4, for two). One row whose activations are
// mostly zero reads the lines that count; several rows get them as panels, piece by piece. Part of linear.inl.hpp.
//
// A line's values lie so that interleaving lines gives panels: see packing.cpp. What is skipped would add zero: the
// results are those of the panels, to the last bit (of finite weights).

constexpr int kDensePercent = 70;  // from here on reading all lines in a row is faster

// Lines from `lines` on, as many as `k` needs, to panels of `panel_bytes`.
inline void widen_lines(Format format, const std::uint8_t* lines, int k, std::uint8_t* panels, std::size_t panel_bytes) {
  constexpr int step = 4 * kGroupBytes;  // the lines of a group
  for (int i = 0; i < k; i += group_k(format), lines += step, panels += kGroupBytes) {
    I16 groups[4];
    if (format == Format::kFloat32)
      for (int p = 0; p < 4; ++p) groups[p] = load_group(lines + p * kGroupBytes);
    else if (format == Format::kBfloat16) interleave_words(lines, lines + 128, groups);
    else interleave_bytes(lines, lines + 64, lines + 128, lines + 192, groups);
    for (int p = 0; p < 4; ++p) store_group(panels + p * panel_bytes, groups[p]);
  }
}

// The lines that meet one row's activations, in groups as the multiply-adds take them: four lines of bytes, two of
// bfloat16 or float32. A group's line may stand in for one that is not there: its activation is zero. The same for all
// columns, so each thread lists them once.
inline void list_int8(const LinearOp& op, SparseLines& list) {
  const Buffer& x = *op.x;
  for (int block = 0; block < x.padded / kBlock; ++block) {
    list.starts[block] = list.count;
    std::int32_t q[4] = {};
    int filled = 0;
    for (std::uint64_t left = x.mask[block]; left; left &= left - 1) {
      int k = block * kBlock + __builtin_ctzll(left);
      SparseGroup& group = list.groups[list.count];
      if (filled == 0)
        for (int i = 0; i < 4; ++i) group.line[i] = (std::uint32_t)k * 64;
      group.line[filled] = (std::uint32_t)k * 64;
      q[filled++] = Int8Format::act(x.int8, k);
      Int8Format::store_acts(group.act, q);
      if (filled < 4) continue;
      ++list.count;
      filled = q[0] = q[1] = q[2] = q[3] = 0;
    }
    list.count += filled > 0;
  }
  list.starts[x.padded / kBlock] = list.count;
}

// A line of int4 is K 8 g + j and the K four after it.
inline void list_int4(const LinearOp& op, SparseLines& list) {
  const Buffer& x = *op.x;
  for (int half = 0; half < x.padded / kInt4Block; ++half) {
    list.starts[half] = list.count;
    std::uint64_t mask = x.mask[half / 2] >> (half % 2 * kInt4Block);
    std::int32_t low[4] = {}, high[4] = {};
    int filled = 0;
    for (std::uint64_t left = (mask | mask >> 4) & 0x0f0f0f0fu; left; left &= left - 1) {
      int at = __builtin_ctzll(left), k = half * kInt4Block + at;
      std::uint32_t line = (std::uint32_t)(half * 16 + at / 8 * 4 + at % 8) * 64;
      SparseGroup& group = list.groups[list.count];
      if (filled == 0)
        for (int i = 0; i < 4; ++i) group.line[i] = line;
      group.line[filled] = line;
      low[filled] = (std::int8_t)x.int4[k];
      high[filled++] = (std::int8_t)x.int4[k + 4];
      store_int32(group.act, packed_bytes(low));
      store_int32(group.act + 4, packed_bytes(high));
      if (filled < 4) continue;
      ++list.count;
      filled = 0;
      for (int i = 0; i < 4; ++i) low[i] = high[i] = 0;
    }
    list.count += filled > 0;
  }
  list.starts[x.padded / kInt4Block] = list.count;
}

// Pairs of neighbours, as panels have them; `starts` for each 32 K.
inline void list_pairs(const LinearOp& op, int line_bytes, const std::uint8_t* acts, int act_bytes, SparseLines& list) {
  const Buffer& x = *op.x;
  for (int half = 0; half < x.padded / 32; ++half) {
    list.starts[half] = list.count;
    std::uint64_t mask = x.mask[half / 2] >> (half % 2 * 32) & 0xffffffffu;
    for (std::uint64_t left = (mask | mask >> 1) & 0x55555555u; left; left &= left - 1) {
      int at = __builtin_ctzll(left), k = half * 32 + at;
      bool even = mask >> at & 1, odd = mask >> at & 2;
      SparseGroup& group = list.groups[list.count++];
      group.line[0] = (std::uint32_t)(even ? k : k + 1) * (std::uint32_t)line_bytes;
      group.line[1] = (std::uint32_t)(odd ? k + 1 : k) * (std::uint32_t)line_bytes;
      __builtin_memcpy(group.act, acts + (std::size_t)k * act_bytes, 2 * (std::size_t)act_bytes);
    }
  }
  list.starts[x.padded / 32] = list.count;
}

inline void list_lines(const LinearOp& op, SparseLines& list) {
  int blocks = op.x->padded / kBlock, active = 0;
  for (int block = 0; block < blocks; ++block) active += __builtin_popcountll(op.x->mask[block]);
  list.dense = active * 100 > kDensePercent * blocks * kBlock;
  list.count = 0;
  if (list.dense) return;
  switch (op.weight->format) {
    case Format::kFloat32: return list_pairs(op, 256, (const std::uint8_t*)op.x->f32, 4, list);
    case Format::kBfloat16: return list_pairs(op, 128, op.x->bf16, Bf16Format::act_bytes, list);
    case Format::kInt8: return list_int8(op, list);
    case Format::kInt4: return list_int4(op, list);
  }
}

// Asks for the lines of a group some groups away.
template <int Lines, int Bytes>
inline void prefetch_group(const SparseLines& list, const std::uint8_t* lines, int group) {
  constexpr int ahead = 4096 / (Lines * Bytes);
  if (group + ahead >= list.count) return;
  for (int i = 0; i < Lines; ++i)
    for (int b = 0; b < Bytes; b += kGroupBytes) __builtin_prefetch(lines + list.groups[group + ahead].line[i] + b);
}

inline void float32_row(const SparseLines& list, const std::uint8_t* lines, float* out) {
  F16 acc[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
  for (int g = 0; g < list.count; ++g) {
    prefetch_group<2, 256>(list, lines, g);
    for (int i = 0; i < 2; ++i)
      for (int p = 0; p < 4; ++p) {
        auto weight = F32Format::weight(load_group(lines + list.groups[g].line[i] + p * kGroupBytes), 0);
        acc[p] = F32Format::mac(acc[p], weight, list.groups[g].act + 4 * i, 0);
      }
  }
  for (int p = 0; p < 4; ++p) store(out + p * kLanes, acc[p]);
}

inline void load_pair(const SparseLines& list, const std::uint8_t* lines, int g, I16* weights) {
  prefetch_group<2, 128>(list, lines, g);
  interleave_words(lines + list.groups[g].line[0], lines + list.groups[g].line[1], weights);
}

#if defined(WINGBEAT_AMX)
// As bf16_row: even and odd K apart in each 32 of them.
inline void bfloat16_row(const SparseLines& list, const std::uint8_t* lines, int halves, float* out) {
  const __m512i odd_half = set1i((int)0xffff0000);
  F16 acc[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
  for (int half = 0; half < halves; ++half) {
    F16 even[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)}, odd[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
    for (int g = list.starts[half]; g < list.starts[half + 1]; ++g) {
      I16 weights[4];
      load_pair(list, lines, g, weights);
      __m512i both = set1i(load_int32(list.groups[g].act));
      F16 a_even = as_float(_mm512_slli_epi32(both, 16)), a_odd = as_float(_mm512_and_si512(both, odd_half));
      for (int p = 0; p < 4; ++p) {
        even[p] = fma(as_float(_mm512_slli_epi32(weights[p], 16)), a_even, even[p]);
        odd[p] = fma(as_float(_mm512_and_si512(weights[p], odd_half)), a_odd, odd[p]);
      }
    }
    for (int p = 0; p < 4; ++p) acc[p] = add(acc[p], add(even[p], odd[p]));
  }
  for (int p = 0; p < 4; ++p) store(out + p * kLanes, acc[p]);
}
#else
inline void bfloat16_row(const SparseLines& list, const std::uint8_t* lines, int, float* out) {
  F16 acc[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
  for (int g = 0; g < list.count; ++g) {
    I16 weights[4];
    load_pair(list, lines, g, weights);
    for (int phase = 0; phase < Bf16Format::phases; ++phase)
      for (int p = 0; p < 4; ++p)
        acc[p] = Bf16Format::mac(acc[p], Bf16Format::weight(weights[p], phase), list.groups[g].act, phase);
  }
  for (int p = 0; p < 4; ++p) store(out + p * kLanes, acc[p]);
}
#endif

inline void load_four(const SparseLines& list, const std::uint8_t* lines, int g, I16* weights) {
  prefetch_group<4, 64>(list, lines, g);
  const std::uint32_t* at = list.groups[g].line;
  interleave_bytes(lines + at[0], lines + at[1], lines + at[2], lines + at[3], weights);
}

// Adds a block's sums, times their scales, to the product.
inline void add_block(const Tile& t, const I16* sums, int block, int act_block) {
  F16 act_scale = set1(t.act_scales[act_block]);
  for (int p = 0; p < 4; ++p) {
    F16 scale = load_bf16(t.scales + (std::size_t)p * t.scale_stride + (std::size_t)block * kLanes);
    float* o = t.out + p * kLanes;
    store(o, fma(to_float(sums[p]), mul(scale, act_scale), load(o)));
  }
}

// Which four lines meet does not matter to a sum of integers.
inline void int8_row(const SparseLines& list, const std::uint8_t* lines, const Tile& t) {
  for (int p = 0; p < 4; ++p) store(t.out + p * kLanes, set1(0.0f));
  for (int block = 0; block < t.blocks; ++block) {
    if (list.starts[block] == list.starts[block + 1]) continue;
    I16 acc[4];
    for (int p = 0; p < 4; ++p) acc[p] = set1i(t.act_offsets[block]);
    for (int g = list.starts[block]; g < list.starts[block + 1]; ++g) {
      I16 weights[4];
      load_four(list, lines, g, weights);
      for (int phase = 0; phase < Int8Format::phases; ++phase)
        for (int p = 0; p < 4; ++p)
          acc[p] = Int8Format::mac(acc[p], Int8Format::weight(weights[p], phase), list.groups[g].act, phase);
    }
    add_block(t, acc, block, block);
  }
}

inline void int4_row(const SparseLines& list, const std::uint8_t* lines, const Tile& t) {
  for (int p = 0; p < 4; ++p) store(t.out + p * kLanes, set1(0.0f));
  for (int half = 0; half < 2 * t.blocks; ++half) {
    if (list.starts[half] == list.starts[half + 1]) continue;
    I16 acc[4];
    for (int p = 0; p < 4; ++p) acc[p] = Int4Format::start(t.act_offsets[half]);
    for (int g = list.starts[half]; g < list.starts[half + 1]; ++g) {
      I16 weights[4];
      load_four(list, lines, g, weights);
      for (int phase = 0; phase < 2; ++phase)
        for (int p = 0; p < 4; ++p) acc[p] = Int4Format::mac(acc[p], nibbles(weights[p], phase), list.groups[g].act + 4 * phase);
    }
    for (int p = 0; p < 4; ++p) acc[p] = Int4Format::finish(acc[p], t.act_offsets[half]);
    add_block(t, acc, half, half / 2);
  }
}

// One row by 64 columns, whose lines begin at `t.panels`.
inline void sparse_row(Format format, const SparseLines& list, const Tile& t) {
  switch (format) {
    case Format::kFloat32: return float32_row(list, t.panels, t.out);
    case Format::kBfloat16: return bfloat16_row(list, t.panels, 2 * t.blocks, t.out);
    case Format::kInt8: return int8_row(list, t.panels, t);
    case Format::kInt4: return int4_row(list, t.panels, t);
  }
}
