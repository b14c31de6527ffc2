// Nucleus in the order joint: top_k and top_p look at the same tempered probabilities, and of the tokens at the border,
// all that are as likely as each other, only so much is kept that the count is exactly top_k or the mass exactly top_p.
#pragma once

#include "sampler_prefix.hpp"

namespace wingbeat::sampler {

// The tokens that are certainly kept, and those at the border.
struct Joint {
    double mass;                // of those that are certain
    double count;               // of them
    std::vector<int32_t> edge;  // ascending
};

inline Joint split_at(Workspace& work, const Prefix& prefix, const Scale& scale) {
    const float border = prefix.border.logit;
    const Border above{border, -1};
    const float* logits = prefix.listed ? work.list.list.logits : work.row.logits;
    const size_t size = prefix.listed ? work.list.list.size : work.row.size;
    Joint joint{0, 0, {}};
    for (size_t i = 0; i < size; ++i) {
        joint.count += logits[i] > border;
        if (logits[i] == border) joint.edge.push_back(prefix.listed ? work.list.list.ids[i] : static_cast<int32_t>(i));
    }
    if (prefix.listed) {
        work.drop(above);
        joint.mass = work.sum_list();
    } else {
        work.weigh_row(scale, work.floats);
        work.passes.drop_beyond(logits, nullptr, size, above, work.floats.data());
        joint.mass = work.sum_row(work.floats);
    }
    return joint;
}

inline int32_t draw_joint(Workspace& work, Sequence& sequence, double random) {
    if (sequence.top_p == 0) return work.row.arg_max();
    const Scale scale = work.scale_at(sequence.temperature);
    const Prefix prefix = find_prefix(work, sequence, scale, Edge::reach);
    if (prefix.border.id == any_id) return draw_prefix(work, prefix, scale, sequence.temperature, sequence.min_p, random);

    const double whole = sequence.top_p < 1 ? work.sum_block_masses(scale) : 0;
    const Joint joint = split_at(work, prefix, scale);
    const double one = mass_of(prefix.border.logit, scale), edge = static_cast<double>(joint.edge.size());
    double part = edge * one;
    if (sequence.top_p < 1) part = std::min(part, sequence.top_p * whole - joint.mass);
    if (sequence.top_k > 0 && static_cast<size_t>(sequence.top_k) < work.row.size)
        part = std::min(part, one * (static_cast<double>(sequence.top_k) - joint.count));
    double above = joint.mass;
    if (sequence.min_p > 0) {
        if (one < sequence.min_p) part = 0;
        float* weights = prefix.listed ? work.list.weights : work.floats.data();
        work.passes.drop_below(prefix.listed ? work.list.list.size : work.row.size, sequence.min_p, work.rounder, weights);
        above = prefix.listed ? work.sum_list() : work.sum_row(work.floats);
    }
    const double drawn = random * (above + part);
    if (drawn < above) return prefix.listed ? work.draw_listed_at(drawn) : work.draw_weighed_at(work.floats, drawn);
    const auto place = static_cast<size_t>((drawn - above) / part * edge);
    return joint.edge[std::min(joint.edge.size() - 1, place)];
}

}  // namespace wingbeat::sampler
