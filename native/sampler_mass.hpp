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
constexpr float cutoff = -26.f;  // tokens scaled this far below the largest have no mass

inline size_t block_count(size_t size) { return (size + block - 1) / block; }

// How logits become masses.
struct Scale {
    float peak;                 // the largest logit, finite
    float inverse_temperature;  // finite, >= 0
    double rounder;             // see mass_rounder in reference.py
};

// e^x for cutoff <= x <= 0; see exp_f32 in reference.py.
WINGBEAT_INLINE float exp_f32(float x) {
    constexpr float to_integer = 12582912.f;  // 1.5 * 2^23
    const float shifted = x * 1.4426950408889634f + to_integer;
    const float n = shifted - to_integer;
    const float r = (x - n * 0.693359375f) - n * -2.1219444e-4f;
    float q = 0.0013814467238262296f;
    q = q * r + 0.008368780836462975f;
    q = q * r + 0.04166839271783829f;
    q = q * r + 0.1666651964187622f;
    q = q * r + 0.4999999403953552f;
    const float power = ((q * r) * r + r) + 1.f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(power) + (std::bit_cast<uint32_t>(shifted) << 23));
}

// NaN (an infinite logit times an inverse temperature of 0) fails the comparison and has no weight.
WINGBEAT_INLINE float weight_of(float logit, const Scale& scale) {
    const float scaled = (logit - scale.peak) * scale.inverse_temperature;
    const float weight = exp_f32(scaled > cutoff ? scaled : cutoff);
    return scaled > cutoff ? weight : 0.f;
}

WINGBEAT_INLINE double rounded(float weight, double rounder) {
    return (static_cast<double>(weight) + rounder) - rounder;
}

WINGBEAT_INLINE double mass_of(float logit, const Scale& scale) {
    return rounded(weight_of(logit, scale), scale.rounder);
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

WINGBEAT_INLINE double block_mass(const float* logits, size_t size, const Scale& scale) {
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (size_t i = 0; i < size; ++i) total += mass_of(logits[i], scale);
    return total;
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
        if (!((peaks[b] - scale.peak) * scale.inverse_temperature > cutoff)) continue;
        sums[b] = size - b * block >= block ? block_mass(start, block, scale)
                                            : block_mass(start, size - b * block, scale);
        total += sums[b];
    }
    return total;
}

}  // namespace wingbeat::sampler
