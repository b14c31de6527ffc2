// The passes over a row of logits that sampling consists of, compiled once for each instruction set. All give the same
// results, to the last bit.
#pragma once

#include <vector>

#include "sampler_mass.hpp"

namespace wingbeat::sampler {

// Tokens by ascending id, or places in another list. The room behind `size` is at least that of a vector.
struct List {
    float* logits;
    int32_t* ids;
    size_t size;
};

// The logits from `lower` to `upper`, both included and finite.
struct Bracket {
    float lower, upper;
};

// The last token that a filter keeps.
struct Border {
    float logit;
    int32_t id;
};

struct Split {
    double total;  // the mass of all tokens
    double above;  // of those above the bracket
};

struct Moments {
    double mass, depth;  // of all tokens; mass times depth
};

// `ahead` in a pass is what will be read next, as long as the row: it comes into the caches meanwhile. Any address will do.
struct Passes {
    const char* name;

    // Largest logit of each block. Returns whether there is a NaN.
    bool (*find_peaks)(const float* logits, size_t size, float* peaks);

    // The same for the row with all tokens but the allowed at -inf, which is written to `out`, in whole blocks. Bit t & 31
    // of word t >> 5 set: token t is allowed. Returns whether there is a NaN, allowed or not.
    bool (*mask)(const float* logits, size_t size, const uint32_t* allowed, float* out, float* peaks);

    float (*find_largest)(const float* values, size_t size);

    // Mass of each block; returns the total. Blocks whose largest logit has no mass cost nothing.
    double (*sum_masses)(const float* logits, size_t size, const float* peaks, const Scale& scale, const float* ahead,
                         double* sums);

    // Exact as masses are: each product is rounded to the grain.
    Moments (*sum_depths)(const float* logits, size_t size, const float* peaks, const Scale& scale);

    // How near each token's depth is to `mean`: minus the distance, in whole blocks; -infinity where there is no mass.
    // And the largest of each block.
    void (*near)(const float* logits, size_t size, const float* peaks, const Scale& scale, float mean, float* out,
                 float* nearest);

    // The mass of each block's tokens whose key is not beyond the border; returns the total. `peaks` are the keys'.
    double (*sum_within)(const float* logits, const float* keys, const float* peaks, size_t size, const Scale& scale,
                         Border border, double* sums);

    // As `split`, of a whole row and by such nearness, which is what is listed.
    Split (*split_near)(const float* logits, const float* nearness, size_t size, const Scale& scale, Bracket bracket,
                        List& list);

    // The largest logit of those whose key is not beyond the border.
    float (*largest_within)(const float* logits, const float* keys, size_t size, Border border);

    // Of at most a stretch whose first id is `id`: the mass of each block above the bracket, and the tokens inside,
    // appended to the list. `peaks` may be null.
    Split (*split)(const float* logits, size_t size, const float* peaks, const Scale& scale, Bracket bracket, int32_t id,
                   const float* ahead, double* sums, List& list);

    // Appends the values from `least` on, which is finite; the first one's id is `id`.
    void (*list_from)(const float* values, size_t size, float least, int32_t id, List& list);

    // How many values are `least` or more.
    double (*count_from)(const float* values, size_t size, float least);

    // 2^depth of each token, before it is rounded. `size` is a multiple of 16.
    void (*weigh)(const float* logits, size_t size, const Scale& scale, float* weights);

    // Within rounding. `size` is a multiple of 16.
    double (*sum_squares)(const float* weights, size_t size);

    // The weights of the tokens above `logit`, summed in any order: within rounding. `size` is a multiple of 16.
    double (*weight_above)(const float* logits, const float* weights, size_t size, float logit);

    // Sets the weights of tokens beyond the border to 0. `ids` may be null: the tokens are then 0, 1, ...
    void (*drop_beyond)(const float* logits, const int32_t* ids, size_t size, Border border, float* weights);

    // Sets the weights whose mass is less than `least` to 0.
    void (*drop_below)(size_t size, double least, float* weights);

    // The mass of all weights.
    double (*mass_of_weights)(const float* weights, size_t size);

    // The mass of each block of weights; returns the total.
    double (*sum_weights)(const float* weights, size_t size, double* sums);
};

extern const Passes portable_passes, avx2_passes, avx512_passes;  // the latter two on x86-64 only

// Those that this machine can run, best first.
std::vector<const Passes*> executable_passes();

}  // namespace wingbeat::sampler
