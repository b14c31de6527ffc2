#include "packing.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace wingbeat {
namespace {

std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

std::uint16_t nearest_bf16(float x) {
  std::uint32_t bits = bits_of(x);
  if (std::isnan(x)) return (std::uint16_t)((bits >> 16) | 0x40u);
  return (std::uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

std::uint16_t bf16_not_below(float x) { return (std::uint16_t)((bits_of(x) + 0xffffu) >> 16); }

float from_bf16(std::uint16_t half) {
  std::uint32_t bits = (std::uint32_t)half << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

void pack_float_panel(const Matrix& m, std::size_t first, std::uint8_t* panel) {
  std::size_t rows = std::min<std::size_t>(kLanes, (std::size_t)m.rows - first);
  float* out = (float*)panel;
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t k = 0; k < (std::size_t)m.columns; ++k) out[k * kLanes + r] = m.at(first + r, k);
}

void pack_bf16_panel(const Matrix& m, std::size_t first, std::uint8_t* panel) {
  std::size_t rows = std::min<std::size_t>(kLanes, (std::size_t)m.rows - first);
  std::uint16_t* out = (std::uint16_t*)panel;
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t k = 0; k < (std::size_t)m.columns; ++k) {
      std::size_t source = (first + r) * (std::size_t)m.columns + k;
      out[k / 2 * 2 * kLanes + 2 * r + k % 2] = m.bf16 ? m.bf16[source] : nearest_bf16(m.f32[source]);
    }
}

void pack_int8_block(const Matrix& m, std::size_t row, std::size_t begin, std::uint8_t* group, std::size_t lane,
                     std::uint16_t* scale_out) {
  std::size_t end = std::min<std::size_t>(begin + kBlock, (std::size_t)m.columns);
  float top = 0.0f;
  bool finite = true;
  for (std::size_t k = begin; k < end; ++k) {
    finite &= std::isfinite(m.at(row, k));
    top = std::max(top, std::fabs(m.at(row, k)));
  }
  if (!finite) {
    *scale_out = 0x7fc0;  // NaN: what the weight is must show in the logits
    return;
  }
  std::uint16_t half = bf16_not_below(top * (1.0f / 127.0f));
  float scale = from_bf16(half), inverse = scale > 1e-35f ? 1.0f / scale : 0.0f;
  for (std::size_t k = begin; k < end; ++k) {
    float q = std::nearbyint(m.at(row, k) * inverse);
    std::size_t i = k - begin;
    group[i / 4 * kGroupBytes + lane * 4 + i % 4] = (std::uint8_t)(128 + (int)std::clamp(q, -127.0f, 127.0f));
  }
  *scale_out = half;
}

void pack_int8_panel(const Matrix& m, std::size_t first, std::uint8_t* panel, std::uint16_t* scales, std::size_t k_padded) {
  std::memset(panel, 128, k_padded * kLanes);  // the zero of a biased byte
  std::size_t rows = std::min<std::size_t>(kLanes, (std::size_t)m.rows - first);
  for (std::size_t block = 0; block < k_padded / kBlock; ++block)
    for (std::size_t r = 0; r < rows; ++r)
      pack_int8_block(m, first + r, block * kBlock, panel + block * kBlock * kLanes, r, scales + block * kLanes + r);
}

// int4: of some scales for a block, each tried as it is and refitted to the values it gave by least squares, the one
// with the smallest error. What ops/quantize.py does, in the same order.
constexpr double kInt4Steps[] = {-8.5, -8.0, -7.5, 7.0, 7.5};

struct Int4Block {
  std::uint16_t scale = 0;
  double error = -1.0;
  int q[kInt4Block] = {};
};

void quantize_int4(const float* x, float scale, Int4Block& out) {
  std::uint16_t half = nearest_bf16(scale);
  float step = from_bf16(half), inverse = std::fabs(step) > 1e-35f ? 1.0f / step : 0.0f;
  Int4Block tried;
  tried.scale = half;
  tried.error = 0.0;
  for (int k = 0; k < kInt4Block; ++k) {
    tried.q[k] = (int)std::clamp(std::nearbyint(x[k] * inverse), -8.0f, 7.0f);
    double miss = (double)tried.q[k] * step - x[k];
    tried.error += miss * miss;
  }
  if (out.error < 0.0 || tried.error < out.error) out = tried;
}

Int4Block best_int4(const float* x) {
  float top = 0.0f;
  for (int k = 0; k < kInt4Block; ++k)
    if (std::fabs(x[k]) > std::fabs(top)) top = x[k];
  Int4Block best;
  for (double steps : kInt4Steps) {
    Int4Block first;
    quantize_int4(x, (float)(top / steps), first);
    double product = 0.0, squares = 0.0;
    for (int k = 0; k < kInt4Block; ++k) {
      product += (double)first.q[k] * x[k];
      squares += (double)first.q[k] * first.q[k];
    }
    if (best.error < 0.0 || first.error < best.error) best = first;
    if (squares > 0.0) quantize_int4(x, (float)(product / squares), best);
  }
  return best;
}

void pack_int4_block(const Matrix& m, std::size_t row, std::size_t begin, std::uint8_t* group, std::size_t lane,
                     std::uint16_t* scale_out) {
  float x[kInt4Block] = {};
  bool finite = true;
  for (std::size_t k = begin; k < std::min<std::size_t>(begin + kInt4Block, (std::size_t)m.columns); ++k) {
    x[k - begin] = m.at(row, k);
    finite &= std::isfinite(x[k - begin]);
  }
  if (!finite) {
    *scale_out = 0x7fc0;  // NaN, as for int8
    return;
  }
  Int4Block block = best_int4(x);
  for (std::size_t i = 0; i < kInt4Block / 2; ++i) {
    std::size_t low = i / 4 * 8 + i % 4;
    group[i / 4 * kGroupBytes + lane * 4 + i % 4] = (std::uint8_t)((block.q[low] + 8) | (block.q[low + 4] + 8) << 4);
  }
  *scale_out = block.scale;
}

void pack_int4_panel(const Matrix& m, std::size_t first, std::uint8_t* panel, std::uint16_t* scales, std::size_t k_padded) {
  std::memset(panel, 0x88, k_padded * kLanes / 2);  // two zeros, plus 8
  std::size_t rows = std::min<std::size_t>(kLanes, (std::size_t)m.rows - first);
  for (std::size_t block = 0; block * kInt4Block < (std::size_t)m.columns; ++block)
    for (std::size_t r = 0; r < rows; ++r)
      pack_int4_block(m, first + r, block * kInt4Block, panel + block * kInt4Block * kLanes / 2, r, scales + block * kLanes + r);
}

// Where a line kept by K has the value of panel p, lane l: so that instructions which interleave lines within 16 bytes
// give panels (see interleave_words and interleave_bytes).
std::size_t place_in_line(std::size_t value_bytes, std::size_t p, std::size_t l) {
  if (value_bytes == 4) return p * kLanes + l;
  if (value_bytes == 2) return p / 2 * 32 + l / 4 * 8 + p % 2 * 4 + l % 4;
  return l / 4 * 16 + p * 4 + l % 4;
}

// The four panels of a unit, one after the other, as lines.
void keep_by_k(std::uint8_t* unit, std::size_t panel_bytes, Format format) {
  std::size_t value = format == Format::kFloat32 ? 4 : format == Format::kBfloat16 ? 2 : 1, values = 4 / value;
  std::vector<std::uint8_t> panels(unit, unit + 4 * panel_bytes);
  for (std::size_t g = 0; g < panel_bytes / kGroupBytes; ++g)
    for (std::size_t p = 0; p < 4; ++p)
      for (std::size_t l = 0; l < (std::size_t)kLanes; ++l)
        for (std::size_t j = 0; j < values; ++j) {
          std::uint8_t* line = unit + (g * values + j) * kBlock * value;
          const std::uint8_t* group = panels.data() + p * panel_bytes + g * kGroupBytes;
          std::memcpy(line + place_in_line(value, p, l) * value, group + (l * values + j) * value, value);
        }
}

constexpr int kTableRows = 1024;  // rows that a thread takes at a time

void copy_row(const Matrix& m, std::size_t row, Weight& table) {
  std::size_t columns = (std::size_t)m.columns;
  if (table.table_format == Format::kFloat32) {
    float* out = table.data.as<float>() + row * table.stride;
    for (std::size_t c = 0; c < columns; ++c) out[c] = m.at(row, c);
  } else {
    std::uint16_t* out = table.data.as<std::uint16_t>() + row * table.stride;
    for (std::size_t c = 0; c < columns; ++c) out[c] = nearest_bf16(m.at(row, c));
  }
}

}  // namespace

Weight pack_matrix(const Matrix& m, Format format, bool by_k, ThreadPool& pool) {
  Weight w;
  std::size_t k_padded = (std::size_t)round_up(m.columns, kBlock);
  std::size_t panels = (std::size_t)round_up(m.rows, kBlock) / kLanes;
  std::size_t panel_bytes = k_padded / (std::size_t)group_k(format) * kGroupBytes;
  w.data = Memory(panels * panel_bytes);
  std::size_t blocks = k_padded / (format == Format::kInt4 ? kInt4Block : kBlock);
  if (format == Format::kInt8 || format == Format::kInt4) w.scales = Memory(panels * blocks * kLanes * sizeof(std::uint16_t));
  pool.run({ceil_div(m.rows, kLanes)}, [&](int, int unit, int) {
    std::size_t p = (std::size_t)unit;
    std::uint8_t* panel = w.data.as<std::uint8_t>() + p * panel_bytes;
    if (format == Format::kFloat32) pack_float_panel(m, p * kLanes, panel);
    else if (format == Format::kBfloat16) pack_bf16_panel(m, p * kLanes, panel);
    else {
      std::uint16_t* scales = w.scales.as<std::uint16_t>() + p * blocks * kLanes;
      (format == Format::kInt8 ? pack_int8_panel : pack_int4_panel)(m, p * kLanes, panel, scales, k_padded);
    }
  });
  if (by_k)
    pool.run({(int)panels / 4}, [&](int, int unit, int) {
      keep_by_k(w.data.as<std::uint8_t>() + (std::size_t)unit * 4 * panel_bytes, panel_bytes, format);
    });
  w.packed = {format, by_k, m.rows, m.columns, (int)k_padded, w.data.as<std::uint8_t>(), panel_bytes, w.scales.as<std::uint16_t>()};
  return w;
}

Weight pack_table(const Matrix& m, Format format, ThreadPool& pool) {
  Weight w;
  w.table_format = format;
  w.stride = (std::size_t)round_up(m.columns, kBlock);
  w.data = Memory((std::size_t)m.rows * w.stride * (format == Format::kFloat32 ? 4 : 2));
  pool.run({ceil_div(m.rows, kTableRows)}, [&](int, int unit, int) {
    for (int r = unit * kTableRows; r < std::min(m.rows, (unit + 1) * kTableRows); ++r) copy_row(m, (std::size_t)r, w);
  });
  return w;
}

Weight pack_vectors(const Matrix& m) {
  Weight w;
  w.stride = (std::size_t)round_up(m.columns, kBlock);
  w.data = Memory((std::size_t)m.rows * w.stride * sizeof(float));
  for (int r = 0; r < m.rows; ++r) copy_row(m, (std::size_t)r, w);
  return w;
}

}  // namespace wingbeat
