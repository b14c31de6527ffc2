// What the program runner hands to the kernels: plain structs, one table of functions for each instruction set.
//
// An op is cut into work units. A unit writes only its own part of the output, so units of one stage may run on any
// thread in any order with the same result, to the last bit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace wingbeat {

constexpr int kLanes = 16;       // output rows of a panel
constexpr int kBlock = 64;       // columns a unit produces together; a block of int8 along K
constexpr int kInt4Block = 32;   // a block of int4 weights along K
constexpr int kGroupBytes = 64;  // one K group of a panel: 1 x 16 float32, 2 x 16 bfloat16, 4 x 16 bytes or 8 x 16 nibbles
constexpr int kRowsPerUnit = 16;

enum class Format : std::uint8_t { kFloat32, kBfloat16, kInt8, kInt4, kNf4, kSf4 };

// The levels of nf4 and sf4 plus 128, as int8 weights are stored: those of ops/quantize.py.
constexpr std::uint8_t kNf4Levels[16] = {1, 40, 61, 78, 92, 105, 116, 128, 138, 148, 159, 171, 184, 199, 220, 255};
constexpr std::uint8_t kSf4Levels[16] = {1, 48, 70, 86, 98, 109, 118, 128, 136, 145, 154, 164, 176, 190, 211, 255};

enum class Activation : std::uint8_t { kNone, kTanh, kSigmoid, kRelu2, kSilu, kDecay6, kDecay7 };

// A weight [out, in], packed in panels of 16 output rows by groups of K, both padded to 64 with zeros.
// int8 values are stored plus 128, int4 values plus 8 (the multiply-add instructions want one unsigned factor). A byte of
// int4 holds the K that is j-th in its group in the lower half and the one four after it in the upper. nf4 and sf4 lie as
// int4 does: a value is the place of its level in a table.
//
// Or kept by K, for activations that are mostly zero: [out / 64][4][k_padded / 4][64 values], K = 4 i + j at [j][i]; of int4
// [out / 128][4][k_padded / 4][64 bytes], where a byte holds a value of the first 64 columns in the lower half and one of
// the others in the upper.
struct PackedWeight {
  Format format;
  bool by_k;
  int out, in;
  int k_padded;               // in, rounded up to 64
  const std::uint8_t* data;   // [panels][k_padded / group][64 bytes], 64-byte aligned
  std::size_t panel_bytes;
  const std::uint16_t* scales;  // bfloat16 [panels][k_padded / block][16]: blocks of 64, of int4 32
};

// Rows of [rows, width] in every form its readers want. Widths are padded to 64 and the padding holds zeros.
struct Buffer {
  int width, padded;
  float* f32;  // or null
  std::size_t f32_stride;  // in floats
  std::uint8_t* bf16;      // or null: the unit's own form of a bfloat16 activation
  std::size_t bf16_stride;  // in bytes
  std::uint8_t* int8;       // or null: the unit's own form of an int8 activation, for int8, nf4 and sf4 weights
  std::size_t int8_stride;  // in bytes
  std::uint8_t* int4;       // or null: what int4 weights meet, an int8 activation as plain bytes
  std::size_t int4_stride;  // in bytes
  float* scales;            // int8 and int4: [rows][padded / 64]; 15 rows more may be read, as of the offsets
  std::int32_t* offsets;    // int8: [rows][padded / 64], -128 * sum of the block: undoes the weights' plus 128
  std::int32_t* offsets4;   // int4: [rows][padded / 32], -8 * sum of the half block
  std::uint64_t* mask;      // or null: [rows][padded / 64], a bit for each value that is not zero as its reader takes it
};

constexpr int kLinesAhead = 64;  // the next unit's that a list goes on with
constexpr int kLineActBytes = 8;  // at most, of what a line meets

// The lines of a weight kept by K that count for one row, found by a thread once for an op: see sparse.inl.hpp.
struct SparseLines {
  std::uint64_t found;  // in which step, and for which op
  const void* op;
  int count;
  int* starts;           // the first line of each block of K, and the end
  std::uint32_t* lines;  // bytes from the unit's first line; after the last, kLinesAhead from the first on again
  std::uint8_t* acts;    // what they meet, kLineActBytes for each at most
};

struct Step {
  std::uint64_t number;  // steps are told apart by it
  int rows, sequences, wanted;
  const std::int32_t* tokens;       // [rows]
  const std::int32_t* slots;        // [sequences]
  const std::int32_t* seq_starts;   // [sequences + 1]
  const std::int32_t* logit_rows;   // [wanted]
  const std::int32_t* row_sequence;  // [rows]
  int hidden;  // rows whose hidden vectors are wanted
  const std::int32_t *hidden_rows, *hidden_layers;  // [hidden]
  float* pool;
  std::size_t slot_floats;
};

struct EmbedOp {
  const Buffer* out;
  Format format;  // float32 or bfloat16
  const void* table;
  std::size_t stride;  // in elements
};

struct NormShiftMixOp {
  const Buffer *x, *last;  // last: [sequences, D], what `commit_shift` stores into the state afterwards
  const Buffer* outs[8];
  int mixes;
  const float *norm_weight, *norm_bias, *mu;  // mu [mixes][padded]
  float eps;
  std::size_t state_offset;
};

struct CommitShiftOp {
  const Buffer* last;
  std::size_t state_offset;
};

struct LinearOp {
  const Buffer *x, *out;
  const PackedWeight* weight;
  const float* bias;  // padded, or null
  Activation activation;
  bool add;     // out += instead of out =
  bool wanted;  // its rows are the step's wanted rows, not its tokens
  int start;    // the first column of x that it reads
  const Buffer* gate;         // or null: what the result is multiplied with
  const Buffer *from, *to;    // or null: the result is how far to go from the one to the other
};

struct Wkv4Op {
  const Buffer *r, *k, *v, *out;
  const float *decay, *first;  // padded
  std::size_t state_offset;    // numerators, denominators and their scales, each padded to 16
};

struct Wkv6Op {
  const Buffer *r, *k, *v;
  const Buffer *w, *g;  // or null: then the decay is a weight, and there is no gate
  const Buffer* out;
  const float *bonus, *norm_weight, *norm_bias, *decay;
  int heads, size;  // size: channels of a head
  float eps;
  std::size_t state_offset;  // S as [heads][key][value padded to 16]
};

struct Wkv7Op {
  const Buffer *r, *w, *k, *v, *a, *g, *v_first, *mix;  // the last two null in the first layer
  const Buffer* out;
  const float *k_k, *k_a, *r_k, *norm_weight, *norm_bias;
  int heads, size;  // size: channels of a head
  float eps;
  std::size_t state_offset;  // S as [heads][key][value padded to 16]
};

struct DeepEmbedOp {
  const Buffer *q, *extra, *out;
  Format format;  // float32 or bfloat16
  const void* table;
  std::size_t stride;  // in elements
};

struct GatherNormOp {
  const Buffer *x, *out;
  const float *norm_weight, *norm_bias;
  float eps;
};

struct TapOp {
  const Buffer *x, *out;
  const float *norm_weight, *norm_bias;  // or null: rows are copied
  float eps;
  int layer;
};

// Static: a function that the linker shares between units might be taken from one this machine cannot run.
[[maybe_unused]] static constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
[[maybe_unused]] static constexpr int round_up(int a, int b) { return ceil_div(a, b) * b; }

// K in one group of a panel.
[[maybe_unused]] static constexpr int group_k(Format format) {
  return format == Format::kFloat32 ? 1 : format == Format::kBfloat16 ? 2 : format == Format::kInt8 ? 4 : 8;
}

// Where lines kept by K lie: how many follow each other before that of K. Every fourth K does, so that who reads all of
// them reads four streams, as of panels: from one the memory gives a quarter less.
[[maybe_unused]] static constexpr int line_place(int k, int k_padded) { return k % 4 * (k_padded / 4) + k / 4; }

// Columns of a line of a weight kept by K.
[[maybe_unused]] static constexpr int line_columns(Format format) { return format == Format::kInt4 ? 2 * kBlock : kBlock; }

// Heads that one wkv unit computes: whole 64-column blocks of the output.
[[maybe_unused]] static constexpr int heads_per_unit(int heads, int size) {
  int n = 1;
  while (n < heads && (n * size) % kBlock != 0) ++n;
  return n;
}

// Tokens of a head that a unit of a recurrence prepares together.
constexpr int kHeadTokens = 8;
// What `wkv7` keeps of each of them, and what it needs beside.
constexpr int kWkv7Vectors = 8, kWkv7Temporary = 7;

[[maybe_unused]] static constexpr int wkv7_scratch(int heads, int size) {
  int columns = round_up(heads_per_unit(heads, size) * size, kBlock);
  return kHeadTokens * columns + (kHeadTokens * kWkv7Vectors + kWkv7Temporary) * round_up(size, kLanes);
}

// Rows that a unit of `linear` takes at most: few enough that no thread waits long for another's last unit, many enough
// to use the unit's weights well while they are in the cache.
constexpr int kLinearRows = 128;

// Bytes of a piece of K of a unit's weights: several tiles of rows share it while it is in the first-level cache.
constexpr int kPieceBytes = 32 * 1024;
// The same of weights kept by K, whose lines and panels want that cache together.
constexpr int kLinesPieceBytes = 8 * 1024;
// All of a unit's weights as signed bytes are a piece up to this: 768 K.
constexpr int kSignedBytes = 48 * 1024;
// What `linear` needs: a unit's product, and a piece of weights in two other forms.
constexpr std::size_t kLinearScratch = (std::size_t)kLinearRows * kBlock + (kPieceBytes + kSignedBytes) / sizeof(float);

struct KernelTable {
  const char* name;
  int bf16_act_bytes, int8_act_bytes;  // bytes a K of an activation takes in this unit's form
  // Each runs one unit; `scratch` is 64-byte aligned, scratch_floats() long, private to the thread.
  void (*embed)(const EmbedOp&, const Step&, int unit, float* scratch);
  void (*norm_shift_mix)(const NormShiftMixOp&, const Step&, int unit, float* scratch);
  void (*linear)(const LinearOp&, const Step&, int unit, float* scratch, SparseLines& lines);
  void (*wkv4)(const Wkv4Op&, const Step&, int unit);
  void (*wkv6)(const Wkv6Op&, const Step&, int unit, float* scratch);
  void (*wkv7)(const Wkv7Op&, const Step&, int unit, float* scratch);
  void (*deep_embed)(const DeepEmbedOp&, const Step&, int unit, float* scratch);
  void (*gather_norm)(const GatherNormOp&, const Step&, int unit, float* scratch);
  void (*tap)(const TapOp&, const Step&, int unit, float* scratch);
  // Reads `bytes` (a multiple of 256) as a decode step reads weights; returns something that depends on all of it.
  float (*read_bytes)(const std::uint8_t* data, std::size_t bytes);
  // Multiply-adds as `linear` issues them, on data that stays in the first-level cache: what the machine could do at
  // best. Adds to `sink` and returns the number of multiply-adds of the 16 lanes together.
  double (*peak)(Format format, int iterations, float* sink);
  // A thread calls it when it has no unit to run for now.
  void (*leave)();
};

const KernelTable& portable_kernels();
#if defined(WINGBEAT_X86)
const KernelTable& avx2_kernels();
const KernelTable& avx_vnni_kernels();
const KernelTable& avx512_kernels();
const KernelTable& avx512_vnni_kernels();
const KernelTable& avx512_bf16_kernels();
const KernelTable& amx_kernels();
#endif

}  // namespace wingbeat
