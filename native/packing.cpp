#include "packing.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "quantize_blocks.hpp"
#include "source_rows.hpp"

namespace wingbeat {
namespace {

using Tile = float[kLanes][kBlock];  // a block of a panel, as in the checkpoint

std::size_t bytes_of(std::size_t values, Format format) { return values / (std::size_t)group_k(format) * (kGroupBytes / kLanes); }

// Values along K that share a scale; 0 without scales.
int scaled_together(Format format) {
  if (format == Format::kFloat32 || format == Format::kBfloat16) return 0;
  return format == Format::kInt4 ? kInt4Block : kBlock;
}

// [16][words] -> [words][16]: lanes side by side, as a kernel loads them.
template <int words>
WINGBEAT_INLINE void interleave(const std::uint32_t (&rows)[kLanes][words], std::uint8_t* out) {
  auto* lanes = reinterpret_cast<std::uint32_t*>(out);
  for (int w = 0; w < words; ++w)
    for (int r = 0; r < kLanes; ++r) lanes[w * kLanes + r] = rows[r][w];
}

void store_float32(const Tile& tile, std::uint8_t* out) {
  alignas(64) std::uint32_t rows[kLanes][kBlock];
  std::memcpy(rows, tile, sizeof rows);
  interleave(rows, out);
}

WINGBEAT_WIDER void store_bfloat16(const Tile& tile, std::uint8_t* out) {
  alignas(64) std::uint32_t rows[kLanes][kBlock / 2];
  for (int r = 0; r < kLanes; ++r) {
    std::uint16_t halves[kBlock];
    for (int k = 0; k < kBlock; ++k) halves[k] = nearest_bf16(tile[r][k]);
    std::memcpy(rows[r], halves, sizeof halves);
  }
  interleave(rows, out);
}

WINGBEAT_WIDER void store_int8(const Tile& tile, std::uint8_t* out, std::uint16_t* scales) {
  alignas(64) std::uint32_t rows[kLanes][kBlock / 4];
  for (int r = 0; r < kLanes; ++r) {
    std::uint8_t bytes[kBlock];
    scales[r] = quantize_int8(tile[r], bytes);
    std::memcpy(rows[r], bytes, sizeof bytes);
  }
  interleave(rows, out);
}

void store_int4(const Tile& tile, std::uint8_t* out, std::uint16_t* scales) {
  for (int half = 0; half < kBlock / kInt4Block; ++half)
    quantize_int4(tile, half * kInt4Block, out + half * kInt4Block / 8 * kGroupBytes, scales + half * kLanes);
}

void store_levels(const Tile& tile, const std::uint8_t (&levels)[16], std::uint8_t* out, std::uint16_t* scales) {
  for (int r = 0; r < kLanes; ++r) {
    std::uint8_t codes[kBlock];
    scales[r] = quantize_levels(tile[r], levels, codes);
    for (int i = 0; i < kBlock / 2; ++i) {
      int low = i / 4 * 8 + i % 4;
      out[i / 4 * kGroupBytes + r * 4 + i % 4] = (std::uint8_t)(codes[low] | codes[low + 4] << 4);
    }
  }
}

void store(const Tile& tile, Format format, std::uint8_t* out, std::uint16_t* scales) {
  switch (format) {
    case Format::kFloat32: return store_float32(tile, out);
    case Format::kBfloat16: return store_bfloat16(tile, out);
    case Format::kInt8: return store_int8(tile, out, scales);
    case Format::kInt4: return store_int4(tile, out, scales);
    case Format::kNf4: return store_levels(tile, kNf4Levels, out, scales);
    case Format::kSf4: return store_levels(tile, kSf4Levels, out, scales);
  }
}

void pack_panel(const Matrix& m, int panel, const WeightShape& shape, std::uint8_t* data, std::uint8_t* scales) {
  int blocks = shape.padded() / kBlock, rows = std::min(kLanes, m.rows - panel * kLanes);
  std::size_t block_bytes = bytes_of(kLanes * kBlock, shape.format), block_scales = 0;
  if (int together = scaled_together(shape.format)) block_scales = (std::size_t)(kLanes * kBlock / together);
  alignas(64) Tile tile{};
  for (int b = 0; b < blocks; ++b) {
    int columns = std::min(kBlock, m.columns - b * kBlock);
    if (columns < kBlock) std::memset(tile, 0, sizeof tile);
    read_block(m, panel * kLanes, rows, b * kBlock, columns, tile[0], kBlock);
    std::size_t at = (std::size_t)panel * (std::size_t)blocks + (std::size_t)b;
    store(tile, shape.format, data + at * block_bytes, reinterpret_cast<std::uint16_t*>(scales) + at * block_scales);
  }
}

// Where a line kept by K has the value of panel p, lane l: so that instructions which interleave lines within 16 bytes
// give panels (see interleave_words and interleave_bytes).
template <class Value>
constexpr std::size_t place_in_line(std::size_t p, std::size_t l) {
  if (sizeof(Value) == 4) return p * kLanes + l;
  if (sizeof(Value) == 2) return p / 2 * 32 + l / 4 * 8 + p % 2 * 4 + l % 4;
  return l / 4 * 16 + p * 4 + l % 4;
}

// The four panels of a unit, one after the other, as lines.
template <class Value>
WINGBEAT_INLINE void keep_by_k(const std::uint8_t* panels, std::uint8_t* unit, std::size_t panel_bytes) {
  constexpr std::size_t values = 4 / sizeof(Value), group = kLanes * values;
  auto* lines = reinterpret_cast<Value*>(unit);
  int k_padded = (int)(panel_bytes / kGroupBytes * values);
  for (std::size_t g = 0; g < panel_bytes / kGroupBytes; ++g)
    for (std::size_t p = 0; p < 4; ++p) {
      auto* from = reinterpret_cast<const Value*>(panels + p * panel_bytes) + g * group;
      for (std::size_t j = 0; j < values; ++j)
        for (std::size_t l = 0; l < (std::size_t)kLanes; ++l)
          lines[(std::size_t)line_place((int)(g * values + j), k_padded) * kBlock + place_in_line<Value>(p, l)] = from[l * values + j];
    }
}

WINGBEAT_WIDER void keep_by_k(Format format, const std::uint8_t* panels, std::uint8_t* unit, std::size_t panel_bytes) {
  if (format == Format::kFloat32) keep_by_k<std::uint32_t>(panels, unit, panel_bytes);
  else if (format == Format::kBfloat16) keep_by_k<std::uint16_t>(panels, unit, panel_bytes);
  else keep_by_k<std::uint8_t>(panels, unit, panel_bytes);
}

// The eight panels of two units, one after the other, as lines.
void keep_int4_by_k(std::uint8_t* units, std::size_t panel_bytes) {
  std::vector<std::uint8_t> panels(units, units + 8 * panel_bytes);
  std::memset(units, 0, panels.size());
  int k_padded = (int)(panel_bytes / kGroupBytes * 8);
  for (std::size_t p = 0; p < 8; ++p)
    for (std::size_t i = 0; i < panel_bytes; ++i) {
      std::size_t group = i / kGroupBytes, lane = i % kGroupBytes / 4, j = i % 4;
      std::size_t line = (std::size_t)line_place((int)(8 * group + j), k_padded);  // that of the K four after it comes next
      std::uint8_t* at = units + line * kGroupBytes + place_in_line<std::uint8_t>(p % 4, lane);
      std::uint8_t byte = panels[p * panel_bytes + i];
      at[0] |= (std::uint8_t)((byte & 0x0f) << p / 4 * 4);
      at[kGroupBytes] |= (std::uint8_t)(byte >> 4 << p / 4 * 4);
    }
}

// The columns that a line holds where the weight is kept by K, else the four panels that a unit of `linear` reads.
int columns_of_unit(const WeightShape& shape) { return shape.kind == WeightKind::kMatrixByK ? line_columns(shape.format) : kBlock; }

void pack_unit(const Matrix& m, int unit, const WeightShape& shape, std::uint8_t* data, std::uint8_t* scales) {
  int panels = columns_of_unit(shape) / kLanes;
  for (int p = unit * panels; p < std::min(ceil_div(m.rows, kLanes), (unit + 1) * panels); ++p) pack_panel(m, p, shape, data, scales);
  if (shape.kind != WeightKind::kMatrixByK) return;
  std::size_t panel_bytes = bytes_of((std::size_t)shape.padded() * kLanes, shape.format);
  std::uint8_t* lines = data + (std::size_t)unit * (std::size_t)panels * panel_bytes;
  if (shape.format == Format::kInt4) return keep_int4_by_k(lines, panel_bytes);
  std::vector<std::uint8_t> copy(lines, lines + (std::size_t)panels * panel_bytes);
  keep_by_k(shape.format, copy.data(), lines, panel_bytes);
}

// Sums in float64 and in eight lanes, which is exact enough that no order of summation shows in a float32.
template <class Term>
WINGBEAT_INLINE float mean(const float* row, int n, Term term) {
  double lanes[8] = {}, sum = 0;
  int i = 0;
  for (; i + 8 <= n; i += 8)
    for (int l = 0; l < 8; ++l) lanes[l] += term((double)row[i + l]);
  for (; i < n; ++i) sum += term((double)row[i]);
  for (double lane : lanes) sum += lane;
  return (float)(sum / n);
}

WINGBEAT_WIDER void normalise(float* row, int n, const RowNorm& norm) {
  float centre = mean(row, n, [](double x) { return x; });
  for (int i = 0; i < n; ++i) row[i] -= centre;
  float spread = std::sqrt(mean(row, n, [](double x) { return x * x; }) + 1e-5f);
  for (int i = 0; i < n; ++i) row[i] = row[i] / spread * norm.weight[i] + norm.bias[i];
}

WINGBEAT_WIDER void round_row(const float* row, int n, std::uint16_t* out) {
  for (int i = 0; i < n; ++i) out[i] = nearest_bf16(row[i]);
}

void pack_row(const Matrix& m, int r, const RowNorm& norm, const WeightShape& shape, std::uint8_t* data, float* row) {
  read_block(m, r, 1, 0, m.columns, row, m.columns);
  if (norm.weight) normalise(row, m.columns, norm);
  std::uint8_t* out = data + bytes_of((std::size_t)r * (std::size_t)shape.padded(), shape.format);
  if (shape.format == Format::kFloat32) std::memcpy(out, row, (std::size_t)m.columns * sizeof(float));
  else round_row(row, m.columns, reinterpret_cast<std::uint16_t*>(out));
}

constexpr int kRowsTogether = 256;  // that a thread takes of a table

}  // namespace

std::size_t WeightShape::data_bytes() const {
  std::size_t lines = (std::size_t)(is_matrix() ? round_up(rows, columns_of_unit(*this)) : rows);
  return bytes_of(lines * (std::size_t)padded(), format);
}

std::size_t WeightShape::scales_bytes() const {
  int together = scaled_together(format);
  if (!is_matrix() || together == 0) return 0;
  return (std::size_t)round_up(rows, kBlock) * (std::size_t)(padded() / together) * sizeof(std::uint16_t);
}

Weight weight_at(const WeightShape& shape, const std::uint8_t* data, const std::uint8_t* scales) {
  Weight w{shape, data, scales, {}};
  if (shape.is_matrix()) {
    std::size_t panel_bytes = bytes_of((std::size_t)shape.padded() * kLanes, shape.format);
    w.packed = {shape.format, shape.kind == WeightKind::kMatrixByK, shape.rows, shape.columns, shape.padded(), data, panel_bytes,
                reinterpret_cast<const std::uint16_t*>(scales)};
  }
  return w;
}

void pack(const Matrix& m, const RowNorm& norm, const WeightShape& shape, std::uint8_t* data, std::uint8_t* scales, ThreadPool& pool) {
  if (shape.is_matrix()) {
    pool.run({ceil_div(m.rows, columns_of_unit(shape))}, [&](int, int unit, int) { pack_unit(m, unit, shape, data, scales); });
    return;
  }
  std::size_t columns = (std::size_t)m.columns;
  std::vector<float> scratch((std::size_t)pool.threads() * columns);
  pool.run({ceil_div(m.rows, kRowsTogether)}, [&](int, int unit, int thread) {
    float* row = scratch.data() + (std::size_t)thread * columns;
    int end = std::min(m.rows, (unit + 1) * kRowsTogether);
    for (int r = unit * kRowsTogether; r < end; ++r) pack_row(m, r, norm, shape, data, row);
  });
}

}  // namespace wingbeat
