// Draws from a top_p set too large to list: where it ends is guessed from a sample of the row, to within a few percent
// of the tokens, so that one pass over the row sums what is certainly inside and lists only what may be. What is found
// does not depend on the guess: when that was wrong, another pass follows.
#pragma once

#include <array>
#include <cmath>

#include "sampler_select.hpp"

namespace wingbeat::sampler {

// The mass that a set must reach to have `top_p` of `total`, or (`exceed`) more than that as far as there is more.
inline double goal_of(double top_p, double total, bool exceed) {
    const double target = top_p * total;
    return exceed ? std::min(std::nextafter(target, std::numeric_limits<double>::infinity()), total) : target;
}

class LargeSets {
   public:
    // The last token of the smallest set of most likely tokens whose mass reaches `top_p` of all (`exceed`: is more).
    // The row has no NaN and a finite peak.
    Border find(const Passes& passes, const Row& row, const Scale& scale, double top_p, bool exceed) {
        passes_ = &passes;
        scale_ = scale;
        sums_.resize(row.peaks.size());
        part_sums_.resize(stretch / block);
        split_row(row, guess_in_row(row, top_p), top_p, exceed);
        return find_border();
    }

    // The mass of all tokens, once `find` has run.
    double total() const { return total_; }

    // Appends the ids, ascending, of all tokens that are as likely as the border that `find` has just found.
    void list_equal(Border border, std::vector<int32_t>& ids) const {
        const List& list = inside_.list;
        for (size_t i = 0; i < list.size; ++i)
            if (list.logits[i] == border.logit) ids.push_back(list.ids[i]);
    }

    // Cuts the set off behind `border`, which `find` has just found or is as likely. Returns the mass of the set.
    double cut(Border border) {
        passes_->drop_beyond(inside_.list.logits, inside_.list.ids, inside_.list.size, border, inside_.weights);
        border_ = border;
        double all = 0;
        for (size_t s = 0; s < totals_.size(); ++s)
            all += totals_[s] += mass_of(inside_.weights + begins_[s], begins_[s + 1] - begins_[s]);
        return all;
    }

    // The first id whose cumulative mass in the set exceeds `drawn`: first the stretch, then its block.
    int32_t draw_at(const Row& row, double drawn) {
        double sum = 0;
        size_t s = 0;
        for (; sum + totals_[s] <= drawn; ++s) sum += totals_[s];
        for (size_t i = begins_[s]; i < begins_[s + 1]; ++i)
            sums_[static_cast<size_t>(inside_.list.ids[i]) / block] += rounded(inside_.weights[i]);
        size_t b = s * stretch / block;
        for (; sum + sums_[b] <= drawn; ++b) sum += sums_[b];
        const auto mass = [&](size_t id) {
            const float logit = row.logits[id];
            const bool kept = logit > border_.logit || (logit == border_.logit && static_cast<int32_t>(id) <= border_.id);
            return kept ? wingbeat::sampler::mass_of(logit, scale_) : 0;
        };
        size_t id = b * block;
        for (sum += mass(id); sum <= drawn && id + 1 < row.size;) sum += mass(++id);
        return static_cast<int32_t>(id);
    }

    // A token of the set up to `border`; `random` is in [0, 1).
    int32_t draw(const Row& row, Border border, double random) { return draw_at(row, random * cut(border)); }

    // How many tokens the last set had; less when they were many.
    size_t kept() const { return sums_.size() - static_cast<size_t>(std::count(sums_.begin(), sums_.end(), 0.0)); }

   private:
    static constexpr double rounding = 1e-5;  // beyond the errors of sums in float32, relative
    static constexpr double deviations = 2;   // of the sample's error, to both sides: one guess in twenty is wrong
    static constexpr size_t few = 64;         // tokens that may as well be sorted

    // Where the mass of the most likely tokens probably reaches `share` of all, by a sample.
    Bracket guess_in_row(const Row& row, double share) {
        const size_t step = take_sample(row.logits, row.size, 128);
        double total = weight_of_sample(), slack = error_of_sample(step, share);
        if (slack > total / 16) {
            slack = deviations * std::sqrt(add_likely_tokens(row, static_cast<float>(step)) * share);
            total = weight_of_sample();
        }
        slack = std::min(slack, (1 - share) * total / 2) + rounding * total;
        return search(sample_, share * total, slack, {-FLT_MAX, scale_.peak});
    }

    // The same for a list of tokens, all `within` a bracket.
    Bracket guess_in_list(const List& list, double share, Bracket within) {
        const size_t step = take_sample(list.logits, list.size, 64);
        const double total = weight_of_sample();
        return search(sample_, share * total, error_of_sample(step, share) + rounding * total, within);
    }

    // Vectors from all over, one out of as many as is returned; of few tokens, all.
    size_t take_sample(const float* logits, size_t size, size_t most_runs) {
        constexpr size_t run = 16;
        const size_t runs = size / run, step = std::max<size_t>(1, runs / most_runs);
        sample_.clear(2 * size + run);
        List& list = sample_.list;
        for (size_t i = 0, turn = 0; i + step <= runs; i += step, turn += 7, list.size += run)
            std::copy_n(logits + (i + turn % step) * run, run, list.logits + list.size);
        if (step == 1) {
            std::copy(logits + runs * run, logits + size, list.logits + list.size);
            list.size = size;
        }
        sample_.weigh(*passes_, scale_);
        return step;
    }

    double weight_of_sample() const {
        return passes_->weight_above(sample_.list.logits, sample_.weights, sample_.padded, -infinity);
    }
    double squares_of_sample() const { return passes_->sum_squares(sample_.weights, sample_.padded); }
    double error_of_sample(size_t step, double share) const {
        return step == 1 ? 0 : deviations * std::sqrt(squares_of_sample() * share * (1 - share));
    }

    // Where few tokens have much of the mass, a sample says little: those are added to it one and all, and the others
    // count as often as they are. Returns what the squares of the others sum up to.
    double add_likely_tokens(const Row& row, float step) {
        list_most_likely(*passes_, row, row.peaks.size() / 4, narrow_[0], narrow_[1]);
        const List& likely = narrow_[1].list;
        List& list = sample_.list;
        const float least = *std::min_element(likely.logits, likely.logits + likely.size);
        for (size_t i = 0; i < list.size; ++i) sample_.weights[i] = list.logits[i] >= least ? 0.f : sample_.weights[i] * step;
        const double squares = squares_of_sample();
        const size_t first = list.size = sample_.padded;
        std::copy_n(likely.logits, likely.size, list.logits + first);
        list.size += likely.size;
        sample_.weigh(*passes_, scale_, first);
        return squares;
    }

    // Logits between which the weights above, from the top, sum up to `goal`, which may be off by `slack`.
    Bracket search(const WeighedList& in, double goal, double slack, Bracket found) const {
        constexpr int probes = 16, refining_probes = 5;
        const auto above = [&](float logit) { return passes_->weight_above(in.list.logits, in.weights, in.padded, logit); };
        const auto middle = [](float low, float high) { return 0.5f * low + 0.5f * high; };
        const float reach = scale_.sharpness > 0 ? cutoff / scale_.sharpness : -FLT_MAX;
        float low = std::max({-FLT_MAX, found.lower, scale_.peak + reach}), high = found.upper, at = middle(low, high);
        for (int probe = 0; probe < probes; ++probe, at = middle(low, high)) {
            const double mass = above(at);
            if (mass >= goal + slack) {
                found.lower = low = at;
            } else if (mass <= goal - slack) {
                found.upper = high = at;
            } else {
                break;
            }
        }
        float inner = at;
        for (int probe = 0; probe < refining_probes; ++probe) {
            const float between = middle(inner, high);
            if (above(between) <= goal - slack) {
                found.upper = high = between;
            } else {
                inner = between;
            }
        }
        inner = at;
        for (int probe = 0; probe < refining_probes; ++probe) {
            const float between = middle(low, inner);
            if (above(between) >= goal + slack) {
                found.lower = low = between;
            } else {
                inner = between;
            }
        }
        return found;
    }

    // Lists the tokens within a bracket that holds the border, and sums the masses above it.
    void split_row(const Row& row, Bracket bracket, double top_p, bool exceed) {
        for (;;) {
            inside_.clear(row.size);
            begins_.assign(1, 0);
            totals_.clear();
            Split all{0, 0};
            for (size_t first = 0; first < row.size; first += stretch) {
                const size_t b = first / block;
                const Split part = passes_->split(row.logits + first, std::min(stretch, row.size - first), &row.peaks[b], scale_,
                                                  bracket, static_cast<int32_t>(first), row.next + first, &sums_[b], inside_.list);
                all.total += part.total;
                all.above += part.above;
                begins_.push_back(inside_.list.size);
                totals_.push_back(part.above);
            }
            total_ = all.total;
            missing_ = goal_of(top_p, all.total, exceed) - all.above;
            within_ = bracket;
            if (missing_ <= 0 && bracket.upper < scale_.peak) {
                bracket = {bracket.upper, scale_.peak};
            } else if ((mass_ = mass_of(inside_)) < missing_) {
                bracket = {-FLT_MAX, bracket.lower};
            } else {
                return;
            }
        }
    }

    double mass_of(WeighedList& in) {
        in.weigh(*passes_, scale_);
        return mass_of(in.weights, in.list.size);
    }
    double mass_of(const float* weights, size_t size) const {
        return passes_->mass_of_weights(weights, size);
    }

    // The token of the list at which the mass that is missing above it is reached.
    Border find_border() {
        const WeighedList* in = &inside_;
        double missing = missing_, mass = mass_;
        for (size_t turn = 0; in->list.size > few; ++turn) {
            WeighedList& out = narrow_[turn % 2];
            const double above = list_within(*in, guess_in_list(in->list, missing / mass, within_), out);
            mass = mass_of(out);
            if (2 * out.list.size > in->list.size || missing <= above || mass < missing - above) break;
            for (size_t i = 0; i < out.list.size; ++i) out.list.ids[i] = in->list.ids[out.list.ids[i]];
            missing -= above;
            in = &out;
        }
        candidates_.clear();
        for (size_t i = 0; i < in->list.size; ++i)
            candidates_.push_back({in->list.logits[i], in->list.ids[i], rounded(in->weights[i])});
        const Candidate& last = candidates_[partition_by_mass(candidates_, missing) - 1];
        return {last.logit, last.id};
    }

    // Lists the places of those within the bracket; returns the mass above it.
    double list_within(const WeighedList& in, Bracket bracket, WeighedList& out) {
        out.clear(in.list.size);
        double above = 0;
        for (size_t first = 0; first < in.list.size; first += stretch)
            above += passes_->split(in.list.logits + first, std::min(stretch, in.list.size - first), nullptr, scale_, bracket,
                                    static_cast<int32_t>(first), in.list.logits, part_sums_.data(), out.list).above;
        return above;
    }

    const Passes* passes_ = nullptr;
    Scale scale_{};
    std::vector<double> sums_;        // of each block: the mass above the bracket
    WeighedList inside_;              // the tokens within the bracket
    std::vector<size_t> begins_;      // of each stretch's part of that list, and its end
    Bracket within_{};
    Border border_{};
    double total_ = 0;
    double mass_ = 0, missing_ = 0;   // of the list; of the part of it that belongs to the set
    std::array<WeighedList, 2> narrow_;
    WeighedList sample_;
    std::vector<Candidate> candidates_;
    std::vector<double> totals_;      // of each stretch: as sums_, then with what the list adds
    std::vector<double> part_sums_;
};

}  // namespace wingbeat::sampler
