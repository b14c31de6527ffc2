// What the sampler keeps of one running sequence: its parameters and the tokens its penalties look at.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace wingbeat::sampler {

struct Bias {
    int32_t token;
    double value;
};

struct Seen {
    int32_t token;
    int32_t generated;  // 0: only in the prompt
};

struct Sequence {
    double temperature = 1, top_p = 1, min_p = 0;
    double presence = 0, frequency = 0, repetition = 1;
    int64_t top_k = 0;
    int64_t logprobs = -1;  // -1: off
    uint64_t seed = 0;
    uint32_t choice = 0;
    std::vector<Bias> bias;
    size_t kept = 0;         // by the last top_p, about: it tells how to look for the next set, not what is found
    uint64_t last_step = 0;  // in which it had a row
    std::vector<Seen> seen;  // ascending tokens; a short list, never a row of the vocabulary

    bool greedy() const { return temperature < 1e-6; }
    bool penalises() const { return presence != 0 || frequency != 0 || repetition != 1; }

    // `prompt` may repeat tokens; those outside the vocabulary are ignored.
    void remember_prompt(const int32_t* prompt, size_t length, int32_t vocab) {
        if (repetition == 1) return;
        std::vector<bool> present(vocab);
        for (size_t i = 0; i < length; ++i)
            if (prompt[i] >= 0 && prompt[i] < vocab) present[prompt[i]] = true;
        for (int32_t token = 0; token < vocab; ++token)
            if (present[token]) seen.push_back({token, 0});
    }

    void remember(int32_t token) {
        if (!penalises()) return;
        auto place = std::lower_bound(seen.begin(), seen.end(), token,
                                      [](const Seen& entry, int32_t wanted) { return entry.token < wanted; });
        if (place == seen.end() || place->token != token) place = seen.insert(place, {token, 0});
        ++place->generated;
    }

    // Logit bias, then penalties; each in double, to be rounded to float once. Calls set(token, logit), which changes
    // what lies in `logits`.
    template <class Set>
    void edit(const float* logits, const Set& set) const {
        for (const Bias& entry : bias) set(entry.token, logits[entry.token] + entry.value);
        for (const Seen& entry : seen) {
            double logit = logits[entry.token];
            logit = logit > 0 ? logit / repetition : logit * repetition;
            if (entry.generated != 0) logit -= presence + frequency * entry.generated;
            set(entry.token, logit);
        }
    }
};

}  // namespace wingbeat::sampler
