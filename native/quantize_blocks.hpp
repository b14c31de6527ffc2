// One block of a row to the integers and the bfloat16 scale that stand for it: what ops/quantize.py does.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels.hpp"
#include "source_rows.hpp"
#include "wider.hpp"

namespace wingbeat {

constexpr std::uint16_t kBrokenScale = 0x7fc0;  // NaN: that a weight is broken must show in the logits
constexpr float kToInteger = 12582912.0f;       // 1.5 * 2^23: a sum with it is rounded to its last bit, the unit

inline std::uint16_t nearest_bf16(float x) {
  std::uint32_t bits = bits_of(x);
  std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return (std::uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}

inline std::uint16_t bf16_not_below(float x) { return (std::uint16_t)((bits_of(x) + 0xffffu) >> 16); }

// The largest magnitude's bits: those of finite floats are in order, and infinity and NaN are above them.
template <int size>
std::int32_t top_bits(const float* row) {
  std::int32_t top = 0;
  for (int k = 0; k < size; ++k) {
    std::int32_t bits = (std::int32_t)(bits_of(row[k]) & 0x7fffffffu);
    top = top > bits ? top : bits;
  }
  return top;
}

inline bool is_finite(std::int32_t top) { return top < 0x7f800000; }

// int8 plus 128; returns the scale.
inline std::uint16_t quantize_int8(const float (&row)[kBlock], std::uint8_t (&out)[kBlock]) {
  std::int32_t top = top_bits<kBlock>(row);
  if (!is_finite(top)) {
    std::memset(out, 128, kBlock);
    return kBrokenScale;
  }
  std::uint16_t half = bf16_not_below(float_of((std::uint32_t)top) * (1.0f / 127.0f));
  float scale = float_of((std::uint32_t)half << 16), inverse = scale > 1e-35f ? 1.0f / scale : 0.0f;
  // At most 127 and a rounding error, so nothing to clamp. The last byte of the sum is the integer; plus 128.
  for (int k = 0; k < kBlock; ++k) out[k] = (std::uint8_t)(bits_of(row[k] * inverse + kToInteger) ^ 0x80u);
  return half;
}

// nf4 or sf4: the place of the nearest level for each value; returns the scale.
WINGBEAT_WIDER inline std::uint16_t quantize_levels(const float (&row)[kBlock], const std::uint8_t (&levels)[16],
                                                    std::uint8_t (&codes)[kBlock]) {
  std::int32_t top = top_bits<kBlock>(row);
  bool finite = is_finite(top);
  std::uint16_t half = nearest_bf16(float_of((std::uint32_t)top) * (1.0f / 127.0f));
  float scale = float_of((std::uint32_t)half << 16), inverse = finite && scale > 1e-35f ? 1.0f / scale : 0.0f;
  float x[kBlock];
  for (int k = 0; k < kBlock; ++k) x[k] = finite ? row[k] * inverse : 0.0f;
  std::int32_t above[kBlock] = {};  // how many borders between two levels a value is above
  for (int i = 0; i < 15; ++i) {
    float border = (float)(levels[i] + levels[i + 1]) * 0.5f - 128.0f;
    for (int k = 0; k < kBlock; ++k) above[k] += x[k] > border;
  }
  for (int k = 0; k < kBlock; ++k) codes[k] = (std::uint8_t)above[k];
  return finite ? half : kBrokenScale;
}

// A block of int4 in all rows of a panel: a row is a lane.
using Int4Columns = float[kInt4Block][kLanes];

struct Int4Tried {
  alignas(64) float step[kLanes], inverse[kLanes];
  alignas(64) double error[kLanes], product[kLanes], squares[kLanes];  // of the values q: of q * x, of q * q
};

WINGBEAT_INLINE float int4_value(float x, float inverse) {
  float q = x * inverse;
  q = q < -8.0f ? -8.0f : q;
  q = q > 7.0f ? 7.0f : q;
  return (q + kToInteger) - kToInteger;
}

WINGBEAT_INLINE void round_scales(const float* scales, Int4Tried& out) {
  for (int l = 0; l < kLanes; ++l) {
    float step = float_of((std::uint32_t)nearest_bf16(scales[l]) << 16), size = step < 0.0f ? -step : step;
    float divisor = size > 1e-35f ? step : 1.0f;
    out.step[l] = step;
    out.inverse[l] = size > 1e-35f ? 1.0f / divisor : 0.0f;
  }
}

WINGBEAT_INLINE void try_scales(const Int4Columns& x, const float* scales, Int4Tried& out) {
  round_scales(scales, out);
  for (int l = 0; l < kLanes; ++l) out.error[l] = out.product[l] = out.squares[l] = 0.0;
  for (int k = 0; k < kInt4Block; ++k)
    for (int l = 0; l < kLanes; ++l) {
      double q = (double)int4_value(x[k][l], out.inverse[l]), miss = q * (double)out.step[l] - (double)x[k][l];
      out.error[l] += miss * miss;
      out.product[l] += q * (double)x[k][l];
      out.squares[l] += q * q;
    }
}

WINGBEAT_INLINE void keep_better(const Int4Tried& tried, float* best, double* least) {
  for (int l = 0; l < kLanes; ++l) {
    bool better = tried.error[l] < least[l];
    best[l] = better ? tried.step[l] : best[l];
    least[l] = better ? tried.error[l] : least[l];
  }
}

// The scales, and the values plus 8 as [K][lanes]. Of some scales, each tried as it is and refitted to the values it gave
// by least squares, a row takes the one with the smallest error.
WINGBEAT_WIDER inline void best_int4(const Int4Columns& x, float* best, std::uint8_t (&values)[kInt4Block][kLanes]) {
  Int4Tried tried;
  alignas(64) float top[kLanes] = {}, scales[kLanes];
  alignas(64) double least[kLanes];
  for (int l = 0; l < kLanes; ++l) least[l] = std::numeric_limits<double>::infinity();
  for (int k = 0; k < kInt4Block; ++k)
    for (int l = 0; l < kLanes; ++l)
      top[l] = (bits_of(x[k][l]) & 0x7fffffffu) > (bits_of(top[l]) & 0x7fffffffu) ? x[k][l] : top[l];
  for (double steps : {-8.5, -8.0, -7.5, 7.0, 7.5}) {
    for (int l = 0; l < kLanes; ++l) scales[l] = (float)((double)top[l] / steps);
    try_scales(x, scales, tried);
    keep_better(tried, best, least);
    for (int l = 0; l < kLanes; ++l) {
      double squares = tried.squares[l] > 0.0 ? tried.squares[l] : 1.0;
      scales[l] = tried.squares[l] > 0.0 ? (float)(tried.product[l] / squares) : scales[l];
    }
    try_scales(x, scales, tried);
    keep_better(tried, best, least);
  }
  round_scales(best, tried);
  for (int k = 0; k < kInt4Block; ++k)
    for (int l = 0; l < kLanes; ++l) values[k][l] = (std::uint8_t)(8 + (int)int4_value(x[k][l], tried.inverse[l]));
}

// A block of int4 in all rows of a panel: bytes as PackedWeight says, [groups of 8][16 lanes][4], and a scale for each row.
inline void quantize_int4(const float (&tile)[kLanes][kBlock], int begin, std::uint8_t* out, std::uint16_t* scales) {
  alignas(64) Int4Columns x;
  alignas(64) float best[kLanes] = {};
  alignas(64) std::uint8_t values[kInt4Block][kLanes];
  bool finite[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    finite[l] = is_finite(top_bits<kInt4Block>(tile[l] + begin));
    for (int k = 0; k < kInt4Block; ++k) x[k][l] = finite[l] ? tile[l][begin + k] : 0.0f;
  }
  best_int4(x, best, values);
  for (int l = 0; l < kLanes; ++l) {
    scales[l] = finite[l] ? (std::uint16_t)(bits_of(best[l]) >> 16) : kBrokenScale;
    for (int i = 0; i < kInt4Block / 2; ++i) {
      int low = i / 4 * 8 + i % 4;
      out[i / 4 * kGroupBytes + l * 4 + i % 4] = (std::uint8_t)(values[low][l] | values[low + 4][l] << 4);
    }
  }
}

}  // namespace wingbeat
