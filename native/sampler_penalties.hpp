// Presence, frequency and repetition penalties of one sequence; src/wingbeat/sampling/penalties.py is the readable
// version. What a token counts is written when the token occurs, and decays by its age: a step costs nothing for it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace wingbeat::sampler {

enum class PenaltyStyle { counts, counts_decay_first, values };

class Penalties {
   public:
    double presence = 0, frequency = 0, repetition = 1, decay = 1;
    PenaltyStyle style = PenaltyStyle::counts;
    std::vector<int32_t> free;  // ascending
    bool free_of_presence = false;  // they are not weighed at all
    bool late = false;          // what came before the answer counts from its second token on

    struct Weight {
        int32_t token;
        double weight;
        int64_t age;
    };
    struct Count {
        int32_t token;
        int64_t count;
    };

    size_t size() const { return entries_.size(); }

    // What was counted before. All tokens are inside the vocabulary.
    void begin(const std::vector<int32_t>& history, const std::vector<Count>& counts, const std::vector<Weight>& weights,
               const std::vector<int32_t>& repeated) {
        std::vector<int32_t> tokens = repeated;
        if (weighs()) tokens.insert(tokens.end(), history.begin(), history.end());
        for (const Weight& entry : weights) tokens.push_back(entry.token);
        for (const Count& entry : counts) tokens.push_back(entry.token);
        std::sort(tokens.begin(), tokens.end());
        tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
        for (const int32_t token : tokens) entries_.push_back({token});
        if (repetition != 1) {
            for (const int32_t token : repeated) entry_of(token).repeated = true;
            for (const Count& entry : counts) entry_of(entry.token).repeated = true;
        }
        if (!weighs()) return;
        for (const Weight& entry : weights) entry_of(entry.token).write(entry.weight, -entry.age);
        if (!weights.empty()) return;
        count_history(history);
        for (const Count& entry : counts) add(entry.token, entry.count);
    }

    void remember(int32_t token) {
        if (repetition != 1) entry_of(token).repeated = true;
        if (!weighs()) return;
        ++now_;
        add(token, 1);
    }

    // Calls set(token, logit), which changes what lies in `logits`; each in double, to be rounded to float once.
    template <class Set>
    void apply(const float* logits, const Set& set) {
        for (const Entry& entry : entries_) {
            const bool weighed = entry.weighed && !(late && now_ == 0);
            if (!entry.repeated && !weighed) continue;
            double logit = logits[entry.token];
            if (entry.repeated) logit = logit > 0 ? logit / repetition : logit * repetition;
            if (weighed) logit -= penalty_of(entry);
            set(entry.token, logit);
        }
    }

   private:
    static constexpr int64_t max_age = 1 << 20;

    // The nearest number that is: an infinite penalty would make NaN of an infinite logit.
    static double finite(double value) {
        constexpr double most = std::numeric_limits<double>::max();
        return std::clamp(value, -most, most);
    }

    struct Entry {
        int32_t token;
        bool repeated = false;  // the repetition penalty is for it
        bool weighed = false;
        double weight = 0;
        int64_t then = 0;  // when the weight was written
        void write(double value, int64_t now) {
            weighed = true;
            weight = finite(value);
            then = now;
        }
    };

    bool weighs() const { return presence != 0 || frequency != 0; }
    bool is_free(int32_t token) const { return std::binary_search(free.begin(), free.end(), token); }
    bool is_unweighed(int32_t token) const { return free_of_presence && is_free(token); }

    Entry& entry_of(int32_t token) {
        const auto place = std::lower_bound(entries_.begin(), entries_.end(), token,
                                            [](const Entry& entry, int32_t wanted) { return entry.token < wanted; });
        if (place != entries_.end() && place->token == token) return *place;
        return *entries_.insert(place, {token});
    }

    void count_history(const std::vector<int32_t>& history) {
        double power = 1;
        for (auto token = history.rbegin(); token != history.rend(); ++token, power *= decay) {
            if (is_unweighed(*token)) continue;
            Entry& entry = entry_of(*token);
            entry.write(entry.weight + (is_free(*token) ? 0 : power), 0);
        }
        if (style != PenaltyStyle::values) return;
        for (Entry& entry : entries_)
            if (entry.weighed) entry.write(presence + frequency * entry.weight, 0);
    }

    // It was generated `count` times just now.
    void add(int32_t token, int64_t count) {
        if (is_unweighed(token)) return;
        Entry& entry = entry_of(token);
        const double gain = is_free(token) ? 0 : static_cast<double>(count);
        const double weight = entry.weighed ? decayed(entry.weight, now_ - entry.then) : 0;
        if (style != PenaltyStyle::values) {
            entry.write(weight + gain, now_);
        } else if (entry.weighed) {
            entry.write(weight + frequency * gain, now_);
        } else {
            entry.write(presence + frequency * std::max(0., gain - 1), now_);
        }
    }

    double penalty_of(const Entry& entry) {
        const int64_t age = now_ - entry.then;
        if (style == PenaltyStyle::values) return decayed(entry.weight, age);
        const bool first = style == PenaltyStyle::counts_decay_first;
        return finite(presence + frequency * decayed(entry.weight, first ? age + 1 : age));
    }

    double decayed(double weight, int64_t age) {
        if (decay == 1) return weight;
        const size_t power = static_cast<size_t>(std::min(age, max_age));
        while (powers_.size() <= power) powers_.push_back(powers_.back() * decay);
        return weight * powers_[power];
    }

    std::vector<Entry> entries_;  // ascending tokens; a short list, never a row of the vocabulary
    int64_t now_ = 0;             // tokens since the beginning
    std::vector<double> powers_{1};
};

}  // namespace wingbeat::sampler
