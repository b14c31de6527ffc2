// Masses: probabilities relative to the most likely token's, and how they are summed.
//
// They repeat src/wingbeat/sampling/reference.py operation for operation, so whatever includes this file must be
// compiled without floating-point contraction (-ffp-contract=off). They are rounded so that sums of them are exact in
// float64: a sum may be reordered freely.
#pragma once

#include <cstddef>
#include <cstdint>

// Always inlined: units for different instruction sets must not share a copy.
#define WINGBEAT_INLINE inline __attribute__((always_inline))

namespace wingbeat::sampler {

constexpr size_t block = 64;      // ids summarised by one maximum and one sum
constexpr size_t stretch = 1024;  // ids of a few blocks that are worth a call
constexpr float cutoff = -37.5f;  // tokens less likely than 2^cutoff of the most likely one have no mass

WINGBEAT_INLINE size_t block_count(size_t size) { return (size + block - 1) / block; }

// How logits become masses.
struct Scale {
    float peak;       // the largest logit, finite
    float sharpness;  // log2(e) / temperature, finite, >= 0
    double rounder;   // see mass_rounder in reference.py
};

// The coefficients of 2^x; see exp2_f32 in reference.py.
constexpr float power_of_two[] = {0.00015353361959569156f, 0.0013398873852565885f, 0.00961843691766262f,
                                  0.055503323674201965f,   0.24022647738456726f,   0.6931471824645996f, 1.f};
constexpr float to_integer = 12582912.f;  // 1.5 * 2^23

// 2^x for cutoff <= x <= 0.
WINGBEAT_INLINE float exp2_f32(float x) {
    const float shifted = x + to_integer;
    const float r = x - (shifted - to_integer);
    float power = power_of_two[0];
    for (int i = 1; i < 7; ++i) power = power * r + power_of_two[i];
    return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, power) + (__builtin_bit_cast(uint32_t, shifted) << 23));
}

// log2 of a token's probability relative to the largest, not below the cutoff.
// NaN (an infinite logit times a sharpness of 0) fails the comparison and is at the cutoff.
WINGBEAT_INLINE float depth_of(float logit, const Scale& scale) {
    const float depth = (logit - scale.peak) * scale.sharpness;
    return depth > cutoff ? depth : cutoff;
}

WINGBEAT_INLINE double rounded(float weight, double rounder) {
    return (static_cast<double>(weight) + rounder) - rounder;
}

WINGBEAT_INLINE double mass_of(float logit, const Scale& scale) {
    return rounded(exp2_f32(depth_of(logit, scale)), scale.rounder);
}

}  // namespace wingbeat::sampler
