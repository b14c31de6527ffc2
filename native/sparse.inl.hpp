// Weights kept by K: a line for each K holds it for the 64 columns of a unit, of int4 for those of two. One row whose
// activations are mostly zero reads the lines that count; a few rows of int8 read all, and more rows get them as panels,
// piece by piece. Part of linear.inl.hpp.
//
// A line's values lie so that interleaving lines gives panels: see packing.cpp. What is skipped would add zero: the
// results are those of the panels, to the last bit (of finite weights).

constexpr int kAheadBytes = 4096;  // how far ahead lines are asked for
constexpr int kStreamAheadBytes = 2048;  // the same in each of the four streams where all are read

// Bytes from a line to that of the next K.
constexpr int line_bytes(Format format) { return format == Format::kFloat32 ? 256 : format == Format::kBfloat16 ? 128 : 64; }

// Whether the values of these columns are the upper halves of a line's bytes.
inline bool upper_half(const PackedWeight& w, int column) { return w.format == Format::kInt4 && column / kBlock % 2; }

inline const std::uint8_t* lines_of(const PackedWeight& w, int column) {
  int columns = line_columns(w.format);
  return w.data + (std::size_t)(column / columns * (columns / kLanes)) * w.panel_bytes;
}

// Bytes from the lines of a K to those of the next, in another stream.
inline std::size_t stream_bytes(const PackedWeight& w) { return (std::size_t)(w.k_padded / 4) * line_bytes(w.format); }

inline void load_four(const std::uint8_t* a, const std::uint8_t* b, const std::uint8_t* c, const std::uint8_t* d, I16* groups) {
  interleave_bytes(load_group(a), load_group(b), load_group(c), load_group(d), groups);
}

// Eight lines of int4 to four groups: a K in the lower half of a byte, the K four after it in the upper.
inline void load_eight(const std::uint8_t* lines, std::size_t stream, bool upper, I16* groups) {
  I16 pairs[4];
  for (int j = 0; j < 4; ++j, lines += stream)
    pairs[j] = join_nibbles(nibbles(load_group(lines), upper), nibbles(load_group(lines + 64), upper));
  interleave_bytes(pairs[0], pairs[1], pairs[2], pairs[3], groups);
}

// Asks for lines of four K, or of their next 64 bytes.
inline void prefetch_streams(const std::uint8_t* lines, std::size_t stream) {
  for (int j = 0; j < 4; ++j) __builtin_prefetch(lines + (std::size_t)j * stream + kStreamAheadBytes);
}

// Lines of `k` K of int8, from those whose first stream is at `lines`, to panels of `panel_bytes`: of signed bytes, or as
// they are.
template <bool Signed>
[[gnu::always_inline]] inline void widen_int8(const std::uint8_t* lines, std::size_t stream, int k, std::uint8_t* panels, std::size_t panel_bytes) {
#pragma GCC unroll 4
  for (int i = 0; i < k; i += 4, lines += kGroupBytes, panels += kGroupBytes) {
    prefetch_streams(lines, stream);
    I16 groups[4];
    load_four(lines, lines + stream, lines + 2 * stream, lines + 3 * stream, groups);
    for (int p = 0; p < 4; ++p) store_group(panels + p * panel_bytes, Signed ? other_sign(groups[p]) : groups[p]);
  }
}

// A call from among a tile's sums would move all of them to memory and back.
[[gnu::always_inline]] inline void LineFeed::next() {
  if (left == 0) return;
  left -= 16;
  widen_int8<false>(lines, stream, 16, panels, panel_bytes);
  lines += 4 * kGroupBytes;
  panels += 4 * kGroupBytes;
}

// The same of every format but those of levels, as they are.
inline void widen_lines(const PackedWeight& w, bool upper, const std::uint8_t* lines, int k, std::uint8_t* panels, std::size_t panel_bytes) {
  std::size_t stream = stream_bytes(w);
  if (w.format == Format::kInt8) return widen_int8<false>(lines, stream, k, panels, panel_bytes);
  auto put = [&](const I16* groups) {
    for (int p = 0; p < 4; ++p) store_group(panels + p * panel_bytes, groups[p]);
    panels += kGroupBytes;
  };
  int together = w.format == Format::kInt4 ? 8 : 4, step = together / 4 * line_bytes(w.format);
  for (int i = 0; i < k; i += together, lines += step) {
    for (int b = 0; b < step; b += kGroupBytes) prefetch_streams(lines + b, stream);
    I16 groups[4];
    switch (w.format) {
      case Format::kFloat32:
        for (int j = 0; j < 4; ++j) {
          for (int p = 0; p < 4; ++p) groups[p] = load_group(lines + (std::size_t)j * stream + p * kGroupBytes);
          put(groups);
        }
        break;
      case Format::kBfloat16:
        for (int j = 0; j < 4; j += 2) {
          const std::uint8_t *even = lines + (std::size_t)j * stream, *odd = even + stream;
          interleave_words(load_group(even), load_group(odd), groups);
          interleave_words(load_group(even + 64), load_group(odd + 64), groups + 2);
          put(groups);
        }
        break;
      case Format::kInt4:
        load_eight(lines, stream, upper, groups);
        put(groups);
        break;
      case Format::kInt8:
      case Format::kNf4:
      case Format::kSf4: return;  // done above, or never kept by K
    }
  }
}

// ---- the lines that meet one row's activations: the same for all columns, so each thread lists them once ----

// `entry(n, k)` stores what the n-th line meets, zero for k < 0: entries come in multiples of `together`, for each
// `block` of K apart.
template <class Entry>
inline void list_each(const Buffer& x, Format format, int block, int together, SparseLines& list, Entry entry) {
  int n = 0;
  for (int first = 0; first < x.padded; first += block) {
    list.starts[first / block] = n;
    std::uint64_t left = x.mask[first / kBlock] >> first % kBlock;
    if (block == 32) left &= 0xffffffffu;
    for (; left; left &= left - 1) {
      int k = first + __builtin_ctzll(left);
      list.lines[n] = (std::uint32_t)(line_place(k, x.padded) * line_bytes(format));
      entry(n++, k);
    }
    for (; n % together; ++n) {
      list.lines[n] = list.lines[n - 1];
      entry(n, -1);
    }
  }
  list.starts[x.padded / block] = list.count = n;
}

inline void list_int8(const Buffer& x, SparseLines& list) {
  auto store_act = [&](int n, int k) { Int8Format::store_one(list.acts, n, k < 0 ? 0 : Int8Format::act(x.int8, k)); };
  list_each(x, Format::kInt8, kBlock, 4, list, store_act);
}

inline void list_int4(const Buffer& x, SparseLines& list) {
  list_each(x, Format::kInt4, kInt4Block, 4, list, [&](int n, int k) { list.acts[n] = k < 0 ? 0 : x.int4[k]; });
}

inline void list_float32(const Buffer& x, SparseLines& list) {
  list_each(x, Format::kFloat32, kBlock, 1, list, [&](int n, int k) { ((float*)list.acts)[n] = x.f32[k]; });
}

#if defined(WINGBEAT_AMX)
// Even K and odd K are summed apart in each 32 of them: each line meets its activation and a zero.
inline void list_bfloat16(const Buffer& x, SparseLines& list) {
  list_each(x, Format::kBfloat16, 32, 1, list, [&](int n, int k) {
    std::uint32_t act[2] = {};
    act[k % 2] = (std::uint32_t)((const std::uint16_t*)x.bf16)[k] << 16;
    __builtin_memcpy(list.acts + 8 * n, act, 8);
  });
}
#elif defined(WINGBEAT_BF16)
// Pairs of neighbours, as panels have them. A line may stand in for its neighbour, which meets zero.
inline void list_bfloat16(const Buffer& x, SparseLines& list) {
  int n = 0;
  for (int block = 0; block < x.padded / kBlock; ++block) {
    std::uint64_t mask = x.mask[block];
    for (std::uint64_t left = (mask | mask >> 1) & 0x5555555555555555u; left; left &= left - 1, n += 2) {
      int at = __builtin_ctzll(left), k = block * kBlock + at;
      list.lines[n] = (std::uint32_t)line_place(k + !(mask >> at & 1), x.padded) * 128;
      list.lines[n + 1] = (std::uint32_t)line_place(k + (int)(mask >> at >> 1 & 1), x.padded) * 128;
      __builtin_memcpy(list.acts + 2 * n, x.bf16 + 2 * k, 4);
    }
  }
  list.count = n;
}
#else
inline void list_bfloat16(const Buffer& x, SparseLines& list) {
  list_each(x, Format::kBfloat16, kBlock, 1, list, [&](int n, int k) { ((float*)list.acts)[n] = ((const float*)x.bf16)[k]; });
}
#endif

inline void list_lines(const LinearOp& op, SparseLines& list) {
  switch (op.weight->format) {
    case Format::kFloat32: list_float32(*op.x, list); break;
    case Format::kBfloat16: list_bfloat16(*op.x, list); break;
    case Format::kInt8: list_int8(*op.x, list); break;
    case Format::kInt4: list_int4(*op.x, list); break;
    case Format::kNf4:
    case Format::kSf4: break;
  }
  for (int i = 0; i < kLinesAhead && list.count; ++i) list.lines[list.count + i] = list.lines[i];  // of the next unit
}

// ---- one row by 64 columns ----

struct SparseTile {
  const std::uint8_t *lines, *next;  // of this unit, and of the one that comes next
  float* out;
  int blocks;  // of int8 and int4: see Tile
  const std::uint16_t* scales;
  std::size_t scale_stride;
  const float* act_scales;
  const std::int32_t* act_offsets;
};

// Asks for what the lines from the i-th on need in a moment. Past the last line these are those of the next unit.
template <int Count, int Bytes>
inline void prefetch_lines(const SparseLines& list, const SparseTile& t, int i) {
  constexpr int ahead = kAheadBytes / Bytes;
  static_assert(ahead <= kLinesAhead);
  i += ahead;
  const std::uint8_t* from = i < list.count ? t.lines : t.next;
  for (int j = 0; j < Count; ++j)
    for (int b = 0; b < Bytes; b += kGroupBytes) __builtin_prefetch(from + list.lines[i + j] + b);
}

inline void store_row(const SparseTile& t, const F16* acc) {
  for (int p = 0; p < 4; ++p) store(t.out + p * kLanes, acc[p]);
}

// 64 words as the upper halves of four registers: bfloat16 as float32.
inline void load_words(const std::uint8_t* line, I16* words) {
  interleave_words(set1i(0), load_group(line), words);
  interleave_words(set1i(0), load_group(line + 64), words + 2);
}

inline void float32_row(const SparseLines& list, const SparseTile& t) {
  F16 acc[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
  for (int i = 0; i < list.count; ++i) {
    prefetch_lines<1, 256>(list, t, i);
    F16 act = set1(((const float*)list.acts)[i]);
    for (int p = 0; p < 4; ++p) acc[p] = fma(act, as_float(load_group(t.lines + list.lines[i] + p * kGroupBytes)), acc[p]);
  }
  store_row(t, acc);
}

#if defined(WINGBEAT_AMX)
inline void bfloat16_row(const SparseLines& list, const SparseTile& t) {  // as bf16_row
  F16 acc[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
  for (int half = 0; half < 2 * t.blocks; ++half) {
    F16 even[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)}, odd[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
    for (int i = list.starts[half]; i < list.starts[half + 1]; ++i) {
      prefetch_lines<1, 128>(list, t, i);
      I16 words[4];
      load_words(t.lines + list.lines[i], words);
      const float* acts = (const float*)list.acts + 2 * i;
      for (int p = 0; p < 4; ++p) {
        even[p] = fma(set1(acts[0]), as_float(words[p]), even[p]);
        odd[p] = fma(set1(acts[1]), as_float(words[p]), odd[p]);
      }
    }
    for (int p = 0; p < 4; ++p) acc[p] = add(acc[p], add(even[p], odd[p]));
  }
  store_row(t, acc);
}
#elif defined(WINGBEAT_BF16)
inline void bfloat16_row(const SparseLines& list, const SparseTile& t) {
  F16 acc[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
  for (int i = 0; i < list.count; i += 2) {
    prefetch_lines<2, 128>(list, t, i);
    const std::uint8_t *even = t.lines + list.lines[i], *odd = t.lines + list.lines[i + 1];
    I16 pairs[4];
    interleave_words(load_group(even), load_group(odd), pairs);
    interleave_words(load_group(even + 64), load_group(odd + 64), pairs + 2);
    for (int p = 0; p < 4; ++p) acc[p] = Bf16Format::mac(acc[p], Bf16Format::weight(pairs[p], 0), list.acts + 2 * i, 0);
  }
  store_row(t, acc);
}
#else
inline void bfloat16_row(const SparseLines& list, const SparseTile& t) {
  F16 acc[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
  for (int i = 0; i < list.count; ++i) {
    prefetch_lines<1, 128>(list, t, i);
    I16 words[4];
    load_words(t.lines + list.lines[i], words);
    F16 act = set1(((const float*)list.acts)[i]);
    for (int p = 0; p < 4; ++p) acc[p] = fma(act, as_float(words[p]), acc[p]);
  }
  store_row(t, acc);
}
#endif

// Adds a block's sums, times their scales, to the product; asks for the scales of the next unit.
inline void add_block(const SparseTile& t, const I16* sums, int block, float act_scale, F16* product) {
  for (int p = 0; p < 4; ++p) {
    const std::uint16_t* scales = t.scales + (std::size_t)p * t.scale_stride + (std::size_t)block * kLanes;
    if (block % 2 == 0) __builtin_prefetch(scales + 4 * t.scale_stride);
    product[p] = fma(to_float(sums[p]), mul(load_bf16(scales), set1(act_scale)), product[p]);
  }
}

// Which four lines meet does not matter to a sum of integers.
inline void int8_row(const SparseLines& list, const SparseTile& t) {
  constexpr int second = Int8Format::phases == 2 ? 2 : 1, third = 3 - second;  // see store_pairs
  F16 product[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
  for (int block = 0; block < t.blocks; ++block) {
    I16 acc[4];
    for (int p = 0; p < 4; ++p) acc[p] = set1i(t.act_offsets[block]);
    for (int i = list.starts[block]; i < list.starts[block + 1]; i += 4) {
      prefetch_lines<4, 64>(list, t, i);
      const std::uint32_t* at = list.lines + i;
      I16 weights[4];
      load_four(t.lines + at[0], t.lines + at[second], t.lines + at[third], t.lines + at[3], weights);
      for (int phase = 0; phase < Int8Format::phases; ++phase)
        for (int p = 0; p < 4; ++p)
          acc[p] = Int8Format::mac(acc[p], Int8Format::weight(weights[p], phase), list.acts + i * Int8Format::act_bytes, phase);
    }
    add_block(t, acc, block, t.act_scales[block], product);
  }
  store_row(t, product);
}

template <bool Upper>
inline void int4_row(const SparseLines& list, const SparseTile& t) {
  F16 product[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
  for (int half = 0; half < 2 * t.blocks; ++half) {
    I16 acc[4];
    for (int p = 0; p < 4; ++p) acc[p] = Int4Format::start(t.act_offsets[half]);
    for (int i = list.starts[half]; i < list.starts[half + 1]; i += 4) {
      prefetch_lines<4, 64>(list, t, i);
      const std::uint32_t* at = list.lines + i;
      I16 weights[4];
      load_four(t.lines + at[0], t.lines + at[1], t.lines + at[2], t.lines + at[3], weights);
      for (int p = 0; p < 4; ++p) acc[p] = Int4Format::mac(acc[p], nibbles(weights[p], Upper), list.acts + i);
    }
    for (int p = 0; p < 4; ++p) acc[p] = Int4Format::finish(acc[p], t.act_offsets[half]);
    add_block(t, acc, half, t.act_scales[half / 2], product);
  }
  store_row(t, product);
}

inline void sparse_row(const LinearOp& op, const SparseLines& list, int column, float* product) {
  const PackedWeight& w = *op.weight;
  Tile dense{};
  place_weights(w, column, 0, dense);
  place_activations(*op.x, w.format, 0, 0, dense);
  SparseTile t{lines_of(w, column), lines_of(w, column + kBlock), product,         dense.blocks,
               dense.scales,        dense.scale_stride,           dense.act_scales, dense.act_offsets};
  switch (w.format) {
    case Format::kFloat32: return float32_row(list, t);
    case Format::kBfloat16: return bfloat16_row(list, t);
    case Format::kInt8: return int8_row(list, t);
    case Format::kInt4: return upper_half(w, column) ? int4_row<true>(list, t) : int4_row<false>(list, t);
    case Format::kNf4:
    case Format::kSf4: return;
  }
}
