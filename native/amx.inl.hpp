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

// Registers 0 and 1 hold the sums of the first rows, at most 16, by two panels, 2 and 3 those of `second` rows more (or of
// the same rows by two panels more); 4 and 5 activations, 6 and 7 weights: 64 bytes of K, or 32. -1: no matter how many.
inline void shape_tiles(int first, int k_bytes, int second) {
  static thread_local int shaped = 0;
  asm volatile("" ::: "memory");  // GCC does not know that tiles read what was stored
  int key = (first * 128 + k_bytes) * 32 + second;
  if (key == shaped || (second < 0 && shaped / 32 == first * 128 + k_bytes)) return;
  if (second < 0) ++key, second = 0;
  shaped = key;
  if (key == 0) return _tile_release();
  TileShapes shapes;
  for (int i = 0; i < 8; ++i) {
    bool weights = i >= 6, acts = i == 4 || i == 5, others = i == 2 || i == 3 || i == 5;
    shapes.rows[i] = (std::uint8_t)(weights ? k_bytes / 4 : others ? second : first);
    shapes.bytes[i] = (std::uint16_t)(!shapes.rows[i] ? 0 : acts ? k_bytes : 64);
  }
  asm volatile("" ::"m"(shapes));  // nor that this reads all of it
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
  shape_tiles(flat ? rows : kLanes, 64, flat ? rows : rows - kLanes);
  if (flat) return bf16_flat_tiles(t);
  for (int panel = 0; panel < 4; panel += 2) bf16_tiles(t, panel);
}

// ---- integers: a block's sums leave the tiles, and vectors add them, times their scales, to the product ----

constexpr int kFewRows = 4;             // so many are as fast without tiles
constexpr int kDirectRows = kTileRows;  // so many do not repay a copy of int8 weights

// Signed bytes need no offset, and weights of 4 bits must become bytes anyway: a piece of them serves all rows of a unit.
inline bool takes_signed(Format format, int rows) {
  return format == Format::kInt8 ? rows > kDirectRows : group_k(format) == 8 && rows > kFewRows;
}

// Whether a piece of lines becomes panels while the tiles multiply the one before: rows that all of it serves once.
static_assert(kLineRows >= kFewRows);  // fewer rows take the lines as they are, and no tiles
inline bool feeds_lines(Format format, int rows) { return format == Format::kInt8 && rows <= kDirectRows; }

// Bytes with an offset of 128 to signed ones.
inline I16 other_sign(I16 group) { return _mm512_xor_si512(group, _mm512_set1_epi8(-128)); }

// [4 panels][k / 4][64 bytes] of any format.
template <Format F>
inline void signed_weights(const Tile& t, std::uint8_t* out) {
  constexpr std::uint8_t eights[16] = {120, 121, 122, 123, 124, 125, 126, 127, 128, 129, 130, 131, 132, 133, 134, 135};
  const auto& levels = F == Format::kNf4 ? kNf4Levels : F == Format::kSf4 ? kSf4Levels : eights;
  for (int p = 0; p < 4; ++p) {
    const std::uint8_t* w = t.panels + (std::size_t)p * t.panel_bytes;
    for (int k = 0; k < t.k; k += group_k(F), w += kGroupBytes) {
      I16 group = load_group(w);
      for (int phase = 0; phase < group_k(F) / 4; ++phase, out += kGroupBytes)
        store_group(out, other_sign(F == Format::kInt8 ? group : look_up(levels, nibbles(group, phase))));
    }
  }
}

// Puts signed weights in place of a tile's, which then asks for the lines of the next piece.
inline void sign_weights(Format format, Tile& t, std::uint8_t* out) {
  std::size_t bytes = (std::size_t)(t.k / group_k(format)) * kGroupBytes;
  if (!t.next_lines) {
    t.next_lines = t.at + bytes < t.panel_bytes ? t.panels + bytes : t.panels - t.at + 4 * t.panel_bytes;
    t.next_stride = t.panel_bytes;
  }
  if (format == Format::kInt8) signed_weights<Format::kInt8>(t, out);
  else if (format == Format::kInt4) signed_weights<Format::kInt4>(t, out);
  else if (format == Format::kNf4) signed_weights<Format::kNf4>(t, out);
  else signed_weights<Format::kSf4>(t, out);
  t.panels = out;
  t.panel_bytes = (std::size_t)t.k * kLanes;
  t.is_signed = true;
}

// Begins a block's sums, [rows][16]. `Part`: of fewer rows than 16.
template <bool Signed, bool Part>
inline void block_sums(const std::uint8_t* w, const std::uint8_t* a, std::size_t stride, std::int32_t* sums) {
  _tile_loadd(6, w, 64);
  if constexpr (Part) {
    _tile_loadd(5, a, stride);
    _tile_zero(2);
    if constexpr (Signed) _tile_dpbssd(2, 5, 6);
    else _tile_dpbsud(2, 5, 6);
    _tile_stored(2, sums, 64);
  } else {
    _tile_loadd(4, a, stride);
    _tile_zero(0);
    if constexpr (Signed) _tile_dpbssd(0, 4, 6);
    else _tile_dpbsud(0, 4, 6);
    _tile_stored(0, sums, 64);
  }
}

// R rows by one panel. The vectors are busy with one block while the tiles multiply the next. What they make of rows that
// are not there is never read.
template <Format F, bool Signed, int R, bool Part>
inline void piped_tile(const Tile& t, int panel) {
  constexpr int k_block = F == Format::kInt4 ? kInt4Block : kBlock;
  alignas(64) std::int32_t sums[2][kLanes * kLanes];
  const std::uint8_t *w = t.panels + (std::size_t)panel * t.panel_bytes, *a = t.acts;
  Ahead<1, 8192> ahead(t, w);
  const std::uint16_t* scales = t.scales + (std::size_t)panel * t.scale_stride;
  const float* act_scales = t.act_scales;
  const std::int32_t* act_offsets = t.act_offsets;
  float* out = t.out + panel * kLanes;
  std::int32_t *now = sums[0], *then = sums[1];
  F16 acc[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) acc[r] = t.first ? set1(0.0f) : load(out + r * kBlock);
  block_sums<Signed, Part>(w, a, t.act_stride, now);
  for (int k = k_block; k <= t.k; k += k_block, scales += kLanes, ++act_offsets) {
    w += k_block * kLanes;
    a += k_block;
    if (k < t.k) block_sums<Signed, Part>(w, a, t.act_stride, then);
    if (t.feed) t.feed->next();
    else if (t.fresh) ahead.next(k_block / group_k(F));
    F16 scale = load_bf16(scales);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      I16 sum = _mm512_load_si512((const void*)(now + r * kLanes));
      if constexpr (!Signed) sum = addi(sum, set1i(act_offsets[r * t.blocks]));
      acc[r] = fma(to_float(sum), mul(scale, set1(act_scales[r * t.blocks])), acc[r]);
    }
    if (k % kBlock == 0) ++act_scales;
    std::int32_t* swap = now;
    now = then;
    then = swap;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) store(out + r * kBlock, acc[r]);
}

// A panel meets the second 16 rows while it is in the first-level cache. The product has room for 16 rows at a time.
template <Format F, bool Signed>
inline void piped_rows(int rows, const Tile& t) {
  int part = rows % kLanes;
  shape_tiles(kLanes, F == Format::kInt4 ? kInt4Block : kBlock, part ? part : -1);
  Tile second = t;
  second.acts += kLanes * t.act_stride;
  second.act_scales += kLanes * t.blocks;
  second.act_offsets += kLanes * t.blocks;
  second.out += kLanes * kBlock;
  second.fresh = false;
  second.feed = nullptr;
  const Tile& last = rows > kLanes ? second : t;
  for (int panel = 0; panel < 4; ++panel) {
    if (rows >= kLanes) piped_tile<F, Signed, kLanes, false>(t, panel);
    if (rows == 2 * kLanes) piped_tile<F, Signed, kLanes, false>(second, panel);
    else if (part > kLanes / 2) piped_tile<F, Signed, kLanes, true>(last, panel);
    else if (part) piped_tile<F, Signed, kLanes / 2, true>(last, panel);
  }
}

inline void int8_tile_rows(int rows, const Tile& t) {
  if (t.is_signed) return piped_rows<Format::kInt8, true>(rows, t);
  rows <= kFewRows ? integer_rows_of<Int8Blocks, kFewRows>(rows, t) : piped_rows<Format::kInt8, false>(rows, t);
}

inline void int4_tile_rows(int rows, const Tile& t) {
  t.is_signed ? piped_rows<Format::kInt4, true>(rows, t) : integer_rows_of<Int4Blocks, kFewRows>(rows, t);
}

template <Format F>
inline void level_tile_rows(int rows, const Tile& t) {
  t.is_signed ? piped_rows<F, true>(rows, t) : integer_rows_of<LevelBlocks<F>, kFewRows>(rows, t);
}

// Gives the tiles up: a thread that sleeps with them in use keeps its core from resting.
void leave() { shape_tiles(0, 0, 0); }
