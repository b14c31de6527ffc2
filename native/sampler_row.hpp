// One token for one row of logits. src/wingbeat/sampling/reference.py is the readable version; this one finds the
// same set of tokens with few passes over the row and never sorts it.
#pragma once

#include <array>
#include <cmath>
#include <vector>

#include "sampler_random.hpp"
#include "sampler_select.hpp"
#include "sampler_sequence.hpp"

namespace wingbeat::sampler {

// Histogram over depths: bucket 0 holds the peak, the last one begins at the cutoff.
constexpr float buckets_per_unit = 54.f;
constexpr uint16_t last_bucket = static_cast<uint16_t>(-cutoff * buckets_per_unit);

constexpr double log2_e = 1.4426950408889634;

// The last token that a filter keeps.
struct Border {
    float logit = -infinity;
    int32_t id = 0;
};

WINGBEAT_CLONES static void weigh(const float* logits, size_t size, Scale scale, float* weights, uint16_t* bucket) {
    for (size_t i = 0; i < size; ++i) {
        const float depth = depth_of(logits[i], scale);
        weights[i] = exp2_f32(depth);
        bucket[i] = static_cast<uint16_t>(static_cast<int32_t>(depth * -buckets_per_unit));
    }
}

// Whether a block has a token in a bucket.
static inline bool holds(const uint16_t* buckets, size_t size, uint16_t bucket) {
    uint16_t found = 0;
    for (size_t i = 0; i < size; ++i) found |= static_cast<uint16_t>(buckets[i] == bucket);
    return found != 0;
}

WINGBEAT_CLONES static void drop_beyond(const float* logits, size_t size, Border border, float* weights) {
    for (size_t i = 0; i < size; ++i) {
        const bool kept = (logits[i] > border.logit) |
                          ((logits[i] == border.logit) & (static_cast<int32_t>(i) <= border.id));
        weights[i] = kept ? weights[i] : 0.f;
    }
}

WINGBEAT_CLONES static void drop_below(size_t size, double least, double rounder, float* weights) {
    for (size_t i = 0; i < size; ++i) weights[i] = rounded(weights[i], rounder) < least ? 0.f : weights[i];
}

// Mass of each block of weights; returns the total.
WINGBEAT_CLONES static double sum_weights(const float* weights, size_t size, double rounder, double* sums) {
    double total = 0;
    for (size_t b = 0; b < block_count(size); ++b) {
        const float* start = weights + b * block;
        sums[b] = size - b * block >= block ? block_weight(start, block, rounder)
                                            : block_weight(start, size - b * block, rounder);
        total += sums[b];
    }
    return total;
}

// Where a row's log-probabilities go; `top_*` have room for as many entries as are asked for.
struct Report {
    float* logprob;
    int32_t* top_tokens;
    float* top_logprobs;
};

// The scratch memory of one thread and what is done in it.
class RowSampler {
   public:
    explicit RowSampler(size_t vocab) : rounder_(1.5 * std::exp2(std::max<size_t>(std::bit_width(vocab), 17) - 1.0)) {}

    // The token drawn; -1 when there is none to draw.
    int32_t sample(const float* logits, size_t vocab, Sequence& sequence, uint64_t position, const Report& out) {
        const bool edits = sequence.edits();
        if (!edits || sequence.logprobs >= 0) raw_.look_at(logits, vocab);
        if (edits) edited_.look_at_edited(logits, vocab, [&](float* row) { sequence.edit(row); });
        const Row& row = edits ? edited_ : raw_;
        if (row.nan || row.peak == -infinity) return -1;  // an edit leaves a NaN what it is
        const double random = uniform(sequence.seed, sequence.choice, position);
        const int32_t token = sequence.greedy() ? row.arg_max() : draw(row, sequence, random);
        sequence.remember(token);
        if (sequence.logprobs >= 0) report(token, static_cast<size_t>(sequence.logprobs), out);
        return token;
    }

    // The log-probability of a given token, as `sample` reports that of a drawn one. Writes nothing for a row that
    // cannot be sampled.
    void score(const float* logits, size_t vocab, int32_t target, size_t top, const Report& out) {
        raw_.look_at(logits, vocab);
        if (!raw_.nan && raw_.peak != -infinity) report(target, top, out);
    }

   private:
    static constexpr std::array<size_t, 2> list_sizes{32, 256};  // most likely tokens that top_p lists at least

    int32_t draw(const Row& row, Sequence& sequence, double random) {
        const Scale scale{row.peak, static_cast<float>(log2_e / sequence.temperature), rounder_};
        const bool top_k = sequence.top_k > 0 && static_cast<size_t>(sequence.top_k) < row.size;
        const bool top_p = sequence.top_p < 1;
        if (!top_k && !top_p && sequence.min_p <= 0) return draw_plain(row, scale, random);
        if (top_k && static_cast<size_t>(sequence.top_k) <= row.peaks.size()) {
            most_likely(row, static_cast<size_t>(sequence.top_k), floats_, list_);
            return draw_from_list(scale, sequence, top_p ? sequence.top_p * weigh_list(scale) : -1, random);
        }
        if (!top_k && top_p && sequence.kept <= list_sizes.back()) {
            const double target = sequence.top_p * sum_block_masses(row, scale);
            if (list_mass(row, scale, target, sequence.kept)) return draw_from_list(scale, sequence, target, random);
        }
        const int32_t token = draw_from_row(row, scale, sequence, top_k, top_p, random);
        sequence.kept = sums_.size() - static_cast<size_t>(std::count(sums_.begin(), sums_.end(), 0.0));  // or more
        return token;
    }

    double sum_block_masses(const Row& row, const Scale& scale) {
        sums_.resize(row.peaks.size());
        return sum_masses(row.logits, row.size, row.peaks.data(), scale, sums_.data());
    }

    int32_t draw_plain(const Row& row, const Scale& scale, double random) {
        const double drawn = random * sum_block_masses(row, scale);
        return find_drawn(row.size, drawn, [&](size_t i) { return mass_of(row.logits[i], scale); });
    }

    // The first id whose cumulative mass exceeds `drawn`.
    template <class Mass>
    int32_t find_drawn(size_t size, double drawn, const Mass& mass) const {
        size_t b = 0;
        double sum = 0;
        for (; sum + sums_[b] <= drawn; ++b) sum += sums_[b];
        size_t i = b * block;
        for (sum += mass(i); sum <= drawn && i + 1 < size;) sum += mass(++i);
        return static_cast<int32_t>(i);
    }

    double weigh_list(const Scale& scale) {
        double total = 0;
        for (Candidate& candidate : list_) total += candidate.mass = mass_of(candidate.logit, scale);
        return total;
    }

    // Whether few tokens hold the mass `target`; they are listed then. Neighbouring steps are alike: what would have been
    // too short for the `kept` tokens of the last one is not tried.
    bool list_mass(const Row& row, const Scale& scale, double target, size_t kept) {
        for (size_t count : list_sizes) {
            if (count < kept) continue;
            if (count > row.peaks.size() / 2) break;
            gather_top_blocks(row, count, floats_, list_);
            if (weigh_list(scale) >= target) return true;
        }
        return false;
    }

    // Applies top_p (`target` >= 0) and min_p to the list and draws from it.
    int32_t draw_from_list(const Scale& scale, Sequence& sequence, double target, double random) {
        if (target >= 0) {
            list_.resize(sequence.kept = partition_by_mass(list_, target));
        } else {
            weigh_list(scale);
        }
        std::erase_if(list_, [&](const Candidate& candidate) { return candidate.mass < sequence.min_p; });
        std::sort(list_.begin(), list_.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
        double total = 0;
        for (const Candidate& candidate : list_) total += candidate.mass;
        const double drawn = random * total;
        size_t i = 0;
        for (double sum = list_[0].mass; sum <= drawn && i + 1 < list_.size();) sum += list_[++i].mass;
        return list_[i].id;
    }

    // Any filters, for sets too large to list.
    int32_t draw_from_row(const Row& row, const Scale& scale, const Sequence& sequence, bool top_k, bool top_p,
                          double random) {
        floats_.resize(row.size);
        buckets_.resize(row.size);
        sums_.resize(row.peaks.size());
        float* weights = floats_.data();
        weigh(row.logits, row.size, scale, weights, buckets_.data());
        const auto mass = [&](size_t i) { return rounded(weights[i], rounder_); };
        if (top_k) {
            const auto one = [](size_t) { return 1.0; };
            drop_beyond(row.logits, row.size, find_border(row, one, static_cast<double>(sequence.top_k)), weights);
        }
        if (top_p) {
            const double target = sequence.top_p * sum_weights(weights, row.size, rounder_, sums_.data());
            drop_beyond(row.logits, row.size, find_border(row, mass, target), weights);
        }
        if (sequence.min_p > 0) drop_below(row.size, sequence.min_p, rounder_, weights);
        const double drawn = random * sum_weights(weights, row.size, rounder_, sums_.data());
        return find_drawn(row.size, drawn, mass);
    }

    // The token at which the sum of `weight` over the most likely tokens reaches `target`.
    template <class Weight>
    Border find_border(const Row& row, const Weight& weight, double target) {
        // Several, so that an addition need not wait for the one before it: neighbours often share a bucket.
        for (auto& histogram : histograms_) histogram.fill(0);
        size_t i = 0;
        for (; i + histograms_.size() <= row.size; i += histograms_.size())
            for (size_t h = 0; h < histograms_.size(); ++h) histograms_[h][buckets_[i + h]] += weight(i + h);
        for (; i < row.size; ++i) histograms_[0][buckets_[i]] += weight(i);
        size_t b = 0;
        for (; b < last_bucket; ++b) {
            double mass = 0;
            for (const auto& histogram : histograms_) mass += histogram[b];
            if (mass >= target) break;
            target -= mass;
        }
        if (b == last_bucket) return {};  // only tokens without mass remain: nothing to cut
        list_.clear();
        for (size_t begin = 0; begin < row.size; begin += block) {
            const size_t end = std::min(row.size, begin + block);
            if (!holds(buckets_.data() + begin, end - begin, static_cast<uint16_t>(b))) continue;
            for (i = begin; i < end; ++i)
                if (buckets_[i] == b) list_.push_back({row.logits[i], static_cast<int32_t>(i), weight(i)});
        }
        const Candidate& last = list_[partition_by_mass(list_, target) - 1];
        return {last.logit, last.id};
    }

    // Log-softmax of the raw logits: of `token`, which may lie beyond the row, and of the most likely ones.
    void report(int32_t token, size_t count, const Report& out) {
        const Scale scale{raw_.peak, static_cast<float>(log2_e), rounder_};
        const double log_total = std::log(sum_block_masses(raw_, scale));
        const auto logprob = [&](float logit) {
            return static_cast<float>((static_cast<double>(logit) - raw_.peak) - log_total);
        };
        *out.logprob = static_cast<size_t>(token) < raw_.size ? logprob(raw_.logits[token]) : -infinity;
        if (count == 0) return;
        most_likely(raw_, count, floats_, list_);
        std::sort(list_.begin(), list_.end(), before);
        for (size_t i = 0; i < list_.size(); ++i) {
            const float value = logprob(list_[i].logit);
            if (value == -infinity) break;
            out.top_tokens[i] = list_[i].id;
            out.top_logprobs[i] = value;
        }
    }

    const double rounder_;
    Row raw_, edited_;
    std::vector<float> floats_;
    std::vector<double> sums_;
    std::vector<uint16_t> buckets_;
    std::vector<Candidate> list_;
    std::array<std::array<double, last_bucket + 1>, 4> histograms_{};
};

}  // namespace wingbeat::sampler
