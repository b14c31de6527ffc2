// Typical: the tokens whose surprise is nearest to the entropy: at most top_k, until their mass exceeds tau; then
// temperature. How near each token is takes the place of the logits.
#pragma once

#include "sampler_prefix.hpp"

namespace wingbeat::sampler {

class Typical {
   public:
    int32_t draw(Workspace& work, Sequence& sequence, double random) {
        const Scale scale = work.scale_at(1);
        const Row& row = work.row;
        const Moments all = work.passes.sum_depths(row.logits, row.size, row.peaks.data(), scale);
        nearness_.resize(row.peaks.size() * block);
        keys_.peaks.resize(row.peaks.size());
        const float mean = static_cast<float>(all.depth / all.mass);
        work.passes.near(row.logits, row.size, row.peaks.data(), scale, mean, nearness_.data(), keys_.peaks.data());
        keys_.logits = nearness_.data();
        keys_.size = row.size;
        keys_.peak = keys_.largest(work.passes);

        const bool top_k = sequence.top_k > 0 && static_cast<size_t>(sequence.top_k) < row.size;
        const double target = sequence.tau < 1 ? goal_of(sequence.tau, all.mass, true) : -1;
        if (top_k && work.can_list(sequence.top_k)) {
            list(work, scale, static_cast<size_t>(sequence.top_k), target);
            return draw_listed(work, sequence, random);
        }
        if (!top_k && target >= 0 && sequence.kept <= most_listed) {
            if (list(work, scale, most_listed, target)) {
                sequence.kept = work.candidates.size();
                return draw_listed(work, sequence, random);
            }
            sequence.kept = most_listed + 1;
        }
        return draw_from_row(work, scale, sequence, top_k, target, all.mass, random);
    }

   private:
    static constexpr size_t most_listed = Workspace::list_sizes.back();

    // Leaves the nearest tokens as candidates: `most`, or fewer that reach `target` (negative: off). Whether they do.
    bool list(Workspace& work, const Scale& scale, size_t most, double target) const {
        work.list_first(keys_, most, 14);  // there are many tokens within a small distance
        take_candidates(work, scale);
        if (work.candidates.size() > most) work.leave_first(most);
        if (target < 0 || mass_of_candidates(work) < target) return false;
        work.candidates.resize(partition_by_mass(work.candidates, target));
        return true;
    }

    static void take_candidates(Workspace& work, const Scale& scale) {
        const List& found = work.list.list;
        work.candidates.clear();
        for (size_t i = 0; i < found.size; ++i)
            work.candidates.push_back({found.logits[i], found.ids[i], mass_of(work.row.logits[found.ids[i]], scale)});
    }

    static double mass_of_candidates(const Workspace& work) {
        double mass = 0;
        for (const Candidate& candidate : work.candidates) mass += candidate.mass;
        return mass;
    }

    // From the candidates.
    static int32_t draw_listed(Workspace& work, const Sequence& sequence, double random) {
        std::sort(work.candidates.begin(), work.candidates.end(),
                  [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
        Scale drawn = work.scale_at(sequence.temperature);
        drawn.peak = -infinity;
        for (const Candidate& candidate : work.candidates) drawn.peak = std::max(drawn.peak, work.row.logits[candidate.id]);
        double all = 0, sum = 0;
        for (Candidate& candidate : work.candidates) all += candidate.mass = mass_of(work.row.logits[candidate.id], drawn);
        for (const Candidate& candidate : work.candidates)
            if ((sum += candidate.mass) > random * all) return candidate.id;
        return work.candidates.back().id;
    }

    int32_t draw_from_row(Workspace& work, const Scale& scale, Sequence& sequence, bool top_k, double target, double all,
                          double random) {
        const Row& row = work.row;
        Border border{-FLT_MAX, 0};  // all that have mass
        if (target >= 0) border = find_border(work, scale, target, all);
        if (top_k) {
            work.fill_buckets([&](size_t i) { return std::min(-nearness_[i], -cutoff); });
            const double count = static_cast<double>(sequence.top_k);
            const Border last = work.find_border(nearness_.data(), [](size_t) { return 1.0; }, count, false);
            border = last.logit == -infinity ? border : earlier(border, last);
        }
        Scale drawn = work.scale_at(sequence.temperature);
        drawn.peak = work.passes.largest_within(row.logits, nearness_.data(), row.size, border);
        const int32_t token = work.draw_within(keys_, border, drawn, random);
        if (!top_k) sequence.kept = work.blocks_drawn_from();  // or more
        return token;
    }

    // Where the mass of the nearest reaches `target`: within what a sample of the row says, or elsewhere if it is wrong.
    Border find_border(Workspace& work, const Scale& scale, double target, double all) {
        Bracket bracket = guess(work, scale, target / all);
        for (;;) {
            work.list.clear(work.row.size);
            const Split found = work.passes.split_near(work.row.logits, nearness_.data(), work.row.size, scale, bracket, work.list.list);
            take_candidates(work, scale);
            const double missing = target - found.above;
            if (missing <= 0) {
                bracket = {bracket.upper, 0};
            } else if (mass_of_candidates(work) < missing) {
                bracket = {-FLT_MAX, bracket.lower};
            } else {
                return find_border_among(work.candidates, missing);
            }
        }
    }

    // The candidate at which the mass of the nearest reaches `missing`: first the bucket, then the place in it.
    static Border find_border_among(std::vector<Candidate>& candidates, double missing) {
        constexpr size_t buckets = 256;
        float low = 0, high = -FLT_MAX;
        for (const Candidate& candidate : candidates) {
            low = std::min(low, candidate.logit);
            high = std::max(high, candidate.logit);
        }
        const float scale = high > low ? (buckets - 1) / (high - low) : 0;
        const auto bucket = [&](const Candidate& candidate) { return static_cast<size_t>((high - candidate.logit) * scale); };
        std::array<double, buckets + 1> masses{};
        for (const Candidate& candidate : candidates) masses[bucket(candidate)] += candidate.mass;
        size_t b = 0;
        for (; b < buckets && masses[b] < missing; ++b) missing -= masses[b];
        std::erase_if(candidates, [&](const Candidate& candidate) { return bucket(candidate) != b; });
        const Candidate& last = candidates[partition_by_mass(candidates, missing) - 1];
        return {last.logit, last.id};
    }

    Bracket guess(Workspace& work, const Scale& scale, double share) {
        constexpr size_t run = 16, step = 16;
        constexpr int probes = 16;
        std::vector<float>&keys = work.floats, &weights = work.more_floats;
        keys.clear();
        weights.clear();
        for (size_t i = 0, turn = 0; i + run * step <= work.row.size; i += run * step, turn += 7) {
            const size_t first = i + turn % step * run;
            keys.insert(keys.end(), nearness_.begin() + first, nearness_.begin() + first + run);
            weights.insert(weights.end(), work.row.logits + first, work.row.logits + first + run);
        }
        const size_t size = keys.size();
        work.passes.weigh(weights.data(), size, scale, weights.data());
        const auto above = [&](float key) { return work.passes.weight_above(keys.data(), weights.data(), size, key); };
        const double all = above(-infinity);
        const double slack = 2.5 * std::sqrt(work.passes.sum_squares(weights.data(), size) * share * (1 - share)) + 1e-5 * all;
        Bracket found{-FLT_MAX, 0};
        float low = 2 * cutoff, high = 0;
        for (int probe = 0; probe < probes; ++probe) {  // as much as needed, and more
            const float middle = 0.5f * low + 0.5f * high;
            (above(middle) >= share * all + slack ? low : high) = middle;
        }
        if (above(low) >= share * all + slack) found.lower = low;
        high = 0;
        for (int probe = 0; probe < probes; ++probe) {  // less
            const float middle = 0.5f * low + 0.5f * high;
            (above(middle) <= share * all - slack ? high : low) = middle;
        }
        found.upper = high;
        return found;
    }

    std::vector<float> nearness_;  // -infinity: no mass
    Row keys_;
};

}  // namespace wingbeat::sampler
