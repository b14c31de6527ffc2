// Mirostat, which keeps the tokens that are not too surprising, and follows how surprising those drawn were.
#pragma once

#include "sampler_prefix.hpp"

namespace wingbeat::sampler {

// The tokens with a depth of `limit` or more, and (`one_more`) the next one; at least one.
inline Prefix prefix_by_depth(Workspace& work, const Scale& scale, double limit, bool one_more) {
    if (limit <= cutoff) return {everything, false, false};
    const double lowest = work.row.peak + std::min(0., limit / scale.sharpness);
    for (double margin = 0.25;; margin *= 4) {
        const float least = static_cast<float>(std::max<double>(-FLT_MAX, lowest - margin));
        work.list_from(least);
        work.weigh_list(scale);
        work.take_candidates();
        size_t count = 0;
        for (const Candidate& candidate : work.candidates) count += depth_of(candidate.logit, scale) >= limit;
        count = one_more ? count + 1 : std::max<size_t>(1, count);
        if (count <= work.candidates.size()) return {work.leave_first(count), true, false};
        if (least == -FLT_MAX) return {everything, true, false};
    }
}

inline int32_t draw_mirostat(Workspace& work, Sequence& sequence, double random) {
    const Scale scale = work.scale_at(1);
    const bool full = sequence.kind == Kind::mirostat_full;
    const double log_all = std::log2(work.sum_block_masses(scale));
    const Prefix prefix = prefix_by_depth(work, scale, log_all - sequence.mu, !full);
    // Tokens without mass are out of reach, whatever the temperature.
    const double least = full ? std::max(DBL_MIN, sequence.min_p < 1 ? sequence.min_p : 0) : 0;
    const int32_t token = draw_prefix(work, prefix, scale, full ? sequence.temperature : 1, least, random);
    const double surprise = (full ? log_all : std::log2(work.total)) - depth_of(work.row.logits[token], scale);
    sequence.mu -= sequence.rate * (surprise - sequence.tau);
    if (!full) sequence.mu = std::min(sequence.mu, 4 * sequence.tau);
    return token;
}

}  // namespace wingbeat::sampler
