// Bans, logit bias and penalties, made in the row itself and taken back: a copy would cost more than all else.
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
    Edits(const Passes& passes, Sequence& sequence, float* logits, Row& row, std::vector<Change>& changes)
        : passes_(passes), logits_(logits), row_(row), changes_(changes) {
        changes.clear();
        changes.reserve(1 + sequence.held_back.size() + sequence.bias.size() + sequence.penalties.size());
        sequence.ban([&](int32_t token) { set(token, -infinity); });
        if (!changes.empty() && row.largest(passes) == -infinity) take_back();  // a ban that leaves nothing is none
        sequence.edit(logits, [&](int32_t token, double logit) { set(token, static_cast<float>(logit)); });
    }
    ~Edits() {
        for (auto change = changes_.rbegin(); change != changes_.rend(); ++change) logits_[change->token] = change->before;
    }
    Edits(const Edits&) = delete;
    Edits& operator=(const Edits&) = delete;

   private:
    void set(int32_t token, float logit) {
        changes_.push_back({token, logits_[token]});
        write(token, logit);
    }

    void write(int32_t token, float logit) {
        const float before = logits_[token];
        logits_[token] = logit;
        row_.note_change(passes_, token, before);
    }

    void take_back() {
        for (auto change = changes_.rbegin(); change != changes_.rend(); ++change) write(change->token, change->before);
        changes_.clear();
    }

    const Passes& passes_;
    float* const logits_;
    Row& row_;
    std::vector<Change>& changes_;
};

}  // namespace wingbeat::sampler
