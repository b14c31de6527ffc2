// Vectors of one instruction set, and how a row is read in blocks of them. Included by one unit for each set.
#pragma once

#include "sampler_passes.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace wingbeat::sampler {
namespace {

#if defined(__AVX512F__)
constexpr size_t lanes = 16;
#elif defined(__AVX2__)
constexpr size_t lanes = 8;
#else
constexpr size_t lanes = 4;
#endif
typedef float Floats __attribute__((vector_size(4 * lanes)));
typedef int32_t Ints __attribute__((vector_size(4 * lanes)));
typedef float UnalignedFloats __attribute__((vector_size(4 * lanes), aligned(4), may_alias));

constexpr float no_logit = -__builtin_inff();

WINGBEAT_INLINE Floats load(const float* p) { return *reinterpret_cast<const UnalignedFloats*>(p); }
WINGBEAT_INLINE void store(float* p, Floats v) { *reinterpret_cast<UnalignedFloats*>(p) = v; }
WINGBEAT_INLINE Floats set(float x) { return Floats{} + x; }

// a > b ? a : b, so that of a NaN and a number it is b.
WINGBEAT_INLINE Floats larger(Floats a, Floats b) {
#if defined(__AVX512F__)
    return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (Floats)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (Floats)_mm_max_ps((__m128)a, (__m128)b);
#else
    return a > b ? a : b;
#endif
}

#if defined(__AVX512F__)
typedef __mmask16 Mask;
WINGBEAT_INLINE Mask above(Floats v, float least) { return _mm512_cmp_ps_mask((__m512)v, _mm512_set1_ps(least), _CMP_GT_OQ); }
WINGBEAT_INLINE Mask from(Floats v, float least) { return _mm512_cmp_ps_mask((__m512)v, _mm512_set1_ps(least), _CMP_GE_OQ); }
WINGBEAT_INLINE Floats add_where(Mask mask, Floats sum, Floats v) {
    return (Floats)_mm512_mask_add_ps((__m512)sum, mask, (__m512)sum, (__m512)v);
}
WINGBEAT_INLINE Ints add_where(Mask mask, Ints sum, Ints v) {
    return (Ints)_mm512_mask_add_epi32((__m512i)sum, mask, (__m512i)sum, (__m512i)v);
}
#else
typedef Ints Mask;
WINGBEAT_INLINE Mask above(Floats v, float least) { return v > least; }
WINGBEAT_INLINE Mask from(Floats v, float least) { return v >= least; }
WINGBEAT_INLINE Floats add_where(Mask mask, Floats sum, Floats v) { return sum + (mask ? v : Floats{}); }
WINGBEAT_INLINE Ints add_where(Mask mask, Ints sum, Ints v) { return sum + (v & mask); }
#endif

// The lanes whose number, the first one's being `first`, is not above `last`.
WINGBEAT_INLINE Mask up_to(int32_t first, int32_t last) {
    Ints ids{};
    for (size_t i = 0; i < lanes; ++i) ids[i] = first + static_cast<int32_t>(i);
#if defined(__AVX512F__)
    return _mm512_cmple_epi32_mask((__m512i)ids, _mm512_set1_epi32(last));
#else
    return ids <= last;
#endif
}

WINGBEAT_INLINE float sum(Floats v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float all = 0;
    for (size_t i = 0; i < lanes; ++i) all += v[i];
    return all;
#endif
}

WINGBEAT_INLINE float largest(Floats v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float most = v[0];
    for (size_t i = 1; i < lanes; ++i) most = v[i] > most ? v[i] : most;
    return most;
#endif
}

// A block's values; those that the last one lacks are in `room`, where they weigh nothing.
WINGBEAT_INLINE const float* whole_block(const float* values, size_t size, size_t b, float filler, float* room) {
    const float* start = values + b * block;
    const size_t left = size - b * block;
    if (left >= block) return start;
    for (size_t i = 0; i < block; ++i) room[i] = i < left ? start[i] : filler;
    return room;
}

// Asks for what will be read next, a block of it for each block that is worked on: it is not in this core's caches.
WINGBEAT_INLINE void ask_for(const float* ahead) {
    for (size_t i = 0; i < block; i += 16) __builtin_prefetch(ahead + i, 0, 2);
}

constexpr size_t soon = 24;  // blocks: beyond the page that the processor fetches ahead within

// The values whose bit is set, from the lowest on; the others are at -inf.
WINGBEAT_INLINE Floats keep(uint64_t bits, Floats v) {
#if defined(__AVX512F__)
    return (Floats)_mm512_mask_mov_ps((__m512)set(no_logit), static_cast<Mask>(bits), (__m512)v);
#else
    Ints lane{};
    for (size_t i = 0; i < lanes; ++i) lane[i] = 1 << i;
    return ((Ints{} + static_cast<int32_t>(bits & ((1 << lanes) - 1))) & lane) != 0 ? v : set(no_logit);
#endif
}

WINGBEAT_INLINE void append(List& list, Floats logits, Mask wanted, int32_t first) {
#if defined(__AVX512F__)
    const __m512i steps = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i ids = _mm512_add_epi32(_mm512_set1_epi32(first), steps);
    _mm512_storeu_ps(list.logits + list.size, _mm512_maskz_compress_ps(wanted, (__m512)logits));
    _mm512_storeu_si512(list.ids + list.size, _mm512_maskz_compress_epi32(wanted, ids));
    list.size += static_cast<size_t>(__builtin_popcount(wanted));
#else
#if defined(__AVX2__)
    uint32_t bits = static_cast<uint32_t>(_mm256_movemask_ps((__m256)wanted));
#else
    uint32_t bits = 0;
    for (size_t i = 0; i < lanes; ++i) bits |= static_cast<uint32_t>(wanted[i] & 1) << i;
#endif
    for (; bits != 0; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits);
        list.logits[list.size] = logits[lane];
        list.ids[list.size++] = first + lane;
    }
#endif
}

}  // namespace
}  // namespace wingbeat::sampler
