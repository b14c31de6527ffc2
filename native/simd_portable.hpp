// Sixteen lanes in plain C++ (GCC/Clang vector types): compiles for any machine.
// Included inside the namespace of one instruction-set unit; see kernels.inl.hpp.

typedef float F16 __attribute__((vector_size(64)));
typedef std::int32_t I16 __attribute__((vector_size(64)));
typedef std::uint32_t U16 __attribute__((vector_size(64)));

inline F16 load(const float* p) { F16 v; __builtin_memcpy(&v, p, 64); return v; }
inline void store(float* p, F16 v) { __builtin_memcpy(p, &v, 64); }
inline F16 set1(float x) { return F16{} + x; }
inline I16 set1i(std::int32_t x) { return I16{} + x; }
inline F16 fma(F16 a, F16 b, F16 c) { return a * b + c; }
inline F16 add(F16 a, F16 b) { return a + b; }
inline F16 sub(F16 a, F16 b) { return a - b; }
inline F16 mul(F16 a, F16 b) { return a * b; }
inline F16 div(F16 a, F16 b) { return a / b; }
inline F16 max(F16 a, F16 b) { return a > b ? a : b; }
inline F16 min(F16 a, F16 b) { return a < b ? a : b; }
inline I16 addi(I16 a, I16 b) { return a + b; }
inline I16 maxi(I16 a, I16 b) { return a > b ? a : b; }
inline I16 magnitude(F16 v) { return (I16)((U16)v & 0x7fffffffu); }
inline unsigned nonzero(F16 v) {
  unsigned bits = 0;
  for (int i = 0; i < 16; ++i) bits |= (unsigned)!(v[i] == 0.0f) << i;
  return bits;
}
inline F16 to_float(I16 v) { return __builtin_convertvector(v, F16); }

// Rounds to the nearest integer, ties to even; |x| < 2^22.
inline F16 round(F16 x) { return (x + 12582912.0f) - 12582912.0f; }
inline I16 to_int(F16 x) { return __builtin_convertvector(round(x), I16); }
// x * 2^n for whole n with a normal result.
inline F16 scale_by_power(F16 x, F16 n) { return (F16)((I16)x + (__builtin_convertvector(n, I16) << 23)); }

// Of all lanes: the upper half joins the lower one, until one is left. The same order everywhere.
inline float sum(F16 v) {
  float lane[kLanes];
  store(lane, v);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  return lane[0];
}

inline std::int32_t sum(I16 v) {
  std::int32_t total = 0;
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

inline std::int32_t largest(I16 v) {
  std::int32_t most = v[0];
  for (int i = 1; i < kLanes; ++i) most = v[i] > most ? v[i] : most;
  return most;
}

inline F16 load_bf16(const std::uint16_t* p) {
  U16 v;
  for (int i = 0; i < 16; ++i) v[i] = (std::uint32_t)p[i] << 16;
  return (F16)v;
}

inline F16 round_to_bf16(F16 v) {
  U16 bits = (U16)v;
  return (F16)((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
}

// bfloat16 activations stay float32 (rounded): a pair costs two broadcasts instead of two shifts a row.
struct Bf16Format {
  static constexpr int group = 2, phases = 2;
  static constexpr int act_bytes = 4;
  typedef F16 Weight;
  static Weight weight(I16 w, int phase) {
    return (F16)(phase ? (U16)w & 0xffff0000u : (U16)w << 16);
  }
  static F16 mac(F16 acc, Weight w, const std::uint8_t* act, int phase) {
    return fma(set1(((const float*)act)[phase]), w, acc);
  }
  static void store_act(std::uint8_t* dst, F16 v) { store((float*)dst, round_to_bf16(v)); }
};

inline I16 load_group(const std::uint8_t* p) { I16 v; __builtin_memcpy(&v, p, 64); return v; }
inline void store_group(std::uint8_t* p, I16 v) { __builtin_memcpy(p, &v, 64); }
inline F16 as_float(I16 v) { return (F16)v; }

// 32 words of two lines to two groups of 16 pairs, 64 bytes of four lines to four groups of 16 fours. Values lie in a
// line as instructions that interleave within 16 bytes want it.
inline void interleave_words(I16 x, I16 y, I16* out) {
  const std::uint8_t *a = (const std::uint8_t*)&x, *b = (const std::uint8_t*)&y;
  for (int p = 0; p < 2; ++p)
    for (int lane = 0; lane < 16; ++lane) {
      int at = 2 * (lane / 4 * 8 + p * 4 + lane % 4);
      std::uint8_t* pair = (std::uint8_t*)&out[p] + 4 * lane;
      __builtin_memcpy(pair, a + at, 2);
      __builtin_memcpy(pair + 2, b + at, 2);
    }
}

inline void interleave_bytes(I16 w, I16 x, I16 y, I16 z, I16* out) {
  const std::uint8_t *a = (const std::uint8_t*)&w, *b = (const std::uint8_t*)&x;
  const std::uint8_t *c = (const std::uint8_t*)&y, *d = (const std::uint8_t*)&z;
  for (int p = 0; p < 4; ++p)
    for (int lane = 0; lane < 16; ++lane) {
      int at = lane / 4 * 16 + p * 4 + lane % 4;
      std::uint8_t* group = (std::uint8_t*)&out[p] + 4 * lane;
      group[0] = a[at], group[1] = b[at], group[2] = c[at], group[3] = d[at];
    }
}

inline void store_bytes(std::uint8_t* dst, I16 v) {
  for (int i = 0; i < 16; ++i) dst[i] = (std::uint8_t)(std::int8_t)v[i];
}

// acc += the dot products of each lane's four unsigned bytes with four signed ones.
inline I16 add_bytes(I16 acc, I16 w, const std::uint8_t* act) {
  const std::int8_t* a = (const std::int8_t*)act;
  std::uint8_t q[64];
  __builtin_memcpy(q, &w, 64);
  for (int i = 0; i < 16; ++i) acc[i] += a[0] * q[4 * i] + a[1] * q[4 * i + 1] + a[2] * q[4 * i + 2] + a[3] * q[4 * i + 3];
  return acc;
}

// int8 activations stay bytes, in K order; weights are bytes plus 128.
struct Int8Format {
  static constexpr int phases = 1;
  static constexpr int act_bytes = 1;
  typedef I16 Weight;
  static Weight weight(I16 w, int) { return w; }
  static I16 mac(I16 acc, Weight w, const std::uint8_t* act, int) { return add_bytes(acc, w, act); }
  static void store_act(std::uint8_t* dst, I16 v) { store_bytes(dst, v); }
  static std::int32_t act(const std::uint8_t* row, int k) { return ((const std::int8_t*)row)[k]; }
  static void store_one(std::uint8_t* row, int n, std::int32_t q) { row[n] = (std::uint8_t)q; }
};

inline I16 nibbles(I16 w, int phase) { return (I16)((U16)w >> (4 * phase) & 0x0f0f0f0fu); }

// Nibbles of two registers as the halves of bytes.
inline I16 join_nibbles(I16 low, I16 high) { return low | high << 4; }

// For each byte of `codes`, below 16, its entry.
inline I16 look_up(const std::uint8_t (&table)[16], I16 codes) {
  std::uint8_t bytes[64];
  __builtin_memcpy(bytes, &codes, 64);
  for (int i = 0; i < 64; ++i) bytes[i] = table[bytes[i]];
  __builtin_memcpy(&codes, bytes, 64);
  return codes;
}

struct Int4Format {
  static I16 start(std::int32_t offset) { return set1i(offset); }
  static I16 mac(I16 acc, I16 w, const std::uint8_t* act) { return add_bytes(acc, w, act); }
  static I16 finish(I16 acc, std::int32_t) { return acc; }
};

// Rows and panels of a register tile.
// Rows of a tile at most; of int8 that take lines kept by K as they are.
constexpr int kFloatRows = 4, kInt8Rows = 4, kLineRows = 2;
template <int R> struct FloatPanels { static constexpr int value = R == 1 ? 2 : 1; };
template <int R> struct Int8Panels { static constexpr int value = 1; };
// Vectors of value rows that a recurrence keeps in registers; RWKV-7 needs five for each.
constexpr int kValueVectors = 2, kWkv7ValueVectors = 1;
