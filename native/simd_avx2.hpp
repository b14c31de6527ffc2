// Sixteen lanes as two AVX2 registers (with FMA).
// Included inside the namespace of one instruction-set unit; see kernels.inl.hpp.

struct F16 { __m256 lo, hi; };
struct I16 { __m256i lo, hi; };

inline F16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F16 v) { _mm256_storeu_ps(p, v.lo); _mm256_storeu_ps(p + 8, v.hi); }
inline F16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline I16 set1i(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline F16 fma(F16 a, F16 b, F16 c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
inline F16 add(F16 a, F16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline F16 sub(F16 a, F16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline F16 mul(F16 a, F16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline F16 div(F16 a, F16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline F16 max(F16 a, F16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline F16 min(F16 a, F16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline I16 addi(I16 a, I16 b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline I16 maxi(I16 a, I16 b) { return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)}; }
inline __m256i magnitude(__m256 v) { return _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fffffff)); }
inline I16 magnitude(F16 v) { return {magnitude(v.lo), magnitude(v.hi)}; }
inline unsigned nonzero(__m256 v) { return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NEQ_UQ)); }
inline unsigned nonzero(F16 v) { return nonzero(v.lo) | nonzero(v.hi) << 8; }
inline F16 to_float(I16 v) { return {_mm256_cvtepi32_ps(v.lo), _mm256_cvtepi32_ps(v.hi)}; }

#include "simd_reduce.hpp"
inline float sum(F16 v) { return sum(_mm256_add_ps(v.lo, v.hi)); }
inline std::int32_t sum(I16 v) { return sum(_mm256_add_epi32(v.lo, v.hi)); }
inline std::int32_t largest(I16 v) { return largest(_mm256_max_epi32(v.lo, v.hi)); }

inline F16 round(F16 x) {
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.lo, nearest), _mm256_round_ps(x.hi, nearest)};
}
inline I16 to_int(F16 x) { return {_mm256_cvtps_epi32(x.lo), _mm256_cvtps_epi32(x.hi)}; }
inline __m256 scale_by_power(__m256 x, __m256 n) {
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
}
inline F16 scale_by_power(F16 x, F16 n) { return {scale_by_power(x.lo, n.lo), scale_by_power(x.hi, n.hi)}; }

inline F16 as_float(I16 v) { return {_mm256_castsi256_ps(v.lo), _mm256_castsi256_ps(v.hi)}; }

inline __m256 widen_bf16(__m128i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16)); }
inline F16 load_bf16(const std::uint16_t* p) {
  const __m128i* q = (const __m128i*)p;
  return {widen_bf16(_mm_loadu_si128(q)), widen_bf16(_mm_loadu_si128(q + 1))};
}

inline __m256 round_to_bf16(__m256 v) {
  __m256i bits = _mm256_castps_si256(v);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  return _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32((int)0xffff0000)));
}

// bfloat16 activations stay float32 (rounded): a pair costs two broadcasts instead of two shifts a row.
// Even and odd K are two phases, so that twelve accumulators, two weights and a broadcast fit the registers.
struct Bf16Format {
  static constexpr int group = 2, phases = 2;
  static constexpr int act_bytes = 4;
  typedef F16 Weight;
  static Weight weight(I16 w, int phase) {
    if (phase == 0) return as_float({_mm256_slli_epi32(w.lo, 16), _mm256_slli_epi32(w.hi, 16)});
    __m256i odd = _mm256_set1_epi32((int)0xffff0000);
    return as_float({_mm256_and_si256(w.lo, odd), _mm256_and_si256(w.hi, odd)});
  }
  static F16 mac(F16 acc, Weight w, const std::uint8_t* act, int phase) {
    __m256 a = _mm256_broadcast_ss((const float*)act + phase);
    acc = {_mm256_fmadd_ps(a, w.lo, acc.lo), _mm256_fmadd_ps(a, w.hi, acc.hi)};
    asm("" : "+x"(acc.lo), "+x"(acc.hi));
    return acc;
  }
  static void store_act(std::uint8_t* dst, F16 v) { store((float*)dst, {round_to_bf16(v.lo), round_to_bf16(v.hi)}); }
};

inline I16 load_group(const std::uint8_t* p) { return {_mm256_load_si256((const __m256i*)p), _mm256_load_si256((const __m256i*)p + 1)}; }
inline void store_group(std::uint8_t* p, I16 v) {
  _mm256_store_si256((__m256i*)p, v.lo);
  _mm256_store_si256((__m256i*)p + 1, v.hi);
}

// 32 words of two lines to two groups of 16 pairs, 64 bytes of four lines to four groups of 16 fours.
inline void interleave_words(I16 x, I16 y, I16* out) {
  out[0] = {_mm256_unpacklo_epi16(x.lo, y.lo), _mm256_unpacklo_epi16(x.hi, y.hi)};
  out[1] = {_mm256_unpackhi_epi16(x.lo, y.lo), _mm256_unpackhi_epi16(x.hi, y.hi)};
}

inline void interleave_bytes(I16 w, I16 x, I16 y, I16 z, I16* out) {
  I16 lo = {_mm256_unpacklo_epi8(w.lo, x.lo), _mm256_unpacklo_epi8(w.hi, x.hi)};
  I16 hi = {_mm256_unpackhi_epi8(w.lo, x.lo), _mm256_unpackhi_epi8(w.hi, x.hi)};
  I16 lo2 = {_mm256_unpacklo_epi8(y.lo, z.lo), _mm256_unpacklo_epi8(y.hi, z.hi)};
  I16 hi2 = {_mm256_unpackhi_epi8(y.lo, z.lo), _mm256_unpackhi_epi8(y.hi, z.hi)};
  interleave_words(lo, lo2, out);
  interleave_words(hi, hi2, out + 2);
}

inline void store_bytes(std::uint8_t* dst, I16 v) {
  __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.lo, v.hi), 0xd8);
  _mm_storeu_si128((__m128i*)dst, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

inline I16 nibbles(I16 w, int phase) {
  if (phase) w = {_mm256_srli_epi16(w.lo, 4), _mm256_srli_epi16(w.hi, 4)};
  __m256i low = _mm256_set1_epi8(0x0f);
  return {_mm256_and_si256(w.lo, low), _mm256_and_si256(w.hi, low)};
}

// Nibbles of two registers as the halves of bytes.
inline I16 join_nibbles(I16 low, I16 high) {
  return {_mm256_or_si256(low.lo, _mm256_slli_epi16(high.lo, 4)), _mm256_or_si256(low.hi, _mm256_slli_epi16(high.hi, 4))};
}

// For each byte of `codes`, below 16, its entry.
inline I16 look_up(const std::uint8_t (&table)[16], I16 codes) {
  __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table));
  return {_mm256_shuffle_epi8(t, codes.lo), _mm256_shuffle_epi8(t, codes.hi)};
}

#if defined(WINGBEAT_AVX_VNNI)
inline I16 add_bytes(I16 acc, I16 w, const std::uint8_t* act) {
  __m256i a = _mm256_set1_epi32(load_int32(act));
  return {_mm256_dpbusd_avx_epi32(acc.lo, w.lo, a), _mm256_dpbusd_avx_epi32(acc.hi, w.hi, a)};
}

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

struct Int4Format {
  static I16 start(std::int32_t offset) { return set1i(offset); }
  static I16 mac(I16 acc, I16 w, const std::uint8_t* act) { return add_bytes(acc, w, act); }
  static I16 finish(I16 acc, std::int32_t) { return acc; }
};
#else
// int8 activations as int16 pairs: see store_pairs.
struct Int8Format {
  static constexpr int phases = 2;
  static constexpr int act_bytes = 2;
  typedef I16 Weight;
  static Weight weight(I16 w, int phase) {
    if (phase) return {_mm256_srli_epi16(w.lo, 8), _mm256_srli_epi16(w.hi, 8)};
    __m256i even = _mm256_set1_epi16(0x00ff);
    return {_mm256_and_si256(w.lo, even), _mm256_and_si256(w.hi, even)};
  }
  static I16 mac(I16 acc, Weight w, const std::uint8_t* act, int phase) {
    __m256i a = _mm256_set1_epi32(load_int32(act + 4 * phase));
    acc = {_mm256_add_epi32(acc.lo, _mm256_madd_epi16(a, w.lo)), _mm256_add_epi32(acc.hi, _mm256_madd_epi16(a, w.hi))};
    // Keeps GCC from adding the two phases' products first, which needs registers that it then spills.
    asm("" : "+x"(acc.lo), "+x"(acc.hi));
    return acc;
  }
  static void store_act(std::uint8_t* dst, I16 v) {
    alignas(32) std::int32_t q[16];
    _mm256_store_si256((__m256i*)q, v.lo);
    _mm256_store_si256((__m256i*)q + 1, v.hi);
    store_pairs(dst, q);
  }
  static std::int32_t act(const std::uint8_t* row, int k) { return paired_act(row, k); }
  static void store_one(std::uint8_t* row, int n, std::int32_t q) { ((std::int16_t*)row)[n] = (std::int16_t)q; }
};

struct Int4Format {  // eight products of pairs stay below 2^15: 8 * 2 * 15 * 127
  static I16 start(std::int32_t) { return set1i(0); }
  static I16 mac(I16 acc, I16 w, const std::uint8_t* act) {
    __m256i a = _mm256_set1_epi32(load_int32(act));
    return {_mm256_add_epi16(acc.lo, _mm256_maddubs_epi16(w.lo, a)), _mm256_add_epi16(acc.hi, _mm256_maddubs_epi16(w.hi, a))};
  }
  static I16 finish(I16 acc, std::int32_t offset) {
    __m256i ones = _mm256_set1_epi16(1), o = _mm256_set1_epi32(offset);
    return {_mm256_add_epi32(_mm256_madd_epi16(acc.lo, ones), o), _mm256_add_epi32(_mm256_madd_epi16(acc.hi, ones), o)};
  }
};
#endif

// Rows of a tile at most; of int8 that take lines kept by K as they are.
constexpr int kFloatRows = 6, kInt8Rows = 4, kLineRows = 2;
template <int R> struct FloatPanels { static constexpr int value = R == 1 ? 4 : R == 2 ? 2 : 1; };
template <int R> struct Int8Panels { static constexpr int value = R <= 2 ? 2 : 1; };
constexpr int kValueVectors = 2, kWkv7ValueVectors = 1;
