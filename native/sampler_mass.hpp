// Passes over a row of logits: block maxima, and masses (probabilities relative to the largest).
//
// Masses repeat src/wingbeat/sampling/reference.py operation for operation, so this file must be compiled without
// floating-point contraction (-ffp-contract=off). They are rounded so that sums of them are exact in float64: a sum
// may be reordered freely, which is what makes the `omp simd` reductions (-fopenmp-simd, no OpenMP runtime) safe.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

// One copy of a hot loop for each instruction set, chosen when the module is loaded.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define WINGBEAT_CLONES __attribute__((target_clones("default", "avx2", "arch=x86-64-v4")))
#else
#define WINGBEAT_CLONES
#endif
#define WINGBEAT_INLINE inline __attribute__((always_inline))

namespace wingbeat::sampler {

constexpr size_t block = 64;     // ids summarised by one maximum and one sum
constexpr float cutoff = -37.5f;  // tokens less likely than 2^cutoff of the most likely one have no mass

inline size_t block_count(size_t size) { return (size + block - 1) / block; }

// How logits become masses.
struct Scale {
    float peak;       // the largest logit, finite
    float sharpness;  // log2(e) / temperature, finite, >= 0
    double rounder;   // see mass_rounder in reference.py
};

// 2^x for cutoff <= x <= 0; see exp2_f32 in reference.py.
WINGBEAT_INLINE float exp2_f32(float x) {
    constexpr float to_integer = 12582912.f;  // 1.5 * 2^23
    const float shifted = x + to_integer;
    const float r = x - (shifted - to_integer);
    float power = 0.00015353361959569156f;
    power = power * r + 0.0013398873852565885f;
    power = power * r + 0.00961843691766262f;
    power = power * r + 0.055503323674201965f;
    power = power * r + 0.24022647738456726f;
    power = power * r + 0.6931471824645996f;
    power = power * r + 1.f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(power) + (std::bit_cast<uint32_t>(shifted) << 23));
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

WINGBEAT_INLINE float block_peak(const float* logits, size_t size, int& nan) {
    float peak = -__builtin_inff();
    int strange = 0;
#pragma omp simd reduction(max : peak) reduction(| : strange)
    for (size_t i = 0; i < size; ++i) {
        peak = logits[i] > peak ? logits[i] : peak;
        strange |= logits[i] != logits[i];
    }
    nan |= strange;
    return peak;
}

WINGBEAT_INLINE double block_weight(const float* weights, size_t size, double rounder) {
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (size_t i = 0; i < size; ++i) total += rounded(weights[i], rounder);
    return total;
}

// Two loops: compilers keep the first in registers, which they do not manage for one loop with both.
WINGBEAT_INLINE double block_mass(const float* logits, size_t size, const Scale& scale) {
    float weights[block];
    for (size_t i = 0; i < size; ++i) weights[i] = exp2_f32(depth_of(logits[i], scale));
    return block_weight(weights, size, scale.rounder);
}

// Largest logit of each block. Returns whether there is a NaN.
WINGBEAT_CLONES static bool find_peaks(const float* logits, size_t size, float* peaks) {
    int nan = 0;
    const size_t whole = size / block;
    for (size_t b = 0; b < whole; ++b) peaks[b] = block_peak(logits + b * block, block, nan);
    if (whole * block < size) peaks[whole] = block_peak(logits + whole * block, size - whole * block, nan);
    return nan != 0;
}

// Mass of each block; returns the total. Blocks whose largest logit has no mass cost nothing.
WINGBEAT_CLONES static double sum_masses(const float* logits, size_t size, const float* peaks, Scale scale, double* sums) {
    double total = 0;
    for (size_t b = 0; b < block_count(size); ++b) {
        const float* start = logits + b * block;
        sums[b] = 0;
        if (depth_of(peaks[b], scale) == cutoff) continue;
        sums[b] = size - b * block >= block ? block_mass(start, block, scale)
                                            : block_mass(start, size - b * block, scale);
        total += sums[b];
    }
    return total;
}

}  // namespace wingbeat::sampler
