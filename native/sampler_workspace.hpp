// The scratch memory of one thread, and the steps that samplers share. Tokens are listed where few may be drawn; else
// the weights of the whole row are written down.
#pragma once

#include <array>
#include <cmath>

#include "sampler_edits.hpp"
#include "sampler_large_sets.hpp"
#include "sampler_random.hpp"

namespace wingbeat::sampler {

// Histogram over depths: bucket 0 holds the peak, the last one begins at the cutoff.
constexpr float buckets_per_unit = 54.f;
constexpr uint16_t last_bucket = static_cast<uint16_t>(-cutoff * buckets_per_unit);

constexpr double log2_e = 1.4426950408889634;

class Workspace {
   public:
    static constexpr std::array<size_t, 2> list_sizes{32, 256};  // most likely tokens that top_p lists at least

    explicit Workspace(const Passes& passes) : passes(passes) {}

    const Passes& passes;
    Row row;
    LargeSets large_sets;
    WeighedList list;
    std::vector<Candidate> candidates;
    double total = 0;  // the mass of the tokens that the last draw was from

    Scale scale_at(double temperature) const { return {row.peak, static_cast<float>(log2_e / temperature)}; }

    // Whether as many tokens can be listed.
    bool can_list(int64_t count) const { return static_cast<size_t>(count) <= row.peaks.size(); }

    double sum_block_masses(const Scale& scale) {
        sums_.resize(row.peaks.size());
        return passes.sum_masses(row.logits, row.size, row.peaks.data(), scale, row.next, sums_.data());
    }

    // From all tokens.
    int32_t draw_plain(const Scale& scale, double random) {
        total = sum_block_masses(scale);
        return find_drawn(row.size, random * total, [&](size_t i) { return mass_of(row.logits[i], scale); });
    }

    // --- Lists ---

    // Tokens that certainly hold the `count` first ones of a row, by its logits.
    void list_first(const Row& keys, size_t count, int halvings = 5) {
        list_most_likely(passes, keys, count, blocks_, list, halvings);
    }

    // Those with a logit of `least` or more, which is finite.
    void list_from(float least) {
        list_blocks_from(passes, row, least, blocks_, list);
    }

    // Returns the mass of the list.
    double weigh_list(const Scale& scale) {
        list.weigh(passes, scale);
        return sum_list();
    }

    double sum_list() {
        sums_.resize(std::max(sums_.size(), block_count(list.list.size)));
        return passes.sum_weights(list.weights, list.list.size, sums_.data());
    }

    void drop(Border border) { passes.drop_beyond(list.list.logits, list.list.ids, list.list.size, border, list.weights); }

    void take_candidates() {
        candidates.clear();
        for (size_t i = 0; i < list.list.size; ++i)
            candidates.push_back({list.list.logits[i], list.list.ids[i], rounded(list.weights[i])});
    }

    // Leaves the `count` first candidates, if there are more, and returns the last of them.
    Border leave_first(size_t count) {
        std::nth_element(candidates.begin(), candidates.begin() + (count - 1), candidates.end(), before);
        candidates.resize(count);
        return {candidates.back().logit, candidates.back().id};
    }

    // Whether few tokens hold the mass `target`; they are listed then. Neighbouring steps are alike: what would have been
    // too short for the `kept` tokens of the last one is not tried.
    bool list_mass(const Scale& scale, double target, size_t kept) {
        for (size_t count : list_sizes) {
            if (count < kept) continue;
            if (count > row.peaks.size() / 2) break;
            list_first(row, count);
            if (weigh_list(scale) >= target) return true;
        }
        return false;
    }

    // From the list, by its weights.
    int32_t draw_listed(double random) {
        total = sum_list();
        return draw_listed_at(random * total);
    }

    // Where the weights, just summed, exceed `drawn`.
    int32_t draw_listed_at(double drawn) const {
        const auto mass = [&](size_t i) { return rounded(list.weights[i]); };
        return list.list.ids[find_drawn(list.list.size, drawn, mass)];
    }

    // --- Rows ---

    // The weights of all tokens.
    void weigh_row(const Scale& scale, std::vector<float>& weights) const {
        weights.resize(row.size);
        const size_t whole = row.size / 16 * 16;
        passes.weigh(row.logits, whole, scale, weights.data());
        for (size_t i = whole; i < row.size; ++i) weights[i] = exp2_f32(depth_of(row.logits[i], scale));
    }

    double sum_row(const std::vector<float>& weights) {
        sums_.resize(row.peaks.size());
        return passes.sum_weights(weights.data(), row.size, sums_.data());
    }

    int32_t draw_weighed(const std::vector<float>& weights, double random) {
        total = sum_row(weights);
        return draw_weighed_at(weights, random * total);
    }

    int32_t draw_weighed_at(const std::vector<float>& weights, double drawn) const {
        return find_drawn(row.size, drawn, [&](size_t i) { return rounded(weights[i]); });
    }

    // From the tokens whose key is not beyond the border.
    int32_t draw_within(const Row& keys, Border border, const Scale& scale, double random) {
        sums_.resize(row.peaks.size());
        total = passes.sum_within(row.logits, keys.logits, keys.peaks.data(), row.size, scale, border, sums_.data());
        return find_drawn(row.size, random * total, [&](size_t i) {
            const float key = keys.logits[i];
            const bool kept = key > border.logit || (key == border.logit && static_cast<int32_t>(i) <= border.id);
            return kept ? mass_of(row.logits[i], scale) : 0;
        });
    }

    // Blocks with tokens that the last draw was from.
    size_t blocks_drawn_from() const { return sums_.size() - static_cast<size_t>(std::count(sums_.begin(), sums_.end(), 0.0)); }

    // Tells `find_border` how far each token is from the first: `distance` is from 0 to -cutoff.
    template <class Distance>
    void fill_buckets(const Distance& distance) {
        buckets_.resize(row.size);
        for (size_t i = 0; i < row.size; ++i) buckets_[i] = static_cast<uint16_t>(static_cast<int32_t>(distance(i) * buckets_per_unit));
    }

    void fill_buckets(const Scale& scale) {
        fill_buckets([&](size_t i) { return -depth_of(row.logits[i], scale); });
    }

    // The token at which the sum of `weight` over the first ones, by `keys`, reaches `target`. In the last bucket there is
    // nothing to cut where its tokens weigh nothing.
    template <class Weight>
    Border find_border(const float* keys, const Weight& weight, double target, bool cut_last) {
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
        if (b == last_bucket && !cut_last) return {-infinity, 0};
        candidates.clear();
        for (i = 0; i < row.size; ++i)
            if (buckets_[i] == b) candidates.push_back({keys[i], static_cast<int32_t>(i), weight(i)});
        const Candidate& last = candidates[partition_by_mass(candidates, target) - 1];
        return {last.logit, last.id};
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

    std::vector<float> floats, more_floats;  // for weights of the row

   private:
    std::vector<double> sums_;
    std::vector<uint16_t> buckets_;
    WeighedList blocks_;
    std::array<std::array<double, last_bucket + 1>, 4> histograms_{};
};

}  // namespace wingbeat::sampler
