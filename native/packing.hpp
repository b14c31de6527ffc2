// Weights as the kernels read them. Packing is the same for every instruction set.
#pragma once

#include <cstdint>

#include "program.hpp"

namespace wingbeat {

struct Matrix {  // a row-major view; bf16 or f32, one of them null
  const float* f32;
  const std::uint16_t* bf16;
  int rows, columns;

  float at(std::size_t row, std::size_t column) const {
    std::size_t i = row * (std::size_t)columns + column;
    if (f32) return f32[i];
    std::uint32_t bits = (std::uint32_t)bf16[i] << 16;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
  }
};

// A matrix [out, in] for `linear`. See ops/quantize.py for what int8 means.
Weight pack_matrix(const Matrix& m, Format format, bool by_k, ThreadPool& pool);
// Rows to look up, padded to 64 columns.
Weight pack_table(const Matrix& m, Format format, ThreadPool& pool);
// float32 vectors, each row padded to 64 with zeros.
Weight pack_vectors(const Matrix& m);

}  // namespace wingbeat
