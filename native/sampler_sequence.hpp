// What the sampler keeps of one running sequence: its parameters, what its penalties know, mirostat's value.
#pragma once

#include "sampler_penalties.hpp"

namespace wingbeat::sampler {

enum class Kind { nucleus, typical, mirostat, mirostat_full, noise };
enum class Order { standard, rwkv, ai00, joint };

struct Bias {
    int32_t token;
    double value;
};

struct Sequence {
    Kind kind = Kind::nucleus;
    Order order = Order::standard;
    double temperature = 1, top_p = 1, min_p = 0;
    double tau = 0, rate = 0, noise = 0;
    int64_t top_k = 0;
    int64_t logprobs = -1;  // -1: off
    uint64_t seed = 0;
    uint32_t choice = 0;
    std::vector<Bias> bias;
    Penalties penalties;
    std::vector<int32_t> no_repeat, held_back;  // tokens that may not follow themselves; not before min_tokens
    int64_t min_tokens = 0;
    int64_t length = 0;      // of the answer
    int32_t last = -1;       // token
    double mu = 0;
    size_t kept = 0;         // by the last top_p, about: it tells how to look for the next set, not what is found
    uint64_t last_step = 0;  // in which it had a row

    bool greedy() const { return temperature < 1e-6; }
    bool surprises() const { return kind == Kind::mirostat || kind == Kind::mirostat_full; }

    void remember(int32_t token) {
        penalties.remember(token);
        ++length;
        last = token;
    }

    // Calls ban(token) for those that must not come now.
    template <class Ban>
    void ban(const Ban& ban) const {
        if (std::find(no_repeat.begin(), no_repeat.end(), last) != no_repeat.end()) ban(last);
        if (length >= min_tokens) return;
        for (const int32_t token : held_back) ban(token);
    }

    // Logit bias, then penalties: calls set(token, logit), which changes what lies in `logits`.
    template <class Set>
    void edit(const float* logits, const Set& set) {
        for (const Bias& entry : bias) set(entry.token, logits[entry.token] + entry.value);
        penalties.apply(logits, set);
    }
};

}  // namespace wingbeat::sampler
