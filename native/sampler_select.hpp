// A row of logits, and the most likely tokens in it without sorting the vocabulary.
#pragma once

#include <cfloat>

#include "sampler_list.hpp"

namespace wingbeat::sampler {

// A row with the maxima of its blocks, read where the caller keeps it.
struct Row {
    const float* logits = nullptr;
    const float* next = nullptr;  // the row that will be looked at after this one, or any address
    size_t size = 0;
    float peak = -infinity;
    bool nan = false;
    std::vector<float> peaks;

    void look_at(const Passes& passes, const float* source, size_t count) {
        logits = source;
        size = count;
        peaks.resize(block_count(size));
        nan = passes.find_peaks(logits, size, peaks.data());
    }

    // A copy in which only the tokens that `allowed` names are possible; it may be changed.
    float* look_at_allowed(const Passes& passes, const float* source, size_t count, const uint32_t* allowed) {
        size = count;
        peaks.resize(block_count(size));
        allowed_.resize(peaks.size() * block);
        nan = passes.mask(source, size, allowed, allowed_.data(), peaks.data());
        logits = allowed_.data();
        return allowed_.data();
    }

    // A logit was `before`; the caller has just changed it.
    void note_change(const Passes& passes, int32_t id, float before) {
        const size_t b = static_cast<size_t>(id) / block;
        if (logits[id] >= peaks[b]) {
            peaks[b] = logits[id];
        } else if (before == peaks[b]) {
            peaks[b] = passes.find_largest(logits + b * block, std::min(block, size - b * block));
        }
    }

    float largest(const Passes& passes) const { return passes.find_largest(peaks.data(), peaks.size()); }

    // Finds the largest logit. Where it is infinite, all that are share everything equally.
    void find_peak(const Passes& passes) {
        peak = largest(passes);
        if (peak != infinity) return;
        shared_.resize(size);
        for (size_t i = 0; i < size; ++i) shared_[i] = logits[i] == infinity ? 0.f : -infinity;
        look_at(passes, shared_.data(), size);
        peak = 0;
    }

    int32_t arg_max() const {
        const size_t b = std::find(peaks.begin(), peaks.end(), peak) - peaks.begin();
        return static_cast<int32_t>(std::find(logits + b * block, logits + size, peak) - logits);
    }

   private:
    std::vector<float> shared_, allowed_;
};

// The largest logit found by which `count` blocks, or more, have a token: no other can be among the `count` most likely.
// `halvings`: of the reach, which is at least 1, that is searched.
inline float threshold_of(const Passes& passes, const Row& row, size_t count, int halvings) {
    constexpr int steps = 24;
    const auto enough = [&](float least) {
        return passes.count_from(row.peaks.data(), row.peaks.size(), least) >= static_cast<double>(count);
    };
    float high = row.peak, low = row.peak;
    if (enough(high)) return high;
    float reach = 1;
    for (int step = 0; step < steps; ++step, reach *= 2)
        if (enough(low = row.peak - reach)) break;
    if (!(low > -FLT_MAX) || !enough(low)) return -FLT_MAX;
    for (int halving = 0; halving < halvings; ++halving) {
        const float between = 0.5f * low + 0.5f * high;
        (enough(between) ? low : high) = between;
    }
    return low;
}

// Lists the tokens with a logit of `least` or more, which is finite.
inline void list_blocks_from(const Passes& passes, const Row& row, float least, WeighedList& blocks, WeighedList& out) {
    blocks.clear(row.peaks.size());
    passes.list_from(row.peaks.data(), row.peaks.size(), least, 0, blocks.list);
    out.clear(blocks.list.size * block);
    for (size_t i = 0; i < blocks.list.size; ++i) {
        const size_t first = static_cast<size_t>(blocks.list.ids[i]) * block;
        passes.list_from(row.logits + first, std::min(block, row.size - first), least, static_cast<int32_t>(first), out.list);
    }
}

// Lists tokens that certainly hold the `count` most likely with a finite logit, and as few others as is easily done.
inline void list_most_likely(const Passes& passes, const Row& row, size_t count, WeighedList& blocks, WeighedList& out,
                             int halvings = 5) {
    list_blocks_from(passes, row, threshold_of(passes, row, count, halvings), blocks, out);
}

}  // namespace wingbeat::sampler
