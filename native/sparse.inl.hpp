// Weights kept by K: 64 columns in a unit, a line of them for each K (of int4, for two). One row whose activations are
// mostly zero reads the lines that count; several rows get them as panels, piece by piece. Part of linear.inl.hpp.
//
// A line's values lie so that interleaving lines gives panels: see packing.cpp. What is skipped would add zero: the
// results are those of the panels, to the last bit (of finite weights).

alignas(64) const std::uint8_t kNoLine[128] = {};

// Lines from `lines` on, as many as `k` needs, to panels of `panel_bytes`. What comes after them is asked for.
inline void widen_lines(Format format, const std::uint8_t* lines, int k, std::uint8_t* panels, std::size_t panel_bytes) {
  constexpr int step = 4 * kGroupBytes;  // the lines of a group
  for (int i = 0; i < k; i += group_k(format), lines += step, panels += kGroupBytes) {
    for (int line = 0; line < step; line += kGroupBytes) __builtin_prefetch(lines + kPieceBytes + line);
    I16 groups[4];
    if (format == Format::kFloat32)
      for (int p = 0; p < 4; ++p) groups[p] = load_group(lines + p * kGroupBytes);
    else if (format == Format::kBfloat16) interleave_words(lines, lines + 128, groups);
    else interleave_bytes(lines, lines + 64, lines + 128, lines + 192, groups);
    for (int p = 0; p < 4; ++p) store_group(panels + p * panel_bytes, groups[p]);
  }
}

// One row by 64 columns. `mask` has a bit for each K whose activation is not zero, 64 to a block.
struct SparseRow {
  const std::uint8_t* lines;
  const std::uint8_t* acts;
  const std::uint64_t* mask;
  int blocks;  // of 64 K
  float* out;  // [64]
  // int8 and int4, as in Tile
  const std::uint16_t* scales;
  std::size_t scale_stride;
  const float* act_scales;
};

// Asks for the lines of a block, `count` of `bytes`, that have a bit.
inline void prefetch_lines(const SparseRow& s, int block, int count, int bytes, std::uint64_t lines) {
  const std::uint8_t* at = s.lines + (std::size_t)block * count * bytes;
  for (; lines; lines &= lines - 1) {
    const std::uint8_t* line = at + __builtin_ctzll(lines) * bytes;
    for (int i = 0; i < bytes; i += kGroupBytes) __builtin_prefetch(line + i);
  }
}

constexpr int kBlocksAhead = 2;

inline std::uint64_t mask_ahead(const SparseRow& s, int block) {
  return block + kBlocksAhead < s.blocks ? s.mask[block + kBlocksAhead] : 0;
}

inline void float32_row(const SparseRow& s) {
  F16 acc[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
  for (int block = 0; block < s.blocks; ++block) {
    prefetch_lines(s, block + kBlocksAhead, 64, 256, mask_ahead(s, block));
    for (std::uint64_t left = s.mask[block]; left; left &= left - 1) {
      int k = block * kBlock + __builtin_ctzll(left);
      for (int p = 0; p < 4; ++p)
        acc[p] = F32Format::mac(acc[p], F32Format::weight(load_group(s.lines + (std::size_t)k * 256 + p * kGroupBytes), 0), s.acts + 4 * k, 0);
    }
  }
  for (int p = 0; p < 4; ++p) store(s.out + p * kLanes, acc[p]);
}

// A pair of lines as groups of four panels; a line whose activation is zero is not read.
inline void load_pair(const SparseRow& s, int k, unsigned bits, I16* groups) {
  const std::uint8_t* line = s.lines + (std::size_t)k * 128;
  interleave_words(bits & 1 ? line : kNoLine, bits & 2 ? line + 128 : kNoLine, groups);
}

inline std::uint64_t pairs_of(std::uint64_t mask) { return (mask | mask >> 1) & 0x5555555555555555u; }

#if defined(WINGBEAT_AMX)
// As bf16_row: even and odd K apart in each 32 of them.
inline void bfloat16_row(const SparseRow& s) {
  const __m512i odd_half = set1i((int)0xffff0000);
  F16 acc[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
  I16 groups[4];
  for (int block = 0; block < 2 * s.blocks; ++block) {
    if (block % 2 == 0) prefetch_lines(s, block / 2 + kBlocksAhead, 64, 128, mask_ahead(s, block / 2));
    std::uint64_t mask = s.mask[block / 2] >> (block % 2 * 32) & 0xffffffffu;
    F16 even[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)}, odd[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
    for (std::uint64_t left = pairs_of(mask); left; left &= left - 1) {
      int i = __builtin_ctzll(left), k = block * 32 + i;
      load_pair(s, k, (unsigned)(mask >> i) & 3u, groups);
      __m512i both = set1i(load_int32(s.acts + 2 * k));
      F16 a_even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16)), a_odd = _mm512_castsi512_ps(_mm512_and_si512(both, odd_half));
      for (int p = 0; p < 4; ++p) {
        __m512i weight = groups[p];
        even[p] = fma(_mm512_castsi512_ps(_mm512_slli_epi32(weight, 16)), a_even, even[p]);
        odd[p] = fma(_mm512_castsi512_ps(_mm512_and_si512(weight, odd_half)), a_odd, odd[p]);
      }
    }
    for (int p = 0; p < 4; ++p) acc[p] = add(acc[p], add(even[p], odd[p]));
  }
  for (int p = 0; p < 4; ++p) store(s.out + p * kLanes, acc[p]);
}
#else
inline void bfloat16_row(const SparseRow& s) {
  F16 acc[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
  I16 groups[4];
  for (int block = 0; block < s.blocks; ++block) {
    prefetch_lines(s, block + kBlocksAhead, 64, 128, mask_ahead(s, block));
    for (std::uint64_t left = pairs_of(s.mask[block]); left; left &= left - 1) {
      int i = __builtin_ctzll(left), k = block * kBlock + i;
      load_pair(s, k, (unsigned)(s.mask[block] >> i) & 3u, groups);
      for (int phase = 0; phase < Bf16Format::phases; ++phase)
        for (int p = 0; p < 4; ++p) {
          auto weight = Bf16Format::weight(groups[p], phase);
          acc[p] = Bf16Format::mac(acc[p], weight, s.acts + k * Bf16Format::act_bytes, phase);
        }
    }
  }
  for (int p = 0; p < 4; ++p) store(s.out + p * kLanes, acc[p]);
}
#endif

// The row's int8 sums of a block of K, of four lines at a time.
inline void int8_row(const SparseRow& s) {
  I16 groups[4];
  for (int p = 0; p < 4; ++p) store(s.out + p * kLanes, set1(0.0f));
  for (int block = 0; block < s.blocks; ++block) {
    prefetch_lines(s, block + kBlocksAhead, 64, 64, mask_ahead(s, block));
    std::uint64_t left = s.mask[block];
    if (!left) continue;
    I16 acc[4] = {set1i(0), set1i(0), set1i(0), set1i(0)};
    std::int32_t total = 0;
    while (left) {
      const std::uint8_t* line[4] = {kNoLine, kNoLine, kNoLine, kNoLine};
      std::int32_t q[4] = {};
      for (int i = 0; i < 4 && left; ++i, left &= left - 1) {
        int k = block * kBlock + __builtin_ctzll(left);
        line[i] = s.lines + (std::size_t)k * 64;
        total += q[i] = Int8Format::act(s.acts, k);
      }
      interleave_bytes(line[0], line[1], line[2], line[3], groups);
      alignas(8) std::uint8_t act[4 * Int8Format::act_bytes];
      Int8Format::store_acts(act, q);
      for (int phase = 0; phase < Int8Format::phases; ++phase)
        for (int p = 0; p < 4; ++p) acc[p] = Int8Format::mac(acc[p], Int8Format::weight(groups[p], phase), act, phase);
    }
    F16 act_scale = set1(s.act_scales[block]);
    for (int p = 0; p < 4; ++p) {
      F16 scale = load_bf16(s.scales + (std::size_t)p * s.scale_stride + (std::size_t)block * kLanes);
      float* o = s.out + p * kLanes;
      store(o, fma(to_float(addi(acc[p], set1i(-128 * total))), mul(scale, act_scale), load(o)));
    }
  }
}

// Lines of a block of 64 K in int4: the i-th is K 8 (i / 4) + i % 4 and the K four after it.
inline std::uint64_t int4_lines(std::uint64_t mask) {
  std::uint64_t both = (mask | mask >> 4) & 0x0f0f0f0f0f0f0f0fu, lines = 0;
  for (int g = 0; g < 8; ++g) lines |= (both >> (8 * g) & 15u) << (4 * g);
  return lines;
}

inline void int4_row(const SparseRow& s) {
  I16 groups[4];
  for (int p = 0; p < 4; ++p) store(s.out + p * kLanes, set1(0.0f));
  for (int block = 0; block < s.blocks; ++block) {
    prefetch_lines(s, block + kBlocksAhead, 32, 64, int4_lines(mask_ahead(s, block)));
    std::uint64_t both = int4_lines(s.mask[block]);
    for (int half = 0; half < 2; ++half) {
      std::uint64_t left = both >> (16 * half) & 0xffffu;
      if (!left) continue;
      I16 acc[4] = {Int4Format::start(0), Int4Format::start(0), Int4Format::start(0), Int4Format::start(0)};
      std::int32_t total = 0;
      while (left) {
        const std::uint8_t* line[4] = {kNoLine, kNoLine, kNoLine, kNoLine};
        alignas(8) std::int8_t act[8] = {};
        for (int i = 0; i < 4 && left; ++i, left &= left - 1) {
          int at = __builtin_ctzll(left), k = block * kBlock + half * kInt4Block + at / 4 * 8 + at % 4;
          line[i] = s.lines + ((std::size_t)(block * 2 + half) * 16 + (std::size_t)at) * 64;
          act[i] = (std::int8_t)s.acts[k];
          act[4 + i] = (std::int8_t)s.acts[k + 4];
          total += act[i] + act[4 + i];
        }
        interleave_bytes(line[0], line[1], line[2], line[3], groups);
        for (int phase = 0; phase < 2; ++phase)
          for (int p = 0; p < 4; ++p)
            acc[p] = Int4Format::mac(acc[p], nibbles(groups[p], phase), (const std::uint8_t*)act + 4 * phase);
      }
      F16 act_scale = set1(s.act_scales[block]);
      for (int p = 0; p < 4; ++p) {
        F16 scale = load_bf16(s.scales + (std::size_t)p * s.scale_stride + (std::size_t)(2 * block + half) * kLanes);
        float* o = s.out + p * kLanes;
        I16 sums = addi(Int4Format::finish(acc[p], 0), set1i(-8 * total));
        store(o, fma(to_float(sums), mul(scale, act_scale), load(o)));
      }
    }
  }
}

inline void sparse_row(Format format, const SparseRow& s) {
  switch (format) {
    case Format::kFloat32: return float32_row(s);
    case Format::kBfloat16: return bfloat16_row(s);
    case Format::kInt8: return int8_row(s);
    case Format::kInt4: return int4_row(s);
  }
}
