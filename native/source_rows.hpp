// Reading a checkpoint's numbers as float32, whatever they are and however they lie.
#pragma once

#include <cstdint>
#include <cstring>

#include "packing.hpp"
#include "wider.hpp"

namespace wingbeat {

inline std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

inline float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

struct Float32Source {
  using Stored = float;
  static float widen(float x) { return x; }
};

struct Bfloat16Source {
  using Stored = std::uint16_t;
  static float widen(std::uint16_t half) { return float_of((std::uint32_t)half << 16); }
};

struct Float16Source {
  using Stored = std::uint16_t;
  static float widen(std::uint16_t half) {
    std::uint32_t magnitude = (half & 0x7fffu) << 13;
    std::uint32_t bits = magnitude + (112u << 23);  // the bias of the exponent is 112 more
    // Without denormal numbers in between: the pool's threads flush them.
    std::uint32_t denormal = bits_of(float_of(magnitude + (113u << 23)) - float_of(113u << 23));
    bits = magnitude < (1u << 23) ? denormal : magnitude >= (31u << 23) ? bits + (112u << 23) : bits;
    return float_of(bits | (half & 0x8000u) << 16);
  }
};

template <class S>
WINGBEAT_INLINE void read_block_of(const Matrix& m, int row, int rows, int column, int columns, float* out, int out_step) {
  auto* from = static_cast<const typename S::Stored*>(m.data) + row * m.row_step + column * m.column_step;
  if (m.column_step == 1) {
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < columns; ++c) out[r * out_step + c] = S::widen(from[r * m.row_step + c]);
  } else {  // a transposed matrix: its lines are columns
    for (int c = 0; c < columns; ++c)
      for (int r = 0; r < rows; ++r) out[r * out_step + c] = S::widen(from[r * m.row_step + c * m.column_step]);
  }
}

// Rows and columns from (row, column) on, to lines of `out` that are `out_step` floats apart.
WINGBEAT_WIDER inline void read_block(const Matrix& m, int row, int rows, int column, int columns, float* out, int out_step) {
  if (m.source == Source::kFloat32) read_block_of<Float32Source>(m, row, rows, column, columns, out, out_step);
  else if (m.source == Source::kBfloat16) read_block_of<Bfloat16Source>(m, row, rows, column, columns, out, out_step);
  else read_block_of<Float16Source>(m, row, rows, column, columns, out, out_step);
}

}  // namespace wingbeat
