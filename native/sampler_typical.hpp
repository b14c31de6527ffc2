// Typical: the tokens whose surprise is nearest to the entropy: at most top_k, until their mass exceeds tau; then
// temperature. A row of how near each token is takes the place of the logits.
#pragma once

#include "sampler_prefix.hpp"

namespace wingbeat::sampler {

class Typical {
   public:
    int32_t draw(Workspace& work, const Sequence& sequence, double random) {
        const Scale scale = work.scale_at(1);
        const double all = work.sum_block_masses(scale);
        const Row& row = work.row;
        const double mean = work.passes.sum_depths(row.logits, row.size, row.peaks.data(), scale) / all;
        nearness_.resize(row.peaks.size() * block);
        work.passes.near(row.logits, row.size, row.peaks.data(), scale, static_cast<float>(mean), nearness_.data());
        keys_.look_at(work.passes, nearness_.data(), row.size);
        keys_.peak = keys_.largest(work.passes);

        const bool top_k = sequence.top_k > 0 && static_cast<size_t>(sequence.top_k) < row.size;
        const double target = sequence.tau < 1 ? goal_of(sequence.tau, all, true) : -1;
        if (top_k ? work.can_list(sequence.top_k) : target >= 0) {
            const size_t most = top_k ? static_cast<size_t>(sequence.top_k) : Workspace::list_sizes.back();
            if (list(work, scale, most, target) || top_k) return draw_listed(work, sequence, random);
        }
        return draw_from_row(work, scale, sequence, top_k, target, random);
    }

   private:
    // Leaves the nearest tokens as candidates: `most`, or fewer that reach `target` (negative: off). Whether they do.
    bool list(Workspace& work, const Scale& scale, size_t most, double target) const {
        work.list_first(keys_, most);
        const List& found = work.list.list;
        work.candidates.clear();
        for (size_t i = 0; i < found.size; ++i)
            work.candidates.push_back({found.logits[i], found.ids[i], mass_of(work.row.logits[found.ids[i]], scale)});
        if (work.candidates.size() > most) work.leave_first(most);
        double mass = 0;
        for (const Candidate& candidate : work.candidates) mass += candidate.mass;
        if (target < 0 || mass < target) return false;
        work.candidates.resize(partition_by_mass(work.candidates, target));
        return true;
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

    int32_t draw_from_row(Workspace& work, const Scale& scale, const Sequence& sequence, bool top_k, double target,
                          double random) const {
        const Row& row = work.row;
        const auto distance = [&](size_t i) { return std::min(-nearness_[i], -cutoff); };
        if (top_k || target >= 0) work.fill_buckets(distance);
        Border border{-FLT_MAX, 0};  // all that have mass
        if (target >= 0) {
            work.weigh_row(scale, work.floats);
            const auto mass = [&](size_t i) { return rounded(work.floats[i], work.rounder); };
            border = work.find_border(nearness_.data(), mass, target, false);
        }
        if (top_k) {
            const double count = static_cast<double>(sequence.top_k);
            const Border last = work.find_border(nearness_.data(), [](size_t) { return 1.0; }, count, false);
            border = earlier(border, last.logit == -infinity ? border : last);
        }
        Scale drawn = work.scale_at(sequence.temperature);
        drawn.peak = -infinity;
        for (size_t i = 0; i < row.size; ++i)
            if (!before({border.logit, border.id, 0}, {nearness_[i], static_cast<int32_t>(i), 0}))
                drawn.peak = std::max(drawn.peak, row.logits[i]);
        work.weigh_row(drawn, work.floats);
        work.passes.drop_beyond(nearness_.data(), nullptr, row.size, border, work.floats.data());
        return work.draw_weighed(work.floats, random);
    }

    std::vector<float> nearness_;  // -infinity: no mass
    Row keys_;
};

}  // namespace wingbeat::sampler
