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

// Registers 0 and 1 hold the sums of the first 16 rows by two panels, 2 and 3 those of the others; 4 and 5 activations,
// 6 and 7 weights.
inline void shape_tiles(int rows) {
  static thread_local int shaped = 0;
  if (rows == 0) _tile_release();
  if (rows == shaped) return;
  shaped = rows;
  if (rows == 0) return;
  TileShapes shapes;
  int first = rows < kLanes ? rows : kLanes, second = rows - first;
  for (int i = 0; i < 8; ++i) {
    bool weights = i >= 6, others = i == 2 || i == 3 || i == 5;
    shapes.rows[i] = (std::uint8_t)(weights ? kLanes : others ? second : first);
    shapes.bytes[i] = shapes.rows[i] ? 64 : 0;
  }
  _tile_loadconfig(&shapes);
}

// Sums of R rows, more than 16 or not, by two panels over all of K, in bfloat16.
template <bool Second>
inline void bf16_tiles(const Tile& t, int panel) {
  const std::uint8_t *w = t.panels + (std::size_t)panel * t.panel_bytes, *a = t.acts;
  const std::uint8_t* a2 = a + kLanes * t.act_stride;
  _tile_zero(0);
  _tile_zero(1);
  if (Second) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int k = 0; k < t.k; k += 32, w += 1024, a += 64, a2 += 64) {
    if (!Second)
      for (int line = 0; line < 1024; line += 64) {
        __builtin_prefetch(w + 4096 + line);
        __builtin_prefetch(w + t.panel_bytes + 4096 + line);
      }
    _tile_loadd(6, w, 64);
    _tile_loadd(7, w + t.panel_bytes, 64);
    _tile_loadd(4, a, t.act_stride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (Second) {
      _tile_loadd(5, a2, t.act_stride);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  float *out = t.out + panel * kLanes, *out2 = out + kLanes * kBlock;
  constexpr int stride = kBlock * sizeof(float);
  _tile_stored(0, out, stride);
  _tile_stored(1, out + kLanes, stride);
  if (Second) {
    _tile_stored(2, out2, stride);
    _tile_stored(3, out2 + kLanes, stride);
  }
}

inline void bf16_tile_rows(int rows, const Tile& t) {
  shape_tiles(rows);
  for (int panel = 0; panel < 4; panel += 2) rows > kLanes ? bf16_tiles<true>(t, panel) : bf16_tiles<false>(t, panel);
}

// Adds a block's integer sums [rows][16] of one panel, times its scales, to the product.
inline void add_int8_sums(const std::int32_t* sums, int first, int rows, const Tile& t, int panel, int block, F16 scale) {
  int blocks = t.k / kBlock;
  float* out = t.out + first * kBlock + panel * kLanes;
  for (int r = 0; r < rows; ++r, sums += kLanes, out += kBlock) {
    int side = (first + r) * blocks + block;
    I16 sum = _mm512_add_epi32(_mm512_load_si512((const void*)sums), set1i(t.act_offsets[side]));
    store(out, fma(to_float(sum), mul(scale, set1(t.act_scales[side])), load(out)));
  }
}

template <bool Second>
inline void int8_tiles(int rows, const Tile& t, int panel) {
  alignas(64) std::int32_t sums[4][kLanes * kLanes];
  int blocks = t.k / kBlock, first = rows < kLanes ? rows : kLanes;
  const std::uint8_t *w = t.panels + (std::size_t)panel * t.panel_bytes, *a = t.acts;
  const std::uint8_t* a2 = a + kLanes * t.act_stride;
  const std::uint16_t* scales = t.scales + (std::size_t)panel * blocks * kLanes;
  for (int r = 0; r < rows; ++r)
    for (int p = 0; p < 2; ++p) store(t.out + r * kBlock + (panel + p) * kLanes, set1(0.0f));
  for (int block = 0; block < blocks; ++block, w += 1024, a += 64, a2 += 64) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_loadd(6, w, 64);
    _tile_loadd(7, w + t.panel_bytes, 64);
    _tile_loadd(4, a, t.act_stride);
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(1, 4, 7);
    if (Second) {
      _tile_zero(2);
      _tile_zero(3);
      _tile_loadd(5, a2, t.act_stride);
      _tile_dpbsud(2, 5, 6);
      _tile_dpbsud(3, 5, 7);
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    if (Second) {
      _tile_stored(2, sums[2], 64);
      _tile_stored(3, sums[3], 64);
    }
    for (int p = 0; p < 2; ++p) {
      F16 scale = load_bf16(scales + ((std::size_t)p * blocks + block) * kLanes);
      add_int8_sums(sums[p], 0, first, t, panel + p, block, scale);
      if (Second) add_int8_sums(sums[2 + p], first, rows - first, t, panel + p, block, scale);
    }
  }
}

inline void int8_tile_rows(int rows, const Tile& t) {
  if (rows <= kInt8Rows / 2) return int8_rows_of<kInt8Rows>(rows, t);
  shape_tiles(rows);
  for (int panel = 0; panel < 4; panel += 2) rows > kLanes ? int8_tiles<true>(rows, t, panel) : int8_tiles<false>(rows, t, panel);
}

// Gives the tiles up: a thread that sleeps with them in use keeps its core from resting.
void leave() { shape_tiles(0); }
