// The passes for one instruction set, included by one unit for each: WINGBEAT_PASSES is the name of its table.
#include "sampler_scan.inl.hpp"
#include "sampler_sums.inl.hpp"
#include "sampler_weights.inl.hpp"

namespace wingbeat::sampler {

const Passes WINGBEAT_PASSES{
    WINGBEAT_LEVEL, find_peaks,     mask,  find_largest, sum_masses, sum_depths,  near,         sum_within,  split_near,
    largest_within, split,          list_from, count_from, weigh,    sum_squares, weight_above, drop_beyond,
    drop_below,     mass_of_weights, sum_weights,
};

}  // namespace wingbeat::sampler
