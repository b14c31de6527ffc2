// Noise arg-max: the largest logit after noise from [0, noise) was added to each. Only tokens within its reach of the
// largest one before can be that, so only they get a random number.
#pragma once

#include "sampler_workspace.hpp"

namespace wingbeat::sampler {

class Loudest {
   public:
    int32_t find(Workspace& work, const Sequence& sequence, uint64_t position) {
        const float peak = work.row.peak;
        const double reach = sequence.noise * sequence.temperature;
        const double top = peak / sequence.temperature;
        // A little more than needed; each token is looked at more closely.
        const double least = peak - reach - 1e-5 * (std::abs(peak) + reach);
        work.list_from(sequence.temperature < 1e30 && least > -FLT_MAX ? static_cast<float>(least) : -FLT_MAX);
        best_ = top;
        token_ = -1;
        const List& list = work.list.list;
        const double likely = peak - reach / 16;  // they spare most others the random number
        for (const bool first : {true, false})
            for (size_t i = 0; i < list.size; ++i)
                if ((list.logits[i] >= likely) == first) listen(sequence, position, list.ids[i], list.logits[i]);
        return token_;
    }

   private:
    void listen(const Sequence& sequence, uint64_t position, int32_t token, float logit) {
        const double scaled = logit / sequence.temperature;
        if (scaled + sequence.noise < best_) return;
        const double loud = scaled + sequence.noise * noise(sequence.seed, sequence.choice, position, static_cast<uint32_t>(token));
        if (token_ < 0 || loud > best_ || (loud == best_ && token < token_)) {
            best_ = loud;
            token_ = token;
        }
    }

    double best_ = 0;
    int32_t token_ = -1;
};

}  // namespace wingbeat::sampler
