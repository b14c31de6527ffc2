// Masses as whole numbers of grains: vectors add them exactly, in any order.
#pragma once

#include "sampler_lanes.inl.hpp"

namespace wingbeat::sampler {
namespace {

WINGBEAT_INLINE Floats depth_of(Floats logits, const Scale& scale) {
    return larger((logits - scale.peak) * scale.sharpness, set(cutoff));
}

// The parts of `eighths` whose numbers are the last three bits of each lane, times 2^exponent.
template <int exponent>
WINGBEAT_INLINE Ints eighth_of(Ints numbers) {
#if defined(__AVX512F__)
    Ints table;
    for (size_t i = 0; i < lanes; ++i) table[i] = eighths[i % 8] + (exponent << 23);
    return (Ints)_mm512_permutexvar_epi32((__m512i)numbers, (__m512i)table);
#elif defined(__AVX2__)
    Ints table;
    for (size_t i = 0; i < lanes; ++i) table[i] = eighths[i] + (exponent << 23);
    return (Ints)_mm256_permutevar8x32_epi32((__m256i)table, (__m256i)numbers);
#else
    Ints found;
    for (size_t i = 0; i < lanes; ++i) found[i] = eighths[numbers[i] & 7] + (exponent << 23);
    return found;
#endif
}

// 2^(depth + exponent); see exp2_f32.
template <int exponent = 0>
WINGBEAT_INLINE Floats power_of(Floats depth) {
    const Floats shifted = depth + to_eighths;
    const Floats r = depth - (shifted - to_eighths);
    const Floats part = ((power_of_two[2] * r + power_of_two[1]) * r + power_of_two[0]) * r + 1.f;
    return (Floats)(eighth_of<exponent>((Ints)shifted) + ((Ints)shifted << 20)) * part;
}

// Rounded to whole numbers, ties to even ones.
WINGBEAT_INLINE Ints whole(Floats v) {
#if defined(__AVX512F__)
    return (Ints)_mm512_cvtps_epi32((__m512)v);
#elif defined(__AVX2__)
    return (Ints)_mm256_cvtps_epi32((__m256)v);
#elif defined(__SSE2__)
    return (Ints)_mm_cvtps_epi32((__m128)v);
#else
    Ints found;
    for (size_t i = 0; i < lanes; ++i) found[i] = static_cast<int32_t>(__builtin_rintf(v[i]));
    return found;
#endif
}

// The masses of tokens in grains, of which there are 2^29 in the largest.
WINGBEAT_INLINE Ints units_of(Floats logits, const Scale& scale) { return whole(power_of<29>(depth_of(logits, scale))); }
WINGBEAT_INLINE Ints units_of_weights(Floats weights) { return whole(weights * set(0x1p29f)); }

typedef uint64_t Longs __attribute__((vector_size(4 * lanes)));

// Of one vector after the other. Four in a lane have no room for a fifth.
class Units {
   public:
    // `place` counts values: a multiple of `lanes` from 0 on.
    WINGBEAT_INLINE void add(size_t place, Ints units) {
        few_ += units;
        if (place / lanes % 4 == 3) carry();
    }
    WINGBEAT_INLINE void add(size_t place, Ints units, Mask wanted) {
        few_ = add_where(wanted, few_, units);
        if (place / lanes % 4 == 3) carry();
    }

    // Of whole blocks.
    WINGBEAT_INLINE double mass() const {
#if defined(__AVX512F__)
        const auto sum = static_cast<uint64_t>(_mm512_reduce_add_epi64((__m512i)many_));
#else
        uint64_t sum = 0;
        for (size_t i = 0; i < lanes / 2; ++i) sum += many_[i];
#endif
        return static_cast<double>(static_cast<int64_t>(sum)) * 0x1p-29;
    }

   private:
    WINGBEAT_INLINE void carry() {
        many_ += ((Longs)few_ & 0xffffffffu) + ((Longs)few_ >> 32);
        few_ = Ints{};
    }

    Ints few_{};
    Longs many_{};
};

}  // namespace
}  // namespace wingbeat::sampler
