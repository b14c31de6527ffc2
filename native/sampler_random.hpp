// The counter-based random numbers behind every draw: Philox4x32-10 (Salmon et al., SC11).
// src/wingbeat/sampling/rng.py documents the layout of key and counter and computes the same numbers.
#pragma once

#include <array>
#include <cstdint>

namespace wingbeat::sampler {

using Words = std::array<uint32_t, 4>;

inline Words philox4x32(Words counter, uint32_t key0, uint32_t key1) {
    for (int round = 0; round < 10; ++round) {
        const uint64_t product0 = uint64_t{0xD2511F53} * counter[0];
        const uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2];
        counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
                   static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
        key0 += 0x9E3779B9;
        key1 += 0xBB67AE85;
    }
    return counter;
}

// In [0, 1), 53 bits. `stream`: what it is for.
inline double random_number(uint64_t seed, uint32_t choice, uint64_t position, uint32_t stream) {
    const Words words =
        philox4x32({static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), choice, stream},
                   static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
    return static_cast<double>((uint64_t{words[0]} << 32 | words[1]) >> 11) * 0x1p-53;
}

inline double uniform(uint64_t seed, uint32_t choice, uint64_t position) {
    constexpr uint32_t sampling_stream = 0x77696E67;
    return random_number(seed, choice, position, sampling_stream);
}

inline double noise(uint64_t seed, uint32_t choice, uint64_t position, uint32_t token) {
    constexpr uint32_t noise_stream = 0x6E000000;
    return random_number(seed, choice, position, noise_stream + token);
}

}  // namespace wingbeat::sampler
