// Sixteen lanes as one AVX-512 register; BF16 and VNNI instructions where the unit is compiled with them.
// Included inside the namespace of one instruction-set unit; see kernels.inl.hpp.

typedef __m512 F16;
typedef __m512i I16;

inline F16 load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F16 v) { _mm512_storeu_ps(p, v); }
inline F16 set1(float x) { return _mm512_set1_ps(x); }
inline I16 set1i(std::int32_t x) { return _mm512_set1_epi32(x); }
inline F16 fma(F16 a, F16 b, F16 c) { return _mm512_fmadd_ps(a, b, c); }
inline F16 add(F16 a, F16 b) { return _mm512_add_ps(a, b); }
inline F16 sub(F16 a, F16 b) { return _mm512_sub_ps(a, b); }
inline F16 mul(F16 a, F16 b) { return _mm512_mul_ps(a, b); }
inline F16 div(F16 a, F16 b) { return _mm512_div_ps(a, b); }
inline F16 max(F16 a, F16 b) { return _mm512_max_ps(a, b); }
inline F16 min(F16 a, F16 b) { return _mm512_min_ps(a, b); }
inline I16 addi(I16 a, I16 b) { return _mm512_add_epi32(a, b); }
inline I16 maxi(I16 a, I16 b) { return _mm512_max_epi32(a, b); }
inline I16 magnitude(F16 v) { return _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff)); }
inline unsigned nonzero(F16 v) { return _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NEQ_UQ); }
inline F16 to_float(I16 v) { return _mm512_cvtepi32_ps(v); }

#include "simd_reduce.hpp"
inline __m256 upper_half(__m512 v) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)); }
inline float sum(F16 v) { return sum(_mm256_add_ps(_mm512_castps512_ps256(v), upper_half(v))); }
inline __m256i upper_half(__m512i v) { return _mm512_extracti64x4_epi64(v, 1); }
inline std::int32_t sum(I16 v) { return sum(_mm256_add_epi32(_mm512_castsi512_si256(v), upper_half(v))); }
inline std::int32_t largest(I16 v) { return largest(_mm256_max_epi32(_mm512_castsi512_si256(v), upper_half(v))); }

inline F16 round(F16 x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline I16 to_int(F16 x) { return _mm512_cvtps_epi32(x); }
inline F16 scale_by_power(F16 x, F16 n) {
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23)));
}

inline F16 as_float(I16 v) { return _mm512_castsi512_ps(v); }

inline F16 load_bf16(const std::uint16_t* p) {
  __m256i v = _mm256_loadu_si256((const __m256i*)p);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}

inline __m512i bf16_bits(F16 v) {  // rounded to nearest even, in the upper half of each lane
  __m512i bits = _mm512_castps_si512(v);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  return _mm512_and_si512(bits, _mm512_set1_epi32((int)0xffff0000));
}

#if defined(WINGBEAT_BF16)
struct Bf16Format {
  static constexpr int group = 2, phases = 1;
  static constexpr int act_bytes = 2;
  typedef __m512bh Weight;
  static Weight weight(I16 w, int) { return (__m512bh)w; }
  static F16 mac(F16 acc, Weight w, const std::uint8_t* act, int) {
    return _mm512_dpbf16_ps(acc, w, (__m512bh)_mm512_set1_epi32(load_int32(act)));
  }
  static void store_act(std::uint8_t* dst, F16 v) {
    __m256i halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32(bf16_bits(v), 16));
    _mm256_storeu_si256((__m256i*)dst, halves);
  }
};
#else
struct Bf16Format {  // as in simd_avx2.hpp: float32 activations, even and odd K as two phases
  static constexpr int group = 2, phases = 2;
  static constexpr int act_bytes = 4;
  typedef F16 Weight;
  static Weight weight(I16 w, int phase) {
    return _mm512_castsi512_ps(phase ? _mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000)) : _mm512_slli_epi32(w, 16));
  }
  static F16 mac(F16 acc, Weight w, const std::uint8_t* act, int phase) {
    return _mm512_fmadd_ps(_mm512_set1_ps(((const float*)act)[phase]), w, acc);
  }
  static void store_act(std::uint8_t* dst, F16 v) { store((float*)dst, _mm512_castsi512_ps(bf16_bits(v))); }
};
#endif

inline I16 load_group(const std::uint8_t* p) { return _mm512_load_si512((const void*)p); }
inline void store_group(std::uint8_t* p, I16 v) { _mm512_store_si512((void*)p, v); }

// 32 words of two lines to two groups of 16 pairs, 64 bytes of four lines to four groups of 16 fours.
inline void interleave_words(I16 x, I16 y, I16* out) {
  out[0] = _mm512_unpacklo_epi16(x, y);
  out[1] = _mm512_unpackhi_epi16(x, y);
}

inline void interleave_bytes(I16 w, I16 x, I16 y, I16 z, I16* out) {
  __m512i lo = _mm512_unpacklo_epi8(w, x), hi = _mm512_unpackhi_epi8(w, x);
  __m512i lo2 = _mm512_unpacklo_epi8(y, z), hi2 = _mm512_unpackhi_epi8(y, z);
  out[0] = _mm512_unpacklo_epi16(lo, lo2);
  out[1] = _mm512_unpackhi_epi16(lo, lo2);
  out[2] = _mm512_unpacklo_epi16(hi, hi2);
  out[3] = _mm512_unpackhi_epi16(hi, hi2);
}

inline void store_bytes(std::uint8_t* dst, I16 v) { _mm_storeu_si128((__m128i*)dst, _mm512_cvtepi32_epi8(v)); }

inline I16 nibbles(I16 w, int phase) {
  return _mm512_and_si512(phase ? _mm512_srli_epi16(w, 4) : w, _mm512_set1_epi8(0x0f));
}

// Nibbles of two registers as the halves of bytes.
inline I16 join_nibbles(I16 low, I16 high) { return _mm512_or_si512(low, _mm512_slli_epi16(high, 4)); }

// For each byte of `codes`, below 16, its entry.
inline I16 look_up(const std::uint8_t (&table)[16], I16 codes) {
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table)), codes);
}

#if defined(WINGBEAT_VNNI)
struct Int4Format {
  static I16 start(std::int32_t offset) { return set1i(offset); }
  static I16 mac(I16 acc, I16 w, const std::uint8_t* act) { return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(load_int32(act))); }
  static I16 finish(I16 acc, std::int32_t) { return acc; }
};
#else
struct Int4Format {  // eight products of pairs stay below 2^15: 8 * 2 * 15 * 127
  static I16 start(std::int32_t) { return set1i(0); }
  static I16 mac(I16 acc, I16 w, const std::uint8_t* act) {
    return _mm512_add_epi16(acc, _mm512_maddubs_epi16(w, _mm512_set1_epi32(load_int32(act))));
  }
  static I16 finish(I16 acc, std::int32_t offset) {
    return _mm512_add_epi32(_mm512_madd_epi16(acc, _mm512_set1_epi16(1)), set1i(offset));
  }
};
#endif

#if defined(WINGBEAT_VNNI)
struct Int8Format {
  static constexpr int phases = 1;
  static constexpr int act_bytes = 1;
  typedef I16 Weight;
  static Weight weight(I16 w, int) { return w; }
  static I16 mac(I16 acc, Weight w, const std::uint8_t* act, int) {
    return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(load_int32(act)));
  }
  static void store_act(std::uint8_t* dst, I16 v) { store_bytes(dst, v); }
  static std::int32_t act(const std::uint8_t* row, int k) { return ((const std::int8_t*)row)[k]; }
  static void store_one(std::uint8_t* row, int n, std::int32_t q) { row[n] = (std::uint8_t)q; }
};
#else
struct Int8Format {  // int16 pairs: see store_pairs
  static constexpr int phases = 2;
  static constexpr int act_bytes = 2;
  typedef I16 Weight;
  static Weight weight(I16 w, int phase) {
    return phase ? _mm512_srli_epi16(w, 8) : _mm512_and_si512(w, _mm512_set1_epi16(0x00ff));
  }
  static I16 mac(I16 acc, Weight w, const std::uint8_t* act, int phase) {
    return _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_set1_epi32(load_int32(act + 4 * phase)), w));
  }
  static void store_act(std::uint8_t* dst, I16 v) {
    alignas(64) std::int32_t q[16];
    _mm512_store_si512((void*)q, v);
    store_pairs(dst, q);
  }
  static std::int32_t act(const std::uint8_t* row, int k) { return paired_act(row, k); }
  static void store_one(std::uint8_t* row, int n, std::int32_t q) { ((std::int16_t*)row)[n] = (std::int16_t)q; }
};
#endif

// Rows of a tile at most; of int8 that take lines kept by K as they are.
constexpr int kFloatRows = 12, kInt8Rows = 8, kLineRows = 4;
template <int R> struct FloatPanels { static constexpr int value = R <= 6 ? 4 : 2; };
template <int R> struct Int8Panels { static constexpr int value = R <= 4 ? 4 : 2; };
constexpr int kValueVectors = 4, kWkv7ValueVectors = 4;
