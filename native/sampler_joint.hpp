// Nucleus in the order joint: top_k and top_p look at the same tempered probabilities, and of the tokens at the border,
// all that are as likely as each other, only so much is kept that the count is exactly top_k or the mass exactly top_p.
#pragma once

#include "sampler_prefix.hpp"

namespace wingbeat::sampler {

// The tokens that are certainly kept, weighed, and those at the border.
class Joint {
   public:
    Joint(Workspace& work, const Prefix& prefix, const Scale& scale)
        : work_(work), prefix_(prefix), above_{prefix.border.logit, -1} {
        find_edge();
        if (prefix.listed) {
            work.drop(above_);
            mass = work.sum_list();
        } else if (prefix.large) {
            mass = work.large_sets.cut(above_);
        } else {
            weigh(scale);
        }
    }

    double mass = 0;
    std::vector<int32_t> edge;  // ascending

    // How many are certain.
    double count() const {
        const float next = std::nextafter(above_.logit, infinity);
        if (prefix_.listed) return work_.passes.count_from(work_.list.list.logits, work_.list.list.size, next);
        return work_.passes.count_from(work_.row.logits, work_.row.size, next);
    }

    // Leaves out those with less mass than `least`.
    void drop_light(const Scale& scale, double least) {
        if (prefix_.large) weigh(scale);
        prefix_.large = false;
        float* weights = prefix_.listed ? work_.list.weights : work_.floats.data();
        work_.passes.drop_below(prefix_.listed ? work_.list.list.size : work_.row.size, least, weights);
        mass = prefix_.listed ? work_.sum_list() : work_.sum_row(work_.floats);
    }

    int32_t draw_at(double drawn) const {
        if (prefix_.listed) return work_.draw_listed_at(drawn);
        return prefix_.large ? work_.large_sets.draw_at(work_.row, drawn) : work_.draw_weighed_at(work_.floats, drawn);
    }

   private:
    void weigh(const Scale& scale) {
        work_.weigh_row(scale, work_.floats);
        work_.passes.drop_beyond(work_.row.logits, nullptr, work_.row.size, above_, work_.floats.data());
        mass = work_.sum_row(work_.floats);
    }

    void find_edge() {
        const Row& row = work_.row;
        if (prefix_.large) return work_.large_sets.list_equal(above_, edge);
        for (size_t b = 0; b < row.peaks.size(); ++b) {
            if (row.peaks[b] < above_.logit) continue;
            for (size_t i = b * block; i < std::min(row.size, (b + 1) * block); ++i)
                if (row.logits[i] == above_.logit) edge.push_back(static_cast<int32_t>(i));
        }
    }

    Workspace& work_;
    Prefix prefix_;
    const Border above_;
};

inline int32_t draw_joint(Workspace& work, Sequence& sequence, double random) {
    if (sequence.top_p == 0) return work.row.arg_max();
    const Scale scale = work.scale_at(sequence.temperature);
    const Prefix prefix = find_prefix(work, sequence, scale, Edge::reach);
    if (prefix.border.id == any_id) return draw_prefix(work, prefix, scale, sequence.temperature, sequence.min_p, random);

    const bool top_p = sequence.top_p < 1;
    const double whole = !top_p ? 0 : prefix.large ? work.large_sets.total() : work.sum_block_masses(scale);
    Joint joint(work, prefix, scale);
    const double one = mass_of(prefix.border.logit, scale), size = static_cast<double>(joint.edge.size());
    double part = size * one;
    if (top_p) part = std::min(part, sequence.top_p * whole - joint.mass);
    if (sequence.top_k > 0 && static_cast<size_t>(sequence.top_k) < work.row.size)
        part = std::min(part, one * (static_cast<double>(sequence.top_k) - joint.count()));
    if (sequence.min_p > 0) {
        if (one < sequence.min_p) part = 0;
        joint.drop_light(scale, sequence.min_p);
    }
    const double drawn = random * (joint.mass + part);
    if (drawn < joint.mass) return joint.draw_at(drawn);
    const auto place = static_cast<size_t>((drawn - joint.mass) / part * size);
    return joint.edge[std::min(joint.edge.size() - 1, place)];
}

}  // namespace wingbeat::sampler
