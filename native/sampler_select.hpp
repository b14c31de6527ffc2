// The most likely tokens without sorting the vocabulary. Order everywhere: larger logit first, ties by lower id.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "sampler_mass.hpp"

namespace wingbeat::sampler {

constexpr float infinity = std::numeric_limits<float>::infinity();

struct Candidate {
    float logit;
    int32_t id;
    double mass;
};

inline bool before(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// A row of logits with the maxima of its blocks. Unedited rows are read where the caller keeps them.
struct Row {
    const float* logits = nullptr;
    size_t size = 0;
    float peak = -infinity;
    bool nan = false;
    std::vector<float> peaks;
    std::vector<float> copy;

    void look_at(const float* source, size_t count) {
        logits = source;
        size = count;
        peaks.resize(block_count(size));
        nan = find_peaks(logits, size, peaks.data());
        peak = *std::max_element(peaks.begin(), peaks.end());
        if (peak == infinity && !nan) share_infinity();
    }

    template <class Edit>
    void look_at_edited(const float* source, size_t count, const Edit& edit) {
        copy.assign(source, source + count);
        edit(copy.data());
        look_at(copy.data(), count);
    }

    int32_t arg_max() const {
        const size_t b = std::max_element(peaks.begin(), peaks.end()) - peaks.begin();
        return static_cast<int32_t>(std::find(logits + b * block, logits + size, peak) - logits);
    }

   private:
    // Infinite logits share everything equally.
    void share_infinity() {
        std::vector<float> shared(size);
        for (size_t i = 0; i < size; ++i) shared[i] = logits[i] == infinity ? 0.f : -infinity;
        copy.swap(shared);
        look_at(copy.data(), size);
    }
};

// Number of tokens that certainly hold the `count` most likely: those not below the count-th largest block maximum.
// Their list keeps id order.
inline void gather_top_blocks(const Row& row, size_t count, std::vector<float>& scratch, std::vector<Candidate>& out) {
    float threshold = -infinity;
    if (count < row.peaks.size()) {
        scratch = row.peaks;
        std::nth_element(scratch.begin(), scratch.begin() + (count - 1), scratch.end(), std::greater<>());
        threshold = scratch[count - 1];
    }
    out.clear();
    for (size_t b = 0; b < row.peaks.size(); ++b) {
        if (row.peaks[b] < threshold) continue;
        const size_t end = std::min(row.size, (b + 1) * block);
        for (size_t i = b * block; i < end; ++i)
            if (row.logits[i] >= threshold && row.logits[i] != -infinity)
                out.push_back({row.logits[i], static_cast<int32_t>(i), 0});
    }
}

// The `count` most likely tokens with a finite logit, in no order.
inline void most_likely(const Row& row, size_t count, std::vector<float>& scratch, std::vector<Candidate>& out) {
    gather_top_blocks(row, count, scratch, out);
    if (out.size() <= count) return;
    std::nth_element(out.begin(), out.begin() + (count - 1), out.end(), before);
    out.resize(count);
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
