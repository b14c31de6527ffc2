// Samplers that keep the most likely tokens up to one of them: nucleus in the orders rwkv, ai00 and joint, and mirostat.
#pragma once

#include "sampler_workspace.hpp"

namespace wingbeat::sampler {

struct Prefix {
    Border border;  // the last token that is kept
    bool listed;    // the list has all of them, weighed by the scale that the border was found with
    bool large;     // it was found among large sets
};

constexpr int32_t any_id = std::numeric_limits<int32_t>::max();
constexpr Border everything{-infinity, any_id};

inline Border earlier(Border a, Border b) {
    return before({a.logit, a.id, 0}, {b.logit, b.id, 0}) ? a : b;
}

// What top_p keeps. exceed: until the mass is more than that; with_ties: and all that are as likely as the last one.
enum class Edge { reach, exceed, with_ties };

inline Border border_at(const Candidate& last, Edge edge) {
    return {last.logit, edge == Edge::with_ties ? any_id : last.id};
}

// The top_k first tokens, or those that have top_p of the mass of all, whichever are fewer.
inline Prefix list_prefix(Workspace& work, const Sequence& sequence, const Scale& scale, Edge edge) {
    const size_t count = static_cast<size_t>(sequence.top_k);
    work.list_first(work.row, count);
    work.weigh_list(scale);
    work.take_candidates();
    Border border = everything;
    if (work.candidates.size() >= count) border = work.leave_first(count);
    if (sequence.top_p >= 1) return {border, true, false};
    double mass = 0;
    for (const Candidate& candidate : work.candidates) mass += candidate.mass;
    const double target = goal_of(sequence.top_p, work.sum_block_masses(scale), edge == Edge::exceed);
    if (mass >= target)
        border = earlier(border, border_at(work.candidates[partition_by_mass(work.candidates, target) - 1], edge));
    return {border, true, false};
}

inline Prefix prefix_of_mass(Workspace& work, Sequence& sequence, const Scale& scale, Edge edge) {
    if (sequence.kept <= Workspace::list_sizes.back()) {
        const double target = goal_of(sequence.top_p, work.sum_block_masses(scale), edge == Edge::exceed);
        if (work.list_mass(scale, target, sequence.kept)) {
            work.take_candidates();
            sequence.kept = partition_by_mass(work.candidates, target);
            return {border_at(work.candidates[sequence.kept - 1], edge), true, false};
        }
    }
    const Border border = work.large_sets.find(work.passes, work.row, scale, sequence.top_p, edge == Edge::exceed);
    sequence.kept = work.large_sets.kept();
    return {edge == Edge::with_ties ? Border{border.logit, any_id} : border, false, true};
}

inline Prefix find_prefix(Workspace& work, Sequence& sequence, const Scale& scale, Edge edge) {
    const bool top_k = sequence.top_k > 0 && static_cast<size_t>(sequence.top_k) < work.row.size;
    if (top_k && work.can_list(sequence.top_k)) return list_prefix(work, sequence, scale, edge);
    Prefix found{everything, false, false};
    if (sequence.top_p < 1) found = prefix_of_mass(work, sequence, scale, edge);
    if (!top_k || (found.listed && work.list.list.size <= static_cast<size_t>(sequence.top_k))) return found;
    work.fill_buckets(scale);
    const double count = static_cast<double>(sequence.top_k);
    const Border border = work.find_border(work.row.logits, [](size_t) { return 1.0; }, count, true);
    if (earlier(border, found.border).id != border.id) return found;
    return {border, found.listed, false};
}

// Sets to 0 what weighs nothing, or less than `least`, in `by`.
inline void drop_light(Workspace& work, float* by, double least, size_t size, float* weights) {
    work.passes.drop_below(size, least, by);
    for (size_t i = 0; i < size; ++i) weights[i] = by[i] == 0 ? 0 : weights[i];
}

// Draws from a prefix by the weights at `temperature`. Tokens whose mass at `scale`, which the prefix was found with, is
// less than `min_p` (0: off) are left out.
inline int32_t draw_prefix(Workspace& work, const Prefix& prefix, const Scale& scale, double temperature, double min_p,
                           double random) {
    const Scale drawn = work.scale_at(temperature);
    const bool again = drawn.sharpness != scale.sharpness;
    if (prefix.listed) {
        const size_t size = work.list.list.size;
        if (min_p > 0) work.more_floats.assign(work.list.weights, work.list.weights + size);
        if (again) work.list.weigh(work.passes, drawn);
        work.drop(prefix.border);
        if (min_p > 0) drop_light(work, work.more_floats.data(), min_p, size, work.list.weights);
        return work.draw_listed(random);
    }
    if (prefix.border.id == any_id && prefix.border.logit == -infinity && min_p == 0) return work.draw_plain(drawn, random);
    const Row& row = work.row;
    if (prefix.large && !again && min_p == 0) return work.large_sets.draw(row, prefix.border, random);
    if (min_p == 0) return work.draw_within(row, prefix.border, drawn, random);
    work.weigh_row(drawn, work.floats);
    work.passes.drop_beyond(row.logits, nullptr, row.size, prefix.border, work.floats.data());
    work.weigh_row(scale, work.more_floats);
    drop_light(work, work.more_floats.data(), min_p, row.size, work.floats.data());
    return work.draw_weighed(work.floats, random);
}

// The orders rwkv and ai00: top_p and top_k of the untempered probabilities, min_p, then temperature.
inline int32_t draw_truncated(Workspace& work, Sequence& sequence, double random) {
    const Scale scale = work.scale_at(1);
    const Prefix prefix = find_prefix(work, sequence, scale, sequence.order == Order::rwkv ? Edge::with_ties : Edge::exceed);
    return draw_prefix(work, prefix, scale, sequence.temperature, sequence.min_p, random);
}

}  // namespace wingbeat::sampler
