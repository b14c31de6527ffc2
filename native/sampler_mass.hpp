// Masses: probabilities relative to the most likely token's, and how they are summed.
//
// They repeat src/wingbeat/sampling/masses.py operation for operation, so whatever includes this file must be compiled
// without floating-point contraction (-ffp-contract=off). They are rounded to grains of 2^-29 so that sums of them are
// exact in whole numbers and in float64: a sum may be reordered freely.
#pragma once

#include <cstddef>
#include <cstdint>

// Always inlined: units for different instruction sets must not share a copy.
#define WINGBEAT_INLINE inline __attribute__((always_inline))

namespace wingbeat::sampler {

constexpr size_t block = 64;      // ids summarised by one maximum and one sum
constexpr size_t stretch = 1024;  // ids of a few blocks that are worth a call
constexpr float cutoff = -30.5f;  // tokens less likely than 2^cutoff of the most likely one have no mass

WINGBEAT_INLINE size_t block_count(size_t size) { return (size + block - 1) / block; }

// How logits become masses.
struct Scale {
    float peak;       // the largest logit, finite
    float sharpness;  // log2(e) / temperature, finite, >= 0
};

constexpr double rounder = 0x1.8p23;  // adding and subtracting it rounds to grains
constexpr float to_eighths = 0x1.8p20f;  // and this to multiples of 1/8

// 2^x, see exp2_f32 in masses.py: the coefficients of its polynomial, and the bits of 2^(k/8) less those that k itself
// brings in.
constexpr float power_of_two[] = {0.6931472420692444f, 0.2402576357126236f, 0.0554962232708931f};
constexpr int32_t eighths[] = {0x3f800000, 0x3f8b95c2 - (1 << 20), 0x3f9837f0 - (2 << 20), 0x3fa5fed7 - (3 << 20),
                               0x3fb504f3 - (4 << 20), 0x3fc5672a - (5 << 20), 0x3fd744fd - (6 << 20), 0x3feac0c7 - (7 << 20)};

// 2^x for cutoff <= x <= 0.
WINGBEAT_INLINE float exp2_f32(float x) {
    const float shifted = x + to_eighths;
    const float r = x - (shifted - to_eighths);
    const float part = ((power_of_two[2] * r + power_of_two[1]) * r + power_of_two[0]) * r + 1.f;
    const uint32_t bits = __builtin_bit_cast(uint32_t, shifted);
    return __builtin_bit_cast(float, static_cast<uint32_t>(eighths[bits & 7]) + (bits << 20)) * part;
}

// log2 of a token's probability relative to the largest, not below the cutoff.
// NaN (an infinite logit times a sharpness of 0) fails the comparison and is at the cutoff.
WINGBEAT_INLINE float depth_of(float logit, const Scale& scale) {
    const float depth = (logit - scale.peak) * scale.sharpness;
    return depth > cutoff ? depth : cutoff;
}

WINGBEAT_INLINE double rounded(float weight) {
    return (static_cast<double>(weight) + rounder) - rounder;
}

WINGBEAT_INLINE double mass_of(float logit, const Scale& scale) {
    return rounded(exp2_f32(depth_of(logit, scale)));
}

}  // namespace wingbeat::sampler
