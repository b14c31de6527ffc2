// Weights as the kernels read them. Packing is the same for every instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.hpp"
#include "thread_pool.hpp"

namespace wingbeat {

// Packed weights are kept in files, which name this number: raise it with every change of what is packed where.
// A kernel level that came to want other bytes than the rest would need a number of its own.
constexpr int kPackedLayout = 3;

enum class WeightKind : std::uint8_t {
  kMatrix,     // [out, in] for `linear`. See ops/quantize.py for what the formats mean.
  kMatrixByK,  // the same for activations that are mostly zero
  kTable,      // rows to look up, float32 or bfloat16, padded to 64 columns
  kVectors,    // float32, each row padded to 64 with zeros
};

enum class Source : std::uint8_t { kFloat32, kBfloat16, kFloat16 };

// A view of a checkpoint's matrix; steps are in elements.
struct Matrix {
  Source source;
  const void* data;
  int rows, columns;
  std::ptrdiff_t row_step, column_step;
};

// A LayerNorm for the rows of a table, [columns] each; null for none.
struct RowNorm {
  const float *weight = nullptr, *bias = nullptr;
};

// What a weight is and how it lies in its two blobs.
struct WeightShape {
  WeightKind kind;
  Format format;
  int rows, columns;

  bool is_matrix() const { return kind == WeightKind::kMatrix || kind == WeightKind::kMatrixByK; }
  int padded() const { return round_up(columns, kBlock); }
  std::size_t data_bytes() const;
  std::size_t scales_bytes() const;  // 0 without scales
};

// A weight as it is looked up or multiplied. The blobs are 64-byte aligned and belong to somebody else.
struct Weight {
  WeightShape shape;
  const std::uint8_t* data;
  const std::uint8_t* scales;
  PackedWeight packed;  // of a matrix: the same for `linear`
};

Weight weight_at(const WeightShape& shape, const std::uint8_t* data, const std::uint8_t* scales);

// Fills the blobs, which hold zeros, from a matrix of the shape's size.
void pack(const Matrix& m, const RowNorm& norm, const WeightShape& shape, std::uint8_t* data, std::uint8_t* scales, ThreadPool& pool);

}  // namespace wingbeat
