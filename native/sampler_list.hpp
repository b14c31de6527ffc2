// Tokens by ascending id with their weights, and which of them a filter keeps. Order of filters everywhere: larger logit
// first, ties by lower id.
#pragma once

#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

#include "sampler_passes.hpp"

namespace wingbeat::sampler {

constexpr float infinity = std::numeric_limits<float>::infinity();

// In memory that is kept from one use to the next.
struct WeighedList {
    List list{};
    float* weights = nullptr;
    size_t padded = 0;  // the size in whole vectors; what pads the last one weighs nothing

    void clear(size_t most) {
        constexpr size_t slack = 64;
        if (room_.size() < 2 * (most + slack)) {
            room_.resize(2 * (most + slack));
            ids_.resize(most + slack);
        }
        list = {room_.data(), ids_.data(), 0};
        weights = room_.data() + most + slack;
    }

    // From place `first` on, a multiple of 16.
    void weigh(const Passes& passes, const Scale& scale, size_t first = 0) {
        padded = (list.size + 15) / 16 * 16;
        std::fill(list.logits + list.size, list.logits + padded, -infinity);
        passes.weigh(list.logits + first, padded - first, scale, weights + first);
    }

   private:
    std::vector<float> room_;
    std::vector<int32_t> ids_;
};

struct Candidate {
    float logit;
    int32_t id;
    double mass;
};

inline bool before(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// Puts the shortest prefix of the order whose mass reaches `target` first in the list and returns its length
// (at least 1). `target` is at most the mass of the list. Linear: halves the list around its median.
inline size_t partition_by_mass(std::vector<Candidate>& list, double target) {
    constexpr size_t small = 32;
    size_t low = 0, high = list.size();  // the border lies in (low, high]
    while (high - low > small) {
        const size_t middle = low + (high - low) / 2;
        std::nth_element(list.begin() + low, list.begin() + middle, list.begin() + high, before);
        double mass = 0;
        for (size_t i = low; i < middle; ++i) mass += list[i].mass;
        if (mass >= target) {
            high = middle;
        } else {
            target -= mass;
            low = middle;
        }
    }
    std::sort(list.begin() + low, list.begin() + high, before);
    double mass = 0;
    while (low < high) {
        mass += list[low++].mass;
        if (mass >= target) break;
    }
    return low;
}

}  // namespace wingbeat::sampler
