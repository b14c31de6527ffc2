// SIMDe's AVX-512, and the few intrinsics that its packaged release lacks, for tools/avx512/test.sh.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

#include <cmath>
#include <cstdint>

namespace emulated {

template <class To, class From>
To bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

template <class T, int N>
struct Lanes {
  T v[N];
};

inline simde__m512i cvtps_epi32(simde__m512 a) {
  auto x = bits<Lanes<float, 16>>(a);
  Lanes<std::int32_t, 16> r;
  for (int i = 0; i < 16; ++i) r.v[i] = (std::int32_t)std::nearbyint(x.v[i]);
  return bits<simde__m512i>(r);
}

inline simde__m512 cvtepi32_ps(simde__m512i a) {
  auto x = bits<Lanes<std::int32_t, 16>>(a);
  Lanes<float, 16> r;
  for (int i = 0; i < 16; ++i) r.v[i] = (float)x.v[i];
  return bits<simde__m512>(r);
}

inline simde__m256i cvtepi32_epi16(simde__m512i a) {
  auto x = bits<Lanes<std::int32_t, 16>>(a);
  Lanes<std::int16_t, 16> r;
  for (int i = 0; i < 16; ++i) r.v[i] = (std::int16_t)x.v[i];
  return bits<simde__m256i>(r);
}

inline simde__m128i cvtepi32_epi8(simde__m512i a) {
  auto x = bits<Lanes<std::int32_t, 16>>(a);
  Lanes<std::int8_t, 16> r;
  for (int i = 0; i < 16; ++i) r.v[i] = (std::int8_t)x.v[i];
  return bits<simde__m128i>(r);
}

inline simde__m512i cvtepu16_epi32(simde__m256i a) {
  auto x = bits<Lanes<std::uint16_t, 16>>(a);
  Lanes<std::int32_t, 16> r;
  for (int i = 0; i < 16; ++i) r.v[i] = x.v[i];
  return bits<simde__m512i>(r);
}

inline simde__m512i madd_epi16(simde__m512i a, simde__m512i b) {
  auto x = bits<Lanes<std::int16_t, 32>>(a), y = bits<Lanes<std::int16_t, 32>>(b);
  Lanes<std::int32_t, 16> r;
  for (int i = 0; i < 16; ++i) r.v[i] = x.v[2 * i] * y.v[2 * i] + x.v[2 * i + 1] * y.v[2 * i + 1];
  return bits<simde__m512i>(r);
}

}  // namespace emulated

#undef _mm512_cvtps_epi32
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtepi32_epi16
#undef _mm512_cvtepi32_epi8
#undef _mm512_cvtepu16_epi32
#undef _mm512_madd_epi16
#define _mm512_cvtps_epi32 emulated::cvtps_epi32
#define _mm512_cvtepi32_ps emulated::cvtepi32_ps
#define _mm512_cvtepi32_epi16 emulated::cvtepi32_epi16
#define _mm512_cvtepi32_epi8 emulated::cvtepi32_epi8
#define _mm512_cvtepu16_epi32 emulated::cvtepu16_epi32
#define _mm512_madd_epi16 emulated::madd_epi16
