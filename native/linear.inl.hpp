// Matrix products: tiles of a few rows by 64 columns, and what finishes a row. Part of kernels.inl.hpp.

// Makes panels of int8 lines, 16 each time, while tiles are at work on others: see sparse.inl.hpp.
struct LineFeed {
  const std::uint8_t* lines;
  std::size_t stream;
  std::uint8_t* panels;
  std::size_t panel_bytes;
  int left;  // lines
  void next();
};

// R rows by 64 columns of a product over some K: all of it, or a piece after others.
struct Tile {
  const std::uint8_t* panels;  // the first of four, at the piece's first K
  std::size_t panel_bytes;
  std::size_t at;  // bytes of a panel before the piece
  const std::uint8_t* acts;
  std::size_t act_stride;
  int k;       // of the piece, padded
  bool first;  // the sums begin here; else they go on from `out`
  bool fresh;  // the weights are not in the caches yet
  const std::uint8_t* next_lines;  // or null: of the piece that comes next, where panels are a copy
  std::size_t next_stride;         // from what one panel asks for to what the next does
  float* out;  // [R][64]
  // integers, whose block is 64, of int4 32; a row has `blocks` blocks of 64
  int blocks;
  const std::uint16_t* scales;      // [16] for each block; `scale_stride` from panel to panel
  std::size_t scale_stride;
  const float* act_scales;          // row stride blocks
  const std::int32_t* act_offsets;  // row stride blocks, or twice that
  bool is_signed;  // the weights are, as some tiles want them
  LineFeed* feed;  // or null: of the next piece
};

// Asks for the weights that the panels of a tile need in a moment, a group each time. Past a panel's end these are the
// beginnings of those that come after the tile's, for a thread's units follow each other.
template <int P, int distance = 2048>
class Ahead {
 public:
  Ahead(const Tile& t, const std::uint8_t* panels) {
    if (t.next_lines) {
      between_ = t.next_stride;
      at_ = t.next_lines + (std::size_t)(panels - t.panels) / t.panel_bytes * between_;
      return;
    }
    at_ = panels + distance;
    between_ = t.panel_bytes;
    jump_ = (P - 1) * t.panel_bytes;
    left_ = ((int)(t.panel_bytes - t.at) - distance) / kGroupBytes;
    if (left_ <= 0) at_ += jump_;
  }
  void next() {
    for (int p = 0; p < P; ++p) __builtin_prefetch(at_ + p * between_);
    at_ += kGroupBytes;
    if (--left_ == 0) at_ += jump_;
  }
  void next(int groups) {
    for (int i = 0; i < groups; ++i) next();
  }

 private:
  const std::uint8_t* at_;
  std::size_t between_, jump_ = 0;
  int left_ = 0;  // groups before the panels' end
};

// Row r of a tile's activations: a base for every third row and one stride address them all from few registers.
template <int R>
struct RowCursor {
  const std::uint8_t* base[(R + 2) / 3];
  std::size_t stride;
  RowCursor(const std::uint8_t* acts, std::size_t act_stride) : stride(act_stride) {
    for (int i = 0; i < (R + 2) / 3; ++i) base[i] = acts + (std::size_t)(3 * i) * act_stride;
  }
  const std::uint8_t* row(int r) const { return base[r / 3] + (std::size_t)(r % 3) * stride; }
  void advance(int bytes) {
    for (int i = 0; i < (R + 2) / 3; ++i) base[i] += bytes;
  }
};

template <class Fmt, int R, int P>
inline void float_tile(const Tile& t, int panel) {
  F16 acc[R][P];
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) acc[r][p] = t.first ? set1(0.0f) : load(t.out + r * kBlock + (panel + p) * kLanes);
  const std::uint8_t* w = t.panels + (std::size_t)panel * t.panel_bytes;
  Ahead<P> ahead(t, w);
  RowCursor<R> a(t.acts, t.act_stride);
  for (int k = 0; k < t.k; k += Fmt::group, w += kGroupBytes, a.advance(Fmt::group * Fmt::act_bytes)) {
    if (t.fresh) ahead.next();
#pragma GCC unroll 2
    for (int phase = 0; phase < Fmt::phases; ++phase) {
      typename Fmt::Weight weight[P];
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) weight[p] = Fmt::weight(load_group(w + p * t.panel_bytes), phase);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) acc[r][p] = Fmt::mac(acc[r][p], weight[p], a.row(r), phase);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) store(t.out + r * kBlock + (panel + p) * kLanes, acc[r][p]);
}

// What the formats of integers differ in: a row of a block begins at its offset, or adds it when it is done.
struct Int8Blocks {
  static constexpr bool by_k = false;
  static constexpr int block = kBlock, group = 4, phases = Int8Format::phases, act_bytes = Int8Format::act_bytes;
  static I16 start(std::int32_t offset) { return set1i(offset); }
  static auto weight(I16 w, int phase) { return Int8Format::weight(w, phase); }
  static I16 mac(I16 acc, Int8Format::Weight w, const std::uint8_t* act, int phase) { return Int8Format::mac(acc, w, act, phase); }
  static I16 finish(I16 acc, std::int32_t) { return acc; }
};
// Of weights kept by K: four lines become a group of each of four panels on their way.
struct Int8Lines : Int8Blocks {
  static constexpr bool by_k = true;
};
struct Int4Blocks {
  static constexpr bool by_k = false;
  static constexpr int block = kInt4Block, group = 8, phases = 2, act_bytes = 1;
  static I16 start(std::int32_t offset) { return Int4Format::start(offset); }
  static I16 weight(I16 w, int phase) { return nibbles(w, phase); }
  static I16 mac(I16 acc, I16 w, const std::uint8_t* act, int phase) { return Int4Format::mac(acc, w, act + 4 * phase); }
  static I16 finish(I16 acc, std::int32_t offset) { return Int4Format::finish(acc, offset); }
};

// Codes of levels, which are int8 weights from there on.
template <Format F>
struct LevelBlocks : Int8Blocks {
  static constexpr int group = 8, phases = 2 * Int8Format::phases;
  static auto weight(I16 w, int phase) {
    I16 levels = look_up(F == Format::kNf4 ? kNf4Levels : kSf4Levels, nibbles(w, phase / Int8Format::phases));
    return Int8Format::weight(levels, phase % Int8Format::phases);
  }
  static I16 mac(I16 acc, Int8Format::Weight w, const std::uint8_t* act, int phase) {
    return Int8Format::mac(acc, w, act + phase / Int8Format::phases * 4 * act_bytes, phase % Int8Format::phases);
  }
};

template <class Fmt, int R, int P>
inline void integer_tile(const Tile& t, int panel) {
  constexpr int halves = kBlock / Fmt::block;  // blocks of weights that share a scale of activations
  int blocks = t.k / Fmt::block;
  const std::uint8_t* w = t.panels + (std::size_t)panel * t.panel_bytes;
  Ahead<P> ahead(t, w);
  RowCursor<R> a(t.acts, t.act_stride);
  float* out = t.out + panel * kLanes;
  if (t.first)
    for (int r = 0; r < R; ++r)
      for (int p = 0; p < P; ++p) store(out + r * kBlock + p * kLanes, set1(0.0f));
  for (int block = 0; block < blocks; ++block) {
    I16 acc[R][P];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) acc[r][p] = Fmt::start(t.act_offsets[halves * r * t.blocks + block]);
    for (int k = 0; k < Fmt::block; k += Fmt::group, w += kGroupBytes, a.advance(Fmt::group * Fmt::act_bytes)) {
      if (t.fresh) ahead.next();
      I16 group[P];
      for (int p = 0; p < P; ++p) group[p] = load_group(w + p * t.panel_bytes);
      if constexpr (Fmt::by_k) interleave_bytes(group[0], group[1], group[2], group[3], group);
#pragma GCC unroll 4
      for (int phase = 0; phase < Fmt::phases; ++phase) {
        decltype(Fmt::weight(I16{}, 0)) weight[P];
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) weight[p] = Fmt::weight(group[p], phase);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
          for (int p = 0; p < P; ++p) acc[r][p] = Fmt::mac(acc[r][p], weight[p], a.row(r), phase);
      }
    }
    for (int p = 0; p < P; ++p) {
      const std::uint16_t* scales = t.scales + (std::size_t)(panel + p) * t.scale_stride + (std::size_t)block * kLanes;
      if (t.fresh && block % 2 == 0) __builtin_prefetch(scales + 4 * t.scale_stride);
      F16 scale = load_bf16(scales);
      for (int r = 0; r < R; ++r) {
        float* o = out + r * kBlock + p * kLanes;
        F16 sums = to_float(Fmt::finish(acc[r][p], t.act_offsets[halves * r * t.blocks + block]));
        store(o, fma(sums, mul(scale, set1(t.act_scales[r * t.blocks + block / halves])), load(o)));
      }
    }
  }
}

template <class Fmt, int R>
inline void float_rows(const Tile& t) {
  constexpr int P = FloatPanels<R>::value;
  for (int panel = 0; panel < 4; panel += P) float_tile<Fmt, R, P>(t, panel);
}

template <class Fmt, int R>
inline void integer_rows(const Tile& t) {
  constexpr int P = Fmt::by_k ? 4 : Int8Panels<R>::value;
  for (int panel = 0; panel < 4; panel += P) integer_tile<Fmt, R, P>(t, panel);
}

template <class Fmt, int R>
inline void float_rows_of(int rows, const Tile& t) {
  if constexpr (R > 0) {
    if (rows == R) return float_rows<Fmt, R>(t);
    float_rows_of<Fmt, R - 1>(rows, t);
  }
}

template <class Fmt, int R>
inline void integer_rows_of(int rows, const Tile& t) {
  if constexpr (R > 0) {
    if (rows == R) return integer_rows<Fmt, R>(t);
    integer_rows_of<Fmt, R - 1>(rows, t);
  }
}

#if defined(WINGBEAT_AMX)
#include "amx.inl.hpp"
constexpr int kBf16RowsAtOnce = kTileRows, kInt8RowsAtOnce = kTileRows;
// Whole tiles, and one of what is left.
inline int tile_begin(int count, int tile, int, int at_once) { return min_int(count, tile * at_once); }
#else
constexpr int kBf16RowsAtOnce = kFloatRows, kInt8RowsAtOnce = kInt8Rows;
inline void bf16_tile_rows(int rows, const Tile& t) { float_rows_of<Bf16Format, kFloatRows>(rows, t); }
inline void int8_tile_rows(int rows, const Tile& t) { integer_rows_of<Int8Blocks, kInt8Rows>(rows, t); }
inline void int4_tile_rows(int rows, const Tile& t) { integer_rows_of<Int4Blocks, kInt8Rows>(rows, t); }
template <Format F>
inline void level_tile_rows(int rows, const Tile& t) {
  integer_rows_of<LevelBlocks<F>, kInt8Rows>(rows, t);
}
inline bool takes_signed(Format, int) { return false; }
inline bool feeds_lines(Format, int) { return false; }
inline void sign_weights(Format, Tile&, std::uint8_t*) {}
inline I16 other_sign(I16 group) { return group; }
// Tiles of nearly equal height.
inline int tile_begin(int count, int tile, int tiles, int) { return (int)((long)count * tile / tiles); }
void leave() {}
#endif

inline int rows_at_once(Format format) {
  if (format == Format::kFloat32) return kFloatRows;
  return format == Format::kBfloat16 ? kBf16RowsAtOnce : kInt8RowsAtOnce;
}

// The product of `rows` rows, at most rows_at_once(), by 64 columns.
inline void multiply(Format format, int rows, const Tile& t) {
  switch (format) {
    case Format::kFloat32: return float_rows_of<F32Format, kFloatRows>(rows, t);
    case Format::kBfloat16: return bf16_tile_rows(rows, t);
    case Format::kInt8: return int8_tile_rows(rows, t);
    case Format::kInt4: return int4_tile_rows(rows, t);
    case Format::kNf4: return level_tile_rows<Format::kNf4>(rows, t);
    case Format::kSf4: return level_tile_rows<Format::kSf4>(rows, t);
  }
}

// Bias, activation, gate or lerp, residual; then out in the forms its readers want.
inline void finish_row(const LinearOp& op, std::size_t row, int column, const float* product) {
  const Buffer& out = *op.out;
  auto at = [&](const Buffer& b, int i) { return load(b.f32 + row * b.f32_stride + column + i * kLanes); };
  F16 v[4];
  auto each = [](auto body) __attribute__((always_inline)) {
    for (int i = 0; i < 4; ++i) body(i);
  };
  each([&](int i) { v[i] = load(product + i * kLanes); });
  if (op.bias) each([&](int i) { v[i] = add(v[i], load(op.bias + column + i * kLanes)); });
  activate(op.activation, v);
  if (op.gate) each([&](int i) { v[i] = mul(v[i], at(*op.gate, i)); });
  if (op.from) each([&](int i) { v[i] = fma(sub(at(*op.to, i), at(*op.from, i)), v[i], at(*op.from, i)); });
  if (op.add) each([&](int i) { v[i] = add(v[i], at(out, i)); });
  if (column + kBlock > out.width) {  // keep the padding zero: it must not reach a block's scale or a norm's sum
    float lane[kBlock];
    for (int i = 0; i < 4; ++i) store(lane + i * kLanes, v[i]);
    for (int i = out.width - column; i < kBlock; ++i) lane[i] = 0.0f;
    for (int i = 0; i < 4; ++i) v[i] = load(lane + i * kLanes);
  }
  emit(out, row, column, v);
}

// The weights of 64 columns from `k` on.
inline void place_weights(const PackedWeight& w, int column, int k, Tile& t) {
  std::size_t panel = (std::size_t)(column / kLanes);
  t.at = (std::size_t)(k / group_k(w.format)) * kGroupBytes;
  t.panels = w.data + panel * w.panel_bytes + t.at;
  t.panel_bytes = w.panel_bytes;
  t.blocks = w.k_padded / kBlock;
  if (!w.scales) return;
  int k_block = w.format == Format::kInt4 ? kInt4Block : kBlock;
  t.scale_stride = (std::size_t)(w.k_padded / k_block) * kLanes;
  t.scales = w.scales + panel * t.scale_stride + (std::size_t)(k / k_block) * kLanes;
}

// The activations that they meet, of the rows from `row` on.
inline void place_activations(const Buffer& x, Format format, std::size_t row, int k, Tile& t) {
  std::size_t from = (std::size_t)k;
  switch (format) {
    case Format::kFloat32:
      t.acts = (const std::uint8_t*)(x.f32 + row * x.f32_stride + from);
      t.act_stride = x.f32_stride * sizeof(float);
      break;
    case Format::kBfloat16:
      t.acts = x.bf16 + row * x.bf16_stride + from * Bf16Format::act_bytes;
      t.act_stride = x.bf16_stride;
      break;
    case Format::kInt8:
    case Format::kNf4:
    case Format::kSf4:
      t.acts = x.int8 + row * x.int8_stride + from * Int8Format::act_bytes;
      t.act_stride = x.int8_stride;
      t.act_offsets = x.offsets + row * t.blocks + from / kBlock;
      break;
    case Format::kInt4:
      t.acts = x.int4 + row * x.int4_stride + from;
      t.act_stride = x.int4_stride;
      t.act_offsets = x.offsets4 + 2 * row * t.blocks + from / kInt4Block;
      break;
  }
  t.act_scales = x.scales + row * t.blocks + from / kBlock;
}

#include "sparse.inl.hpp"

// Whether one row meets so many zeros that the lines which count are read sooner than all of them in a row, which the
// memory gives faster: seen from 70 % zeros on. All lines of int4 take longer to widen than to skip among.
inline bool skips_lines(const LinearOp& op) {
  if (op.weight->format == Format::kInt4) return true;
  int blocks = op.weight->k_padded / kBlock, count = 0;
  for (int block = 0; block < blocks; ++block) count += __builtin_popcountll(op.x->mask[block]);
  return 10 * count <= 3 * op.weight->k_padded;
}

// One row of a weight that is kept by K, finished.
inline void multiply_sparse(const LinearOp& op, std::uint64_t step, int column, float* product, SparseLines& lines) {
  if (lines.found != step || lines.op != &op) {
    list_lines(op, lines);
    lines.found = step;
    lines.op = &op;
  }
  sparse_row(op, lines, column, product);
  finish_row(op, 0, column, product);
}

// Asks for what finish_row will write.
inline void fetch_out(const Buffer& b, std::size_t row, int column) {
  auto fetch = [&](void* rows, std::size_t stride, int bytes) {
    std::uint8_t* at = (std::uint8_t*)rows + row * stride + (std::size_t)(column / kBlock * bytes);
    for (int i = 0; rows && i < bytes; i += kGroupBytes) __builtin_prefetch(at + i, 1);
  };
  fetch(b.f32, b.f32_stride * sizeof(float), kBlock * sizeof(float));
  fetch(b.bf16, b.bf16_stride, kBlock * Bf16Format::act_bytes);
  fetch(b.int8, b.int8_stride, kBlock * Int8Format::act_bytes);
  fetch(b.int4, b.int4_stride, kBlock);
}

// K of a piece, which is all of it where weights are read once and as they are, or as signed bytes fit into what is kept of
// them: sums that stay in registers are worth more than weights in the first-level cache.
inline int piece_of(const PackedWeight& w, int tiles, bool is_signed) {
  if (tiles == 1 && !w.by_k && !is_signed) return w.k_padded;
  if (is_signed && w.k_padded * kBlock <= kSignedBytes) return w.k_padded;
  int bytes = w.by_k && !is_signed ? kLinesPieceBytes : kPieceBytes;
  int most = bytes / (4 * kGroupBytes) * (is_signed ? group_k(Format::kInt8) : group_k(w.format));
  return round_up(ceil_div(w.k_padded, ceil_div(w.k_padded, most)), kBlock);
}

// The finished product of a few rows with int8 weights kept by K, whose four streams of lines are where panels would be.
inline void multiply_lines(const LinearOp& op, int column, int first, int count, float* product) {
  Tile t{};
  place_weights(*op.weight, column, 0, t);
  place_activations(*op.x, op.weight->format, (std::size_t)first, op.start, t);
  t.k = op.weight->k_padded;
  t.first = t.fresh = true;
  t.out = product;
  integer_rows_of<Int8Lines, kLineRows>(count, t);
  for (int r = 0; r < count; ++r) finish_row(op, (std::size_t)(first + r), column, product + r * kBlock);
}

// The product of `count` rows from `first` on, finished tile by tile while it is in the first-level cache. Where a weight
// is kept by K, or tiles want it signed, its pieces become other panels in `wide`.
inline void multiply_rows(const LinearOp& op, int column, int first, int count, float* product, std::uint8_t* wide) {
  const PackedWeight& w = *op.weight;
  if (w.by_k && w.format == Format::kInt8 && count <= kLineRows) return multiply_lines(op, column, first, count, product);
  bool is_signed = takes_signed(w.format, count), feeds = w.by_k && feeds_lines(w.format, count);
  std::uint8_t* begin_wide = wide;
  LineFeed feed{};  // fills the one half of `wide` while the other is read
  int at_once = rows_at_once(w.format), tiles = ceil_div(count, at_once), piece = piece_of(w, tiles, is_signed);
  for (int k = 0; k < w.k_padded; k += piece) {
    Tile t{};
    place_weights(w, column, k, t);
    t.k = min_int(piece, w.k_padded - k);
    t.first = k == 0;
    if (w.by_k) {
      std::size_t panel = (std::size_t)(t.k / group_k(w.format)) * kGroupBytes, step = (std::size_t)line_bytes(w.format) / 4;
      const std::uint8_t* lines = lines_of(w, column) + (std::size_t)k * step;
      t.is_signed = is_signed && w.format == Format::kInt8;
      if (t.is_signed) widen_int8<true>(lines, stream_bytes(w), t.k, wide, panel);
      else if (!feeds || k == 0) widen_lines(w, upper_half(w, column), lines, t.k, wide, panel);
      t.panels = wide;
      t.panel_bytes = panel;
      if (feeds && k + piece < w.k_padded) {
        wide = wide == begin_wide ? wide + kPieceBytes : begin_wide;
        int next = min_int(piece, w.k_padded - k - piece);
        feed = {lines + (std::size_t)t.k * step, stream_bytes(w), wide, (std::size_t)next * kLanes, next};
        t.feed = &feed;
      }
      t.next_stride = stream_bytes(w);
      t.next_lines = k + piece < w.k_padded ? lines + (std::size_t)t.k * step : lines_of(w, column) + 4 * t.next_stride;
    }
    if (is_signed && !t.is_signed) sign_weights(w.format, t, wide + kPieceBytes);
    for (int tile = 0; tile < tiles; ++tile) {
      int begin = tile_begin(count, tile, tiles, at_once), end = tile_begin(count, tile + 1, tiles, at_once);
      place_activations(*op.x, w.format, (std::size_t)(first + begin), op.start + k, t);
      t.fresh = tile == 0;
      t.out = product + begin * kBlock;
      if (k + piece >= w.k_padded)
        for (int r = begin; r < end; ++r) fetch_out(*op.out, (std::size_t)(first + r), column);
      multiply(w.format, end - begin, t);
      if (k + piece >= w.k_padded)
        for (int r = begin; r < end; ++r) finish_row(op, (std::size_t)(first + r), column, product + r * kBlock);
    }
  }
}

void linear(const LinearOp& op, const Step& step, int unit, float* scratch, SparseLines& lines) {
  int rows = op.wanted ? step.wanted : step.rows;
  int row_units = ceil_div(rows, kLinearRows), part = unit % row_units;
  int column = unit / row_units * kBlock;
  int first = (int)((long)rows * part / row_units), count = (int)((long)rows * (part + 1) / row_units) - first;
  float* product = scratch;
  if (op.weight->by_k && rows == 1 && skips_lines(op)) multiply_sparse(op, step.number, column, product, lines);
  else multiply_rows(op, column, first, count, product, (std::uint8_t*)(scratch + kLinearRows * kBlock));
}
