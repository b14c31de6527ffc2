// Nucleus in the standard order: temperature, top_k, top_p of what that left, min_p.
#pragma once

#include "sampler_workspace.hpp"

namespace wingbeat::sampler {

// Applies top_p (`target` >= 0) and min_p to the list and draws from it.
inline int32_t draw_from_list(Workspace& work, Sequence& sequence, double target, double random) {
    if (target >= 0) {
        work.take_candidates();
        sequence.kept = partition_by_mass(work.candidates, target);
        const Candidate& last = work.candidates[sequence.kept - 1];
        work.drop({last.logit, last.id});
    }
    if (sequence.min_p > 0) work.passes.drop_below(work.list.list.size, sequence.min_p, work.list.weights);
    return work.draw_listed(random);
}

// Any filters, for sets too large to list.
inline int32_t draw_from_row(Workspace& work, const Scale& scale, Sequence& sequence, bool top_k, bool top_p, double random) {
    std::vector<float>& weights = work.floats;
    if (top_k || top_p) work.fill_buckets(scale);
    work.weigh_row(scale, weights);
    const Row& row = work.row;
    const auto mass = [&](size_t i) { return rounded(weights[i]); };
    const auto drop = [&](Border border) { work.passes.drop_beyond(row.logits, nullptr, row.size, border, weights.data()); };
    if (top_k) drop(work.find_border(row.logits, [](size_t) { return 1.0; }, static_cast<double>(sequence.top_k), false));
    if (top_p) drop(work.find_border(row.logits, mass, sequence.top_p * work.sum_row(weights), false));
    if (sequence.min_p > 0) work.passes.drop_below(row.size, sequence.min_p, weights.data());
    const int32_t token = work.draw_weighed(weights, random);
    sequence.kept = work.blocks_drawn_from();  // or more
    return token;
}

inline int32_t draw_standard(Workspace& work, Sequence& sequence, double random) {
    const Scale scale = work.scale_at(sequence.temperature);
    const bool top_k = sequence.top_k > 0 && static_cast<size_t>(sequence.top_k) < work.row.size;
    const bool top_p = sequence.top_p < 1, min_p = sequence.min_p > 0;
    if (!top_k && !top_p && !min_p) return work.draw_plain(scale, random);
    if (top_k && work.can_list(sequence.top_k)) {
        const size_t count = static_cast<size_t>(sequence.top_k);
        work.list_first(work.row, count);
        double mass = work.weigh_list(scale);
        if (work.list.list.size > count) {
            work.take_candidates();
            work.drop(work.leave_first(count));
            mass = work.sum_list();
        }
        return draw_from_list(work, sequence, top_p ? sequence.top_p * mass : -1, random);
    }
    if (!top_k && top_p && sequence.kept <= Workspace::list_sizes.back()) {
        const double target = sequence.top_p * work.sum_block_masses(scale);
        if (work.list_mass(scale, target, sequence.kept)) return draw_from_list(work, sequence, target, random);
    }
    if (top_k || min_p) return draw_from_row(work, scale, sequence, top_k, top_p, random);
    const Border border = work.large_sets.find(work.passes, work.row, scale, sequence.top_p, false);
    const int32_t token = work.large_sets.draw(work.row, border, random);
    sequence.kept = work.large_sets.kept();
    return token;
}

}  // namespace wingbeat::sampler
