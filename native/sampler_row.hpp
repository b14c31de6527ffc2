// One token for one row of logits. src/wingbeat/sampling/reference.py is the readable version; this one finds the
// same set of tokens with few passes over the row and never sorts it.
#pragma once

#include "sampler_joint.hpp"
#include "sampler_noise.hpp"
#include "sampler_nucleus.hpp"
#include "sampler_surprise.hpp"
#include "sampler_typical.hpp"

namespace wingbeat::sampler {

// Where a row's log-probabilities go; `top_*` have room for as many entries as are asked for.
struct Report {
    float* logprob;
    int32_t* top_tokens;
    float* top_logprobs;
};

// How many tokens are at least as likely as a given one, that one included; all, of one that lies beyond the row.
inline int32_t rank_of(const float* logits, size_t vocab, int32_t target) {
    if (static_cast<size_t>(target) >= vocab) return static_cast<int32_t>(vocab);
    const float least = logits[target];
    int32_t count = 0;
    for (size_t i = 0; i < vocab; ++i) count += logits[i] >= least;
    return count;
}

// The scratch memory of one thread and what is done in it.
class RowSampler {
   public:
    explicit RowSampler(const Passes& passes) : work_(passes) {}

    // The token drawn; -1 when there is none to draw. The logits are as before afterwards.
    // `next` is the row that comes next, `allowed` the bits of the tokens that may be drawn; null: none, all.
    int32_t sample(float* logits, const float* next, size_t vocab, const uint32_t* allowed, Sequence& sequence, uint64_t position,
                   const Report& out) {
        Row& row = work_.row;
        row.next = next ? next : logits;
        float* shown = logits;
        if (allowed) {
            shown = row.look_at_allowed(work_.passes, logits, vocab, allowed);
        } else {
            row.look_at(work_.passes, logits, vocab);
        }
        if (row.nan) return -1;
        const int32_t token = choose(shown, sequence, position);
        if (token < 0) return -1;
        sequence.remember(token);
        if (sequence.logprobs >= 0) score(logits, vocab, token, static_cast<size_t>(sequence.logprobs), out);
        return token;
    }

    // The log-probability of a given token, as `sample` reports that of a drawn one. Writes nothing for a row that
    // cannot be sampled; returns whether it can.
    bool score(const float* logits, size_t vocab, int32_t target, size_t top, const Report& out) {
        work_.row.next = logits;
        work_.row.look_at(work_.passes, logits, vocab);
        if (work_.row.nan) return false;
        work_.row.find_peak(work_.passes);
        if (work_.row.peak == -infinity) return false;
        report(target, top, out);
        return true;
    }

   private:
    int32_t choose(float* logits, Sequence& sequence, uint64_t position) {
        const Edits edits(work_.passes, sequence, logits, work_.row, changes_);
        work_.row.find_peak(work_.passes);
        if (work_.row.peak == -infinity) return -1;
        if (sequence.greedy()) return work_.row.arg_max();
        if (sequence.kind == Kind::noise) return loudest_.find(work_, sequence, position);
        return draw(sequence, uniform(sequence.seed, sequence.choice, position));
    }

    int32_t draw(Sequence& sequence, double random) {
        if (sequence.kind == Kind::typical) return typical_.draw(work_, sequence, random);
        if (sequence.surprises()) return draw_mirostat(work_, sequence, random);
        if (sequence.order == Order::standard) return draw_standard(work_, sequence, random);
        return sequence.order == Order::joint ? draw_joint(work_, sequence, random) : draw_truncated(work_, sequence, random);
    }

    // Log-softmax of the row: of `token`, which may lie beyond it, and of the most likely ones.
    void report(int32_t token, size_t count, const Report& out) {
        const Row& row = work_.row;
        const Scale scale = work_.scale_at(1);
        const double log_total = std::log(work_.sum_block_masses(scale));
        const auto logprob = [&](float logit) {
            return static_cast<float>((static_cast<double>(logit) - row.peak) - log_total);
        };
        *out.logprob = static_cast<size_t>(token) < row.size ? logprob(row.logits[token]) : -infinity;
        if (count == 0) return;
        work_.list_first(row, count);
        work_.weigh_list(scale);
        work_.take_candidates();
        std::vector<Candidate>& best = work_.candidates;
        count = std::min(count, best.size());
        std::partial_sort(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(count), best.end(), before);
        for (size_t i = 0; i < count; ++i) {
            const float value = logprob(best[i].logit);
            if (value == -infinity) break;
            out.top_tokens[i] = best[i].id;
            out.top_logprobs[i] = value;
        }
    }

    Workspace work_;
    Typical typical_;
    Loudest loudest_;
    std::vector<Change> changes_;
};

}  // namespace wingbeat::sampler
