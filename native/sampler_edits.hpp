// Logit bias and penalties, made in the row itself and taken back: a copy would cost more than all else.
#pragma once

#include "sampler_select.hpp"
#include "sampler_sequence.hpp"

namespace wingbeat::sampler {

struct Change {
    int32_t token;
    float before;
};

// While it lives, the row is as the sequence wants it.
class Edits {
   public:
    // `changes` is scratch memory.
    Edits(const Passes& passes, const Sequence& sequence, float* logits, Row& row, std::vector<Change>& changes)
        : logits_(logits), changes_(changes) {
        changes.clear();
        changes.reserve(sequence.bias.size() + sequence.seen.size());
        sequence.edit(logits, [&](int32_t token, double logit) {
            changes.push_back({token, logits[token]});
            logits[token] = static_cast<float>(logit);
            row.note_change(passes, token, changes.back().before);
        });
    }
    ~Edits() {
        for (auto change = changes_.rbegin(); change != changes_.rend(); ++change) logits_[change->token] = change->before;
    }
    Edits(const Edits&) = delete;
    Edits& operator=(const Edits&) = delete;

   private:
    float* const logits_;
    std::vector<Change>& changes_;
};

}  // namespace wingbeat::sampler
