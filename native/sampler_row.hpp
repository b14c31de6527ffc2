// One token for one row of logits. src/wingbeat/sampling/reference.py is the readable version; this one finds the
// same set of tokens with few passes over the row and never sorts it.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <vector>

#include "sampler_edits.hpp"
#include "sampler_large_sets.hpp"
#include "sampler_random.hpp"

namespace wingbeat::sampler {

// Histogram over depths: bucket 0 holds the peak, the last one begins at the cutoff.
constexpr float buckets_per_unit = 54.f;
constexpr uint16_t last_bucket = static_cast<uint16_t>(-cutoff * buckets_per_unit);

constexpr double log2_e = 1.4426950408889634;

// Where a row's log-probabilities go; `top_*` have room for as many entries as are asked for.
struct Report {
    float* logprob;
    int32_t* top_tokens;
    float* top_logprobs;
};

// The scratch memory of one thread and what is done in it.
class RowSampler {
   public:
    RowSampler(const Passes& passes, size_t vocab)
        : passes_(passes), rounder_(1.5 * std::exp2(std::max<size_t>(std::bit_width(vocab), 17) - 1.0)) {}

    // The token drawn; -1 when there is none to draw. The logits are as before afterwards.
    // `next` is the row that comes next, `allowed` the bits of the tokens that may be drawn; null: none, all.
    int32_t sample(float* logits, const float* next, size_t vocab, const uint32_t* allowed, Sequence& sequence, uint64_t position,
                   const Report& out) {
        row_.next = next ? next : logits;
        float* shown = logits;
        if (allowed) {
            shown = row_.look_at_allowed(passes_, logits, vocab, allowed);
        } else {
            row_.look_at(passes_, logits, vocab);
        }
        if (row_.nan) return -1;
        const int32_t token = choose(shown, sequence, position);
        if (token < 0) return -1;
        sequence.remember(token);
        if (sequence.logprobs >= 0) score(logits, vocab, token, static_cast<size_t>(sequence.logprobs), out);
        return token;
    }

    // The log-probability of a given token, as `sample` reports that of a drawn one. Writes nothing for a row that
    // cannot be sampled.
    void score(const float* logits, size_t vocab, int32_t target, size_t top, const Report& out) {
        row_.next = logits;
        row_.look_at(passes_, logits, vocab);
        if (row_.nan) return;
        row_.find_peak(passes_);
        if (row_.peak != -infinity) report(target, top, out);
    }

   private:
    static constexpr std::array<size_t, 2> list_sizes{32, 256};  // most likely tokens that top_p lists at least

    int32_t choose(float* logits, Sequence& sequence, uint64_t position) {
        const Edits edits(passes_, sequence, logits, row_, changes_);
        row_.find_peak(passes_);
        if (row_.peak == -infinity) return -1;
        if (sequence.greedy()) return row_.arg_max();
        return draw(sequence, uniform(sequence.seed, sequence.choice, position));
    }

    int32_t draw(Sequence& sequence, double random) {
        const Scale scale{row_.peak, static_cast<float>(log2_e / sequence.temperature), rounder_};
        const bool top_k = sequence.top_k > 0 && static_cast<size_t>(sequence.top_k) < row_.size;
        const bool top_p = sequence.top_p < 1, min_p = sequence.min_p > 0;
        if (!top_k && !top_p && !min_p) return draw_plain(scale, random);
        if (top_k && static_cast<size_t>(sequence.top_k) <= row_.peaks.size()) {
            list_most_likely(passes_, row_, static_cast<size_t>(sequence.top_k), blocks_, list_);
            double mass = weigh_list(scale);
            if (list_.list.size > static_cast<size_t>(sequence.top_k)) {
                drop(border_by_count(static_cast<size_t>(sequence.top_k)));
                mass = sum_list();
            }
            return draw_from_list(sequence, top_p ? sequence.top_p * mass : -1, random);
        }
        if (!top_k && top_p && sequence.kept <= list_sizes.back()) {
            const double target = sequence.top_p * sum_block_masses(scale);
            if (list_mass(scale, target, sequence.kept)) return draw_from_list(sequence, target, random);
        }
        if (top_k || min_p) return draw_from_row(scale, sequence, top_k, top_p, random);
        const int32_t token = large_sets_.draw(passes_, row_, scale, sequence.top_p, random);
        sequence.kept = large_sets_.kept();
        return token;
    }

    double sum_block_masses(const Scale& scale) {
        sums_.resize(row_.peaks.size());
        return passes_.sum_masses(row_.logits, row_.size, row_.peaks.data(), scale, row_.next, sums_.data());
    }

    int32_t draw_plain(const Scale& scale, double random) {
        const double drawn = random * sum_block_masses(scale);
        return find_drawn(row_.size, drawn, [&](size_t i) { return mass_of(row_.logits[i], scale); });
    }

    // The first place whose cumulative mass exceeds `drawn`; sums_ has the masses of the blocks.
    template <class Mass>
    int32_t find_drawn(size_t size, double drawn, const Mass& mass) const {
        size_t b = 0;
        double sum = 0;
        for (; sum + sums_[b] <= drawn; ++b) sum += sums_[b];
        size_t i = b * block;
        for (sum += mass(i); sum <= drawn && i + 1 < size;) sum += mass(++i);
        return static_cast<int32_t>(i);
    }

    // Returns the mass of the list.
    double weigh_list(const Scale& scale) {
        list_.weigh(passes_, scale);
        return sum_list();
    }

    double sum_list() {
        sums_.resize(std::max(sums_.size(), block_count(list_.list.size)));
        return passes_.sum_weights(list_.weights, list_.list.size, rounder_, sums_.data());
    }

    void drop(Border border) { passes_.drop_beyond(list_.list.logits, list_.list.ids, list_.list.size, border, list_.weights); }

    void take_candidates() {
        candidates_.clear();
        for (size_t i = 0; i < list_.list.size; ++i)
            candidates_.push_back({list_.list.logits[i], list_.list.ids[i], rounded(list_.weights[i], rounder_)});
    }

    // The last of the `count` most likely tokens of the list.
    Border border_by_count(size_t count) {
        take_candidates();
        std::nth_element(candidates_.begin(), candidates_.begin() + (count - 1), candidates_.end(), before);
        return {candidates_[count - 1].logit, candidates_[count - 1].id};
    }

    // Whether few tokens hold the mass `target`; they are listed then. Neighbouring steps are alike: what would have been
    // too short for the `kept` tokens of the last one is not tried.
    bool list_mass(const Scale& scale, double target, size_t kept) {
        for (size_t count : list_sizes) {
            if (count < kept) continue;
            if (count > row_.peaks.size() / 2) break;
            list_most_likely(passes_, row_, count, blocks_, list_);
            if (weigh_list(scale) >= target) return true;
        }
        return false;
    }

    // Applies top_p (`target` >= 0) and min_p to the list and draws from it.
    int32_t draw_from_list(Sequence& sequence, double target, double random) {
        if (target >= 0) {
            take_candidates();
            sequence.kept = partition_by_mass(candidates_, target);
            drop({candidates_[sequence.kept - 1].logit, candidates_[sequence.kept - 1].id});
        }
        if (sequence.min_p > 0) passes_.drop_below(list_.list.size, sequence.min_p, rounder_, list_.weights);
        const double drawn = random * sum_list();
        return list_.list.ids[find_drawn(list_.list.size, drawn, [&](size_t i) { return rounded(list_.weights[i], rounder_); })];
    }

    // Any filters, for sets too large to list.
    int32_t draw_from_row(const Scale& scale, Sequence& sequence, bool top_k, bool top_p, double random) {
        sums_.resize(row_.peaks.size());
        weigh_row(scale, top_k || top_p);
        float* weights = floats_.data();
        const auto mass = [&](size_t i) { return rounded(weights[i], rounder_); };
        const auto sum = [&] { return passes_.sum_weights(weights, row_.size, rounder_, sums_.data()); };
        const auto drop = [&](Border border) { passes_.drop_beyond(row_.logits, nullptr, row_.size, border, weights); };
        if (top_k) drop(find_border([](size_t) { return 1.0; }, static_cast<double>(sequence.top_k)));
        if (top_p) drop(find_border(mass, sequence.top_p * sum()));
        if (sequence.min_p > 0) passes_.drop_below(row_.size, sequence.min_p, rounder_, weights);
        const int32_t token = find_drawn(row_.size, random * sum(), mass);
        sequence.kept = sums_.size() - static_cast<size_t>(std::count(sums_.begin(), sums_.end(), 0.0));  // or more
        return token;
    }

    // The weights of the row, and the bucket of each token for those who look for a border.
    void weigh_row(const Scale& scale, bool buckets) {
        buckets_.resize(row_.size);
        for (size_t i = 0; buckets && i < row_.size; ++i)
            buckets_[i] = static_cast<uint16_t>(static_cast<int32_t>(depth_of(row_.logits[i], scale) * -buckets_per_unit));
        floats_.resize(row_.size);
        const size_t whole = row_.size / 16 * 16;
        passes_.weigh(row_.logits, whole, scale, floats_.data());
        for (size_t i = whole; i < row_.size; ++i) floats_[i] = exp2_f32(depth_of(row_.logits[i], scale));
    }

    // The token at which the sum of `weight` over the most likely tokens reaches `target`.
    template <class Weight>
    Border find_border(const Weight& weight, double target) {
        // Several, so that an addition need not wait for the one before it: neighbours often share a bucket.
        for (auto& histogram : histograms_) histogram.fill(0);
        size_t i = 0;
        for (; i + histograms_.size() <= row_.size; i += histograms_.size())
            for (size_t h = 0; h < histograms_.size(); ++h) histograms_[h][buckets_[i + h]] += weight(i + h);
        for (; i < row_.size; ++i) histograms_[0][buckets_[i]] += weight(i);
        size_t b = 0;
        for (; b < last_bucket; ++b) {
            double mass = 0;
            for (const auto& histogram : histograms_) mass += histogram[b];
            if (mass >= target) break;
            target -= mass;
        }
        if (b == last_bucket) return {-infinity, 0};  // only tokens without mass remain: nothing to cut
        candidates_.clear();
        for (i = 0; i < row_.size; ++i)
            if (buckets_[i] == b) candidates_.push_back({row_.logits[i], static_cast<int32_t>(i), weight(i)});
        const Candidate& last = candidates_[partition_by_mass(candidates_, target) - 1];
        return {last.logit, last.id};
    }

    // Log-softmax of the row: of `token`, which may lie beyond it, and of the most likely ones.
    void report(int32_t token, size_t count, const Report& out) {
        const Scale scale{row_.peak, static_cast<float>(log2_e), rounder_};
        const double log_total = std::log(sum_block_masses(scale));
        const auto logprob = [&](float logit) {
            return static_cast<float>((static_cast<double>(logit) - row_.peak) - log_total);
        };
        *out.logprob = static_cast<size_t>(token) < row_.size ? logprob(row_.logits[token]) : -infinity;
        if (count == 0) return;
        list_most_likely(passes_, row_, count, blocks_, list_);
        weigh_list(scale);
        take_candidates();
        count = std::min(count, candidates_.size());
        std::partial_sort(candidates_.begin(), candidates_.begin() + count, candidates_.end(), before);
        for (size_t i = 0; i < count; ++i) {
            const float value = logprob(candidates_[i].logit);
            if (value == -infinity) break;
            out.top_tokens[i] = candidates_[i].id;
            out.top_logprobs[i] = value;
        }
    }

    const Passes& passes_;
    const double rounder_;
    Row row_;
    LargeSets large_sets_;
    std::vector<Change> changes_;
    std::vector<float> floats_;
    std::vector<double> sums_;
    std::vector<uint16_t> buckets_;
    WeighedList blocks_, list_;
    std::vector<Candidate> candidates_;
    std::array<std::array<double, last_bucket + 1>, 4> histograms_{};
};

}  // namespace wingbeat::sampler
