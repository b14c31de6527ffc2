// The passes that sum the masses of logits.
#pragma once

#include "sampler_units.inl.hpp"

namespace wingbeat::sampler {
namespace {

double sum_masses(const float* logits, size_t size, const float* peaks, const Scale& scale, const float* ahead, double* sums) {
    float room[block];
    double total = 0;
    for (size_t b = 0; b < block_count(size); ++b) {
        ask_for(ahead + b * block);
        sums[b] = 0;
        if (depth_of(peaks[b], scale) == cutoff) continue;
        const float* p = whole_block(logits, size, b, no_logit, room);
        Units all;
        for (size_t i = 0; i < block; i += lanes) all.add(i, units_of(load(p + i), scale));
        total += sums[b] = all.mass();
    }
    return total;
}

Moments sum_depths(const float* logits, size_t size, const float* peaks, const Scale& scale) {
    float room[block];
    Units masses, below;
    for (size_t b = 0; b < block_count(size); ++b) {
        if (depth_of(peaks[b], scale) == cutoff) continue;
        const float* p = whole_block(logits, size, b, no_logit, room);
        for (size_t i = 0; i < block; i += lanes) {
            const Floats depth = depth_of(load(p + i), scale), weight = power_of<29>(depth);
            masses.add(i, whole(weight));
            below.add(i, whole(weight * -depth), above(weight, 0.5f));  // of what has mass
        }
    }
    return {masses.mass(), -below.mass()};
}

void near(const float* logits, size_t size, const float* peaks, const Scale& scale, float mean, float* out, float* nearest) {
    constexpr float least = -30;  // log2 of half a grain, which rounds to no mass
    float room[block];
    for (size_t b = 0; b < block_count(size); ++b) {
        const bool mass = depth_of(peaks[b], scale) > cutoff;
        const float* p = whole_block(logits, size, b, no_logit, room);
        Floats most = set(no_logit);
        for (size_t i = 0; i < block; i += lanes) {
            Floats nearness = set(no_logit);
            if (mass) {
                const Floats depth = depth_of(load(p + i), scale), distance = depth - mean;
                nearness = depth > least ? (distance > 0 ? -distance : distance) : nearness;
            }
            store(out + b * block + i, nearness);
            most = larger(nearness, most);
        }
        nearest[b] = largest(most);
    }
}

Split split(const float* logits, size_t size, const float* peaks, const Scale& scale, Bracket bracket, int32_t id,
            const float* ahead, double* sums, List& list) {
    float room[block];
    double above_all = 0;
    Units total;
    List inside = list;
    for (size_t b = 0; b < block_count(size); ++b) {
        ask_for(ahead + b * block);
        sums[b] = 0;
        if (peaks && depth_of(peaks[b], scale) == cutoff) continue;
        const float* p = whole_block(logits, size, b, no_logit, room);
        Units high;
        for (size_t i = 0; i < block; i += lanes) {
            const Floats x = load(p + i);
            const Ints units = units_of(x, scale);
            const Mask higher = above(x, bracket.upper);
            total.add(i, units);
            high.add(i, units, higher);
            append(inside, x, static_cast<Mask>(from(x, bracket.lower) & ~higher), id + static_cast<int32_t>(b * block + i));
        }
        above_all += sums[b] = high.mass();
    }
    list.size = inside.size;
    return {total.mass(), above_all};
}

double sum_within(const float* logits, const float* keys, const float* peaks, size_t size, const Scale& scale, Border border,
                  double* sums) {
    float room[block], key_room[block];
    double total = 0;
    for (size_t b = 0; b < block_count(size); ++b) {
        sums[b] = 0;
        if (peaks[b] < border.logit) continue;
        const float* p = whole_block(logits, size, b, no_logit, room);
        const float* k = whole_block(keys, size, b, no_logit, key_room);
        const int32_t begin = static_cast<int32_t>(b * block), end = begin + static_cast<int32_t>(block) - 1;
        const bool wins_ties = end <= border.id, parted = begin <= border.id && !wins_ties;
        Units all;
        for (size_t i = 0; i < block; i += lanes) {
            const Floats key = load(k + i);
            Mask kept = wins_ties ? from(key, border.logit) : above(key, border.logit);
            if (parted) kept = kept | static_cast<Mask>(from(key, border.logit) & up_to(begin + static_cast<int32_t>(i), border.id));
            all.add(i, units_of(load(p + i), scale), kept);
        }
        total += sums[b] = all.mass();
    }
    return total;
}

Split split_near(const float* logits, const float* nearness, size_t size, const Scale& scale, Bracket bracket, List& list) {
    float room[block], near_room[block];
    Units total, high;
    List inside = list;
    for (size_t b = 0; b < block_count(size); ++b) {
        const float* p = whole_block(logits, size, b, no_logit, room);
        const float* keys = whole_block(nearness, size, b, no_logit, near_room);
        for (size_t i = 0; i < block; i += lanes) {
            const Floats key = load(keys + i);
            const Ints units = units_of(load(p + i), scale);
            const Mask higher = above(key, bracket.upper);
            total.add(i, units);
            high.add(i, units, higher);
            append(inside, key, static_cast<Mask>(from(key, bracket.lower) & ~higher), static_cast<int32_t>(b * block + i));
        }
    }
    list.size = inside.size;
    return {total.mass(), high.mass()};
}

}  // namespace
}  // namespace wingbeat::sampler
