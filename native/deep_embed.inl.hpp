// A square matrix for each token, times a vector. Part of kernels.inl.hpp.

// `scratch` has room for a matrix, padded to 64 values and 16 more that loads at a row's end may touch, and for a row.
void deep_embed(const DeepEmbedOp& op, const Step& step, int unit, float* scratch) {
  int n = op.q->width, values = op.extra->padded;
  float *matrix = scratch, *out = scratch + values + kLanes;
  for (int i = 0; i < kLanes; ++i) matrix[values + i] = 0.0f;
  int end = min_int(step.rows, (unit + 1) * kRowsPerUnit);
  for (int row = unit * kRowsPerUnit; row < end; ++row) {
    std::size_t start = (std::size_t)step.tokens[row] * op.stride;
    const float* extra = op.extra->f32 + (std::size_t)row * op.extra->f32_stride;
    for (int i = 0; i < values; i += kLanes)
      store(matrix + i, add(load(extra + i), load_table(op.format, op.table, start + (std::size_t)i)));
    const float* q = op.q->f32 + (std::size_t)row * op.q->f32_stride;
    for (int column = 0; column < op.out->padded; column += kLanes) {
      F16 sums = set1(0.0f);
      for (int i = 0; column < n && i < n; ++i) sums = fma(load(matrix + i * n + column), set1(q[i]), sums);
      store(out + column, sums);
    }
    for (int i = n; i < op.out->padded; ++i) out[i] = 0.0f;
    emit_row(*op.out, (std::size_t)row, out);
  }
}
