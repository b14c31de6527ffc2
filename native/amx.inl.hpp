// Products by AMX tiles, for units compiled with it. Part of linear.inl.hpp.
//
// A panel's 64 columns of K in int8, or 32 in bfloat16, are just one tile register: 16 groups of 64 bytes. Sums of int8
// are exact, so these tiles agree with the vectors to the last bit. In bfloat16 the hardware sums even and odd K apart
// within a tile: a level that uses it does so for every number of rows.

constexpr int kTileRows = 32;  // two registers of activations by two panels: all eight registers

struct alignas(64) TileShapes {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t bytes[16] = {};
  std::uint8_t rows[16] = {};
};

// Registers 0 and 1 hold the sums of the first 16 rows by two panels, 2 and 3 those of `second` rows more (or of the same
// rows by two panels more); 4 and 5 activations, 6 and 7 weights: 64 bytes of K, or 32.
inline void shape_tiles(int rows, int k_bytes, int second) {
  static thread_local int shaped = 0;
  int key = (rows * 128 + k_bytes) * 64 + second;
  if (key == shaped) return;
  shaped = key;
  if (key == 0) return _tile_release();
  TileShapes shapes;
  int first = rows < kLanes ? rows : kLanes;
  for (int i = 0; i < 8; ++i) {
    bool weights = i >= 6, acts = i == 4 || i == 5, others = i == 2 || i == 3 || i == 5;
    shapes.rows[i] = (std::uint8_t)(weights ? k_bytes / 4 : others ? second : first);
    shapes.bytes[i] = (std::uint16_t)(!shapes.rows[i] ? 0 : acts ? k_bytes : 64);
  }
  _tile_loadconfig(&shapes);
}

constexpr int kOutStride = kBlock * sizeof(float);
inline void begin_sums(const Tile& t, const float* sum0, const float* sum1, const float* sum2, const float* sum3) {
  if (t.first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    return;
  }
  _tile_loadd(0, sum0, kOutStride);
  _tile_loadd(1, sum1, kOutStride);
  _tile_loadd(2, sum2, kOutStride);
  _tile_loadd(3, sum3, kOutStride);
}

// Sums of more than 16 rows by two panels, in bfloat16.
inline void bf16_tiles(const Tile& t, int panel) {
  const std::uint8_t *w = t.panels + (std::size_t)panel * t.panel_bytes, *a = t.acts;
  Ahead<2> ahead(t, w);
  const std::uint8_t* a2 = a + kLanes * t.act_stride;
  float *out = t.out + panel * kLanes, *out2 = out + kLanes * kBlock;
  begin_sums(t, out, out + kLanes, out2, out2 + kLanes);
  for (int k = 0; k < t.k; k += 32, w += 1024, a += 64, a2 += 64) {
    if (t.fresh) ahead.next(16);
    _tile_loadd(6, w, 64);
    _tile_loadd(7, w + t.panel_bytes, 64);
    _tile_loadd(4, a, t.act_stride);
    _tile_loadd(5, a2, t.act_stride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, out, kOutStride);
  _tile_stored(1, out + kLanes, kOutStride);
  _tile_stored(2, out2, kOutStride);
  _tile_stored(3, out2 + kLanes, kOutStride);
}

// Sums of up to 16 rows by four panels.
inline void bf16_flat_tiles(const Tile& t) {
  const std::uint8_t *w = t.panels, *a = t.acts;
  Ahead<4> ahead(t, w);
  std::size_t next = t.panel_bytes;
  begin_sums(t, t.out, t.out + kLanes, t.out + 2 * kLanes, t.out + 3 * kLanes);
  for (int k = 0; k < t.k; k += 32, w += 1024, a += 64) {
    if (t.fresh) ahead.next(16);
    _tile_loadd(4, a, t.act_stride);
    _tile_loadd(6, w, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, w + next, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(6, w + 2 * next, 64);
    _tile_dpbf16ps(2, 4, 6);
    _tile_loadd(7, w + 3 * next, 64);
    _tile_dpbf16ps(3, 4, 7);
  }
  _tile_stored(0, t.out, kOutStride);
  _tile_stored(1, t.out + kLanes, kOutStride);
  _tile_stored(2, t.out + 2 * kLanes, kOutStride);
  _tile_stored(3, t.out + 3 * kLanes, kOutStride);
}

// One row by four panels with vectors, as the tiles do it to the last bit: in 32 K the products of even and of odd K are
// summed apart. Memory is the limit of one row, and vectors keep it busier.
inline void bf16_row(const Tile& t) {
  const std::uint8_t *w = t.panels, *a = t.acts;
  const std::size_t next = t.panel_bytes;
  Ahead<4> ahead(t, w);
  const __m512i odd_half = set1i((int)0xffff0000);
  F16 acc[4];
  for (int p = 0; p < 4; ++p) acc[p] = t.first ? set1(0.0f) : load(t.out + p * kLanes);
  for (int k = 0; k < t.k; k += 32) {
    F16 even[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)}, odd[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
    for (int pair = 0; pair < 16; ++pair, w += kGroupBytes, a += 4) {
      ahead.next();
      __m512i both = set1i(load_int32(a));
      F16 a_even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16)), a_odd = _mm512_castsi512_ps(_mm512_and_si512(both, odd_half));
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) {
        __m512i weight = load_group(w + p * next);
        even[p] = fma(_mm512_castsi512_ps(_mm512_slli_epi32(weight, 16)), a_even, even[p]);
        odd[p] = fma(_mm512_castsi512_ps(_mm512_and_si512(weight, odd_half)), a_odd, odd[p]);
      }
    }
    for (int p = 0; p < 4; ++p) acc[p] = add(acc[p], add(even[p], odd[p]));
  }
  for (int p = 0; p < 4; ++p) store(t.out + p * kLanes, acc[p]);
}

inline void bf16_tile_rows(int rows, const Tile& t) {
  if (rows == 1) return bf16_row(t);
  bool flat = rows <= kLanes;
  shape_tiles(rows, 64, flat ? rows : rows - kLanes);
  if (flat) return bf16_flat_tiles(t);
  for (int panel = 0; panel < 4; panel += 2) bf16_tiles(t, panel);
}

// Adds the integer sums of a block of K, [rows][16] of one panel, times their scales, to the product.
inline void add_sums(const std::int32_t* sums, int first, int rows, const Tile& t, int panel, int block, int k_block, F16 scale) {
  int offsets = t.blocks * (kBlock / k_block);
  float* out = t.out + first * kBlock + panel * kLanes;
  for (int r = first; r < first + rows; ++r, sums += kLanes, out += kBlock) {
    I16 sum = _mm512_add_epi32(_mm512_load_si512((const void*)sums), set1i(t.act_offsets[r * offsets + block]));
    store(out, fma(to_float(sum), mul(scale, set1(t.act_scales[r * t.blocks + block * k_block / kBlock])), load(out)));
  }
}

// The sums of one block of K: its activations lie at `a`, its weights at `w` and, of the next panel, `w2`.
template <bool Second>
inline void block_sums(const std::uint8_t* w, const std::uint8_t* w2, const std::uint8_t* a, std::size_t stride,
                       std::int32_t (*sums)[kLanes * kLanes]) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_loadd(6, w, 64);
  _tile_loadd(7, w2, 64);
  _tile_loadd(4, a, stride);
  _tile_dpbsud(0, 4, 6);
  _tile_dpbsud(1, 4, 7);
  if (Second) {
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(5, a + kLanes * stride, stride);
    _tile_dpbsud(2, 5, 6);
    _tile_dpbsud(3, 5, 7);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
  }
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[1], 64);
}

// A block of weights of 4 bits as bytes, in the order of int8: groups of four K.
template <Format F>
inline void widen_block(const std::uint8_t* w, std::uint8_t* bytes) {
  constexpr int groups = (F == Format::kInt4 ? kInt4Block : kBlock) / 8;
  for (int g = 0; g < groups; ++g)
    for (int phase = 0; phase < 2; ++phase) {
      I16 values = nibbles(load_group(w + g * kGroupBytes), phase);
      if constexpr (F != Format::kInt4) values = look_up(F == Format::kNf4 ? kNf4Levels : kSf4Levels, values);
      store_group(bytes + (2 * g + phase) * kGroupBytes, values);
    }
}

template <Format F, bool Second>
inline void integer_tiles(int rows, const Tile& t, int panel) {
  constexpr int k_block = F == Format::kInt4 ? kInt4Block : kBlock, block_bytes = kGroupBytes * k_block / group_k(F);
  alignas(64) std::int32_t sums[4][kLanes * kLanes];
  alignas(64) std::uint8_t wide[2][k_block * kLanes];
  int blocks = t.k / k_block, first = rows < kLanes ? rows : kLanes;
  const std::uint8_t *w = t.panels + (std::size_t)panel * t.panel_bytes, *a = t.acts;
  Ahead<2> ahead(t, w);
  const std::uint16_t* scales = t.scales + (std::size_t)panel * t.scale_stride;
  for (int r = 0; t.first && r < rows; ++r)
    for (int p = 0; p < 2; ++p) store(t.out + r * kBlock + (panel + p) * kLanes, set1(0.0f));
  for (int block = 0; block < blocks; ++block, w += block_bytes, a += k_block) {
    if (t.fresh) ahead.next(block_bytes / kGroupBytes);
    if constexpr (group_k(F) == 8) {
      widen_block<F>(w, wide[0]);
      widen_block<F>(w + t.panel_bytes, wide[1]);
      block_sums<Second>(wide[0], wide[1], a, t.act_stride, sums);
    } else {
      block_sums<Second>(w, w + t.panel_bytes, a, t.act_stride, sums);
    }
    for (int p = 0; p < 2; ++p) {
      F16 scale = load_bf16(scales + (std::size_t)p * t.scale_stride + (std::size_t)block * kLanes);
      add_sums(sums[p], 0, first, t, panel + p, block, k_block, scale);
      if (Second) add_sums(sums[2 + p], first, rows - first, t, panel + p, block, k_block, scale);
    }
  }
}

template <Format F>
inline void integer_tile_rows(int rows, const Tile& t) {
  shape_tiles(rows, F == Format::kInt4 ? kInt4Block : kBlock, rows > kLanes ? rows - kLanes : 0);
  for (int panel = 0; panel < 4; panel += 2)
    rows > kLanes ? integer_tiles<F, true>(rows, t, panel) : integer_tiles<F, false>(rows, t, panel);
}

// A few rows are as fast without tiles.
inline void int8_tile_rows(int rows, const Tile& t) {
  rows <= kInt8Rows / 2 ? integer_rows_of<Int8Blocks, kInt8Rows>(rows, t) : integer_tile_rows<Format::kInt8>(rows, t);
}

inline void int4_tile_rows(int rows, const Tile& t) {
  rows <= kInt8Rows / 2 ? integer_rows_of<Int4Blocks, kInt8Rows>(rows, t) : integer_tile_rows<Format::kInt4>(rows, t);
}

template <Format F>
inline void level_tile_rows(int rows, const Tile& t) {
  rows <= kInt8Rows / 2 ? integer_rows_of<LevelBlocks<F>, kInt8Rows>(rows, t) : integer_tile_rows<F>(rows, t);
}

// Gives the tiles up: a thread that sleeps with them in use keeps its core from resting.
void leave() { shape_tiles(0, 0, 0); }
