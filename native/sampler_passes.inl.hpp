// The passes for one instruction set, included by one unit for each: WINGBEAT_PASSES is the name of its table.
#include <cmath>

#include "sampler_passes.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace wingbeat::sampler {
namespace {

#if defined(__AVX512F__)
constexpr size_t lanes = 16;
#elif defined(__AVX2__)
constexpr size_t lanes = 8;
#else
constexpr size_t lanes = 4;
#endif
typedef float Floats __attribute__((vector_size(4 * lanes)));
typedef int32_t Ints __attribute__((vector_size(4 * lanes)));
typedef float UnalignedFloats __attribute__((vector_size(4 * lanes), aligned(4), may_alias));

constexpr float no_logit = -__builtin_inff();

WINGBEAT_INLINE Floats load(const float* p) { return *reinterpret_cast<const UnalignedFloats*>(p); }
WINGBEAT_INLINE void store(float* p, Floats v) { *reinterpret_cast<UnalignedFloats*>(p) = v; }
WINGBEAT_INLINE Floats set(float x) { return Floats{} + x; }

// a > b ? a : b, so that of a NaN and a number it is b.
WINGBEAT_INLINE Floats larger(Floats a, Floats b) {
#if defined(__AVX512F__)
    return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (Floats)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (Floats)_mm_max_ps((__m128)a, (__m128)b);
#else
    return a > b ? a : b;
#endif
}

#if defined(__AVX512F__)
typedef __mmask16 Mask;
WINGBEAT_INLINE Mask above(Floats v, float least) { return _mm512_cmp_ps_mask((__m512)v, _mm512_set1_ps(least), _CMP_GT_OQ); }
WINGBEAT_INLINE Mask from(Floats v, float least) { return _mm512_cmp_ps_mask((__m512)v, _mm512_set1_ps(least), _CMP_GE_OQ); }
WINGBEAT_INLINE Floats add_where(Mask mask, Floats sum, Floats v) {
    return (Floats)_mm512_mask_add_ps((__m512)sum, mask, (__m512)sum, (__m512)v);
}
#else
typedef Ints Mask;
WINGBEAT_INLINE Mask above(Floats v, float least) { return v > least; }
WINGBEAT_INLINE Mask from(Floats v, float least) { return v >= least; }
WINGBEAT_INLINE Floats add_where(Mask mask, Floats sum, Floats v) { return sum + (mask ? v : Floats{}); }
#endif

// The lanes whose number, the first one's being `first`, is not above `last`.
WINGBEAT_INLINE Mask up_to(int32_t first, int32_t last) {
    Ints ids{};
    for (size_t i = 0; i < lanes; ++i) ids[i] = first + static_cast<int32_t>(i);
#if defined(__AVX512F__)
    return _mm512_cmple_epi32_mask((__m512i)ids, _mm512_set1_epi32(last));
#else
    return ids <= last;
#endif
}

WINGBEAT_INLINE float sum(Floats v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float all = 0;
    for (size_t i = 0; i < lanes; ++i) all += v[i];
    return all;
#endif
}

WINGBEAT_INLINE float largest(Floats v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float most = v[0];
    for (size_t i = 1; i < lanes; ++i) most = v[i] > most ? v[i] : most;
    return most;
#endif
}

WINGBEAT_INLINE Floats depth_of(Floats logits, const Scale& scale) {
    return larger((logits - scale.peak) * scale.sharpness, set(cutoff));
}

WINGBEAT_INLINE Floats weight_of_depth(Floats depth) {
    const Floats shifted = depth + to_integer;
    const Floats r = depth - (shifted - to_integer);
    Floats power = set(power_of_two[0]);
    for (int i = 1; i < 7; ++i) power = power * r + power_of_two[i];
    return (Floats)((Ints)power + ((Ints)shifted << 23));
}

WINGBEAT_INLINE Floats weight_of(Floats logits, const Scale& scale) { return weight_of_depth(depth_of(logits, scale)); }

// Masses in two parts whose sums are exact in float32 for up to 64 of them: a multiple of 2^-18, and what remains,
// rounded to the grain. Together they are what `rounded` gives: 2^-18 is an even multiple of the grain.
struct Parts {
    Floats high, low;
    WINGBEAT_INLINE Parts(Floats weights, float rounder) {
        high = (weights + 48.f) - 48.f;
        low = ((weights - high) + rounder) - rounder;
    }
};

struct Sums {
    Floats high{}, low{};
    WINGBEAT_INLINE void add(const Parts& parts) {
        high += parts.high;
        low += parts.low;
    }
    WINGBEAT_INLINE void add(const Parts& parts, Mask wanted) {
        high = add_where(wanted, high, parts.high);
        low = add_where(wanted, low, parts.low);
    }
    // Of at most 64 in each.
    WINGBEAT_INLINE double of_lanes() const {
        double total = 0;
        for (size_t i = 0; i < lanes; ++i) total += static_cast<double>(high[i]) + static_cast<double>(low[i]);
        return total;
    }
};

// The totals of up to 16 blocks, of at most 64 masses each; returns their sum.
constexpr size_t group = 16;
WINGBEAT_INLINE double store_totals(const Sums* blocks, size_t count, double* totals) {
    double room[group], total = 0;
#if defined(__AVX512F__)
    // Adds neighbours, first of each two vectors into one, until one holds a sum for each.
    const auto add_up = [&](const auto& part) {
        const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        __m512 sums[group];
        for (size_t i = 0; i < group; ++i) sums[i] = (__m512)part(blocks[i]);
        for (size_t left = group / 2; left > 0; left /= 2)
            for (size_t i = 0; i < left; ++i)
                sums[i] = _mm512_add_ps(_mm512_permutex2var_ps(sums[2 * i], even, sums[2 * i + 1]),
                                        _mm512_permutex2var_ps(sums[2 * i], odd, sums[2 * i + 1]));
        return (Floats)sums[0];
    };
    const Floats high = add_up([](const Sums& block) { return block.high; });
    const Floats low = add_up([](const Sums& block) { return block.low; });
    for (size_t i = 0; i < group; ++i) room[i] = static_cast<double>(high[i]) + static_cast<double>(low[i]);
#else
    for (size_t i = 0; i < group; ++i) room[i] = static_cast<double>(sum(blocks[i].high)) + static_cast<double>(sum(blocks[i].low));
#endif
    for (size_t i = 0; i < count; ++i) total += totals[i] = room[i];
    return total;
}

// Rounds what is below 2^-19 as `rounder` rounds doubles.
WINGBEAT_INLINE float small_rounder(double rounder) { return static_cast<float>(rounder * 0x1p-29); }

// A block's values; those that the last one lacks are in `room`, where they weigh nothing.
WINGBEAT_INLINE const float* whole_block(const float* values, size_t size, size_t b, float filler, float* room) {
    const float* start = values + b * block;
    const size_t left = size - b * block;
    if (left >= block) return start;
    for (size_t i = 0; i < block; ++i) room[i] = i < left ? start[i] : filler;
    return room;
}

// Asks for what will be read next, a block of it for each block that is worked on: it is not in this core's caches.
WINGBEAT_INLINE void ask_for(const float* ahead) {
    for (size_t i = 0; i < block; i += 16) __builtin_prefetch(ahead + i, 0, 2);
}

constexpr size_t soon = 24;  // blocks: beyond the page that the processor fetches ahead within

bool find_peaks(const float* logits, size_t size, float* peaks) {
    Ints strange{};
    float room[block];
    for (size_t b = 0; b < block_count(size); ++b) {
        ask_for(logits + (b + soon) * block);
        const float* p = whole_block(logits, size, b, no_logit, room);
        Floats peak = set(no_logit);
        for (size_t i = 0; i < block; i += lanes) {
            const Floats x = load(p + i);
            peak = larger(x, peak);
            strange |= x != x;
        }
        peaks[b] = largest(peak);
    }
    int found = 0;
    for (size_t i = 0; i < lanes; ++i) found |= strange[i];
    return found != 0;
}

// The values whose bit is set, from the lowest on; the others are at -inf.
WINGBEAT_INLINE Floats keep(uint64_t bits, Floats v) {
#if defined(__AVX512F__)
    return (Floats)_mm512_mask_mov_ps((__m512)set(no_logit), static_cast<Mask>(bits), (__m512)v);
#else
    Ints lane{};
    for (size_t i = 0; i < lanes; ++i) lane[i] = 1 << i;
    return ((Ints{} + static_cast<int32_t>(bits & ((1 << lanes) - 1))) & lane) != 0 ? v : set(no_logit);
#endif
}

bool mask(const float* logits, size_t size, const uint32_t* allowed, float* out, float* peaks) {
    Ints strange{};
    float room[block];
    const size_t words = (size + 31) / 32;
    for (size_t b = 0; b < block_count(size); ++b) {
        ask_for(logits + (b + soon) * block);
        const float* p = whole_block(logits, size, b, no_logit, room);
        const uint64_t bits = allowed[2 * b] | (2 * b + 1 < words ? uint64_t{allowed[2 * b + 1]} << 32 : 0);
        Floats peak = set(no_logit);
        for (size_t i = 0; i < block; i += lanes) {
            const Floats x = load(p + i);
            strange |= x != x;
            const Floats kept = keep(bits >> i, x);
            store(out + b * block + i, kept);
            peak = larger(kept, peak);
        }
        peaks[b] = largest(peak);
    }
    int found = 0;
    for (size_t i = 0; i < lanes; ++i) found |= strange[i];
    return found != 0;
}

float find_largest(const float* values, size_t size) {
    Floats most = set(no_logit);
    size_t i = 0;
    for (; i + lanes <= size; i += lanes) most = larger(load(values + i), most);
    float found = largest(most);
    for (; i < size; ++i) found = values[i] > found ? values[i] : found;
    return found;
}

double sum_masses(const float* logits, size_t size, const float* peaks, const Scale& scale, const float* ahead, double* sums) {
    const float rounder = small_rounder(scale.rounder);
    float room[block];
    double total = 0;
    for (size_t first = 0; first < block_count(size); first += group) {
        const size_t count = block_count(size) - first < group ? block_count(size) - first : group;
        Sums masses[group]{};
        for (size_t b = first; b < first + count; ++b) {
            ask_for(ahead + b * block);
            if (depth_of(peaks[b], scale) == cutoff) continue;
            const float* p = whole_block(logits, size, b, no_logit, room);
            Sums all;
            for (size_t i = 0; i < block; i += lanes) all.add({weight_of(load(p + i), scale), rounder});
            masses[b - first] = all;
        }
        total += store_totals(masses, count, sums + first);
    }
    return total;
}

// A vector as two of doubles.
constexpr size_t half = lanes / 2;
typedef double Doubles __attribute__((vector_size(8 * half)));
struct Wide {
    Doubles parts[2];
    WINGBEAT_INLINE explicit Wide(Floats v) {
#if defined(__AVX512F__)
        parts[0] = (Doubles)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v));
        parts[1] = (Doubles)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1));
#else
        for (size_t i = 0; i < lanes; ++i) parts[i / half][i % half] = static_cast<double>(v[i]);
#endif
    }
};

Moments sum_depths(const float* logits, size_t size, const float* peaks, const Scale& scale) {
    const auto round = [&](Doubles v) { return (v + scale.rounder) - scale.rounder; };
    float room[block];
    Doubles masses[2]{}, products[2]{};
    for (size_t b = 0; b < block_count(size); ++b) {
        if (depth_of(peaks[b], scale) == cutoff) continue;
        const float* p = whole_block(logits, size, b, no_logit, room);
        for (size_t i = 0; i < block; i += lanes) {
            const Floats depth = depth_of(load(p + i), scale);
            const Wide depths(depth), weights(weight_of_depth(depth));
            for (size_t k = 0; k < 2; ++k) {
                const Doubles mass = round(weights.parts[k]);
                masses[k] += mass;
                products[k] += round(mass * depths.parts[k]);
            }
        }
    }
    Moments total{0, 0};
    for (size_t i = 0; i < lanes; ++i) {
        total.mass += masses[i / half][i % half];
        total.depth += products[i / half][i % half];
    }
    return total;
}

void near(const float* logits, size_t size, const float* peaks, const Scale& scale, float mean, float* out, float* nearest) {
    const float least = static_cast<float>(std::ilogb(scale.rounder) - 53);  // log2 of half a grain, which rounds to no mass
    float room[block];
    for (size_t b = 0; b < block_count(size); ++b) {
        const bool mass = depth_of(peaks[b], scale) > cutoff;
        const float* p = whole_block(logits, size, b, no_logit, room);
        Floats most = set(no_logit);
        for (size_t i = 0; i < block; i += lanes) {
            Floats nearness = set(no_logit);
            if (mass) {
                const Floats depth = depth_of(load(p + i), scale), distance = depth - mean;
                nearness = depth > least ? (distance > 0 ? -distance : distance) : nearness;
            }
            store(out + b * block + i, nearness);
            most = larger(nearness, most);
        }
        nearest[b] = largest(most);
    }
}

float largest_within(const float* logits, const float* keys, size_t size, Border border) {
    // Ids up to that of the border win ties, later ones lose them.
    const size_t ties = border.id < 0 ? 0 : static_cast<size_t>(border.id) + 1 < size ? static_cast<size_t>(border.id) + 1 : size;
    Floats most = set(no_logit);
    float found = no_logit;
    size_t i = 0;
    for (; i + lanes <= ties; i += lanes) most = larger(load(keys + i) >= border.logit ? load(logits + i) : set(no_logit), most);
    for (; i < ties; ++i) found = keys[i] >= border.logit && logits[i] > found ? logits[i] : found;
    for (; i + lanes <= size; i += lanes) most = larger(load(keys + i) > border.logit ? load(logits + i) : set(no_logit), most);
    for (; i < size; ++i) found = keys[i] > border.logit && logits[i] > found ? logits[i] : found;
    const float rest = largest(most);
    return rest > found ? rest : found;
}

WINGBEAT_INLINE void append(List& list, Floats logits, Mask wanted, int32_t first) {
#if defined(__AVX512F__)
    const __m512i steps = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i ids = _mm512_add_epi32(_mm512_set1_epi32(first), steps);
    _mm512_storeu_ps(list.logits + list.size, _mm512_maskz_compress_ps(wanted, (__m512)logits));
    _mm512_storeu_si512(list.ids + list.size, _mm512_maskz_compress_epi32(wanted, ids));
    list.size += static_cast<size_t>(__builtin_popcount(wanted));
#else
#if defined(__AVX2__)
    uint32_t bits = static_cast<uint32_t>(_mm256_movemask_ps((__m256)wanted));
#else
    uint32_t bits = 0;
    for (size_t i = 0; i < lanes; ++i) bits |= static_cast<uint32_t>(wanted[i] & 1) << i;
#endif
    for (; bits != 0; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits);
        list.logits[list.size] = logits[lane];
        list.ids[list.size++] = first + lane;
    }
#endif
}

Split split(const float* logits, size_t size, const float* peaks, const Scale& scale, Bracket bracket, int32_t id,
            const float* ahead, double* sums, List& list) {
    const float rounder = small_rounder(scale.rounder);
    float room[block];
    Split found{0, 0};
    List inside = list;
    for (size_t first = 0; first < block_count(size); first += group) {
        const size_t count = block_count(size) - first < group ? block_count(size) - first : group;
        Sums beyond[group]{}, all;
        for (size_t b = first; b < first + count; ++b) {
            if (b % lanes == 0) {  // before a lane has more than 64
                found.total += all.of_lanes();
                all = {};
            }
            ask_for(ahead + b * block);
            if (peaks && depth_of(peaks[b], scale) == cutoff) continue;
            const float* p = whole_block(logits, size, b, no_logit, room);
            Sums high;
            for (size_t i = 0; i < block; i += lanes) {
                const Floats x = load(p + i);
                const Parts parts(weight_of(x, scale), rounder);
                const Mask higher = above(x, bracket.upper);
                all.add(parts);
                high.add(parts, higher);
                append(inside, x, static_cast<Mask>(from(x, bracket.lower) & ~higher), id + static_cast<int32_t>(b * block + i));
            }
            beyond[b - first] = high;
        }
        found.total += all.of_lanes();
        found.above += store_totals(beyond, count, sums + first);
    }
    list.size = inside.size;
    return found;
}

double sum_within(const float* logits, const float* keys, const float* peaks, size_t size, const Scale& scale, Border border,
                  double* sums) {
    const float rounder = small_rounder(scale.rounder);
    float room[block], key_room[block];
    double total = 0;
    for (size_t first = 0; first < block_count(size); first += group) {
        const size_t count = block_count(size) - first < group ? block_count(size) - first : group;
        Sums masses[group]{};
        for (size_t b = first; b < first + count; ++b) {
            if (peaks[b] < border.logit) continue;
            const float* p = whole_block(logits, size, b, no_logit, room);
            const float* k = whole_block(keys, size, b, no_logit, key_room);
            const int32_t begin = static_cast<int32_t>(b * block), end = begin + static_cast<int32_t>(block) - 1;
            const bool wins_ties = end <= border.id, parted = begin <= border.id && !wins_ties;
            Sums all;
            for (size_t i = 0; i < block; i += lanes) {
                const Floats key = load(k + i);
                Mask kept = wins_ties ? from(key, border.logit) : above(key, border.logit);
                if (parted) kept = kept | static_cast<Mask>(from(key, border.logit) & up_to(begin + static_cast<int32_t>(i), border.id));
                all.add({weight_of(load(p + i), scale), rounder}, kept);
            }
            masses[b - first] = all;
        }
        total += store_totals(masses, count, sums + first);
    }
    return total;
}

Split split_near(const float* logits, const float* nearness, size_t size, const Scale& scale, Bracket bracket, List& list) {
    const float rounder = small_rounder(scale.rounder);
    float room[block], near_room[block];
    Split found{0, 0};
    List inside = list;
    Sums high;
    for (size_t b = 0; b < block_count(size); ++b) {
        const float* p = whole_block(logits, size, b, no_logit, room);
        const float* keys = whole_block(nearness, size, b, no_logit, near_room);
        for (size_t i = 0; i < block; i += lanes) {
            const Floats key = load(keys + i);
            const Mask higher = above(key, bracket.upper);
            high.add({weight_of(load(p + i), scale), rounder}, higher);
            append(inside, key, static_cast<Mask>(from(key, bracket.lower) & ~higher), static_cast<int32_t>(b * block + i));
        }
        if (b % lanes == lanes - 1) {  // before a lane has more than 64
            found.above += high.of_lanes();
            high = {};
        }
    }
    found.above += high.of_lanes();
    list.size = inside.size;
    return found;
}

void list_from(const float* values, size_t size, float least, int32_t id, List& list) {
    float room[block];
    for (size_t b = 0; b < block_count(size); ++b) {
        const float* p = whole_block(values, size, b, no_logit, room);
        for (size_t i = 0; i < block; i += lanes) {
            const Floats x = load(p + i);
            append(list, x, from(x, least), id + static_cast<int32_t>(b * block + i));
        }
    }
}

double count_from(const float* values, size_t size, float least) {
    Floats counts{};
    double rest = 0;
    size_t i = 0;
    for (; i + lanes <= size; i += lanes) counts = add_where(from(load(values + i), least), counts, set(1.f));
    for (; i < size; ++i) rest += values[i] >= least;
    return sum(counts) + rest;
}

void weigh(const float* logits, size_t size, const Scale& scale, float* weights) {
    for (size_t i = 0; i < size; i += lanes) store(weights + i, weight_of(load(logits + i), scale));
}

double sum_squares(const float* weights, size_t size) {
    Floats squares{};
    for (size_t i = 0; i < size; i += lanes) squares += load(weights + i) * load(weights + i);
    return sum(squares);
}

double weight_above(const float* logits, const float* weights, size_t size, float logit) {
    Floats sums[2]{};
    for (size_t i = 0; i < size; i += lanes) {
        Floats& part = sums[i / lanes % 2];
        part = add_where(above(load(logits + i), logit), part, load(weights + i));
    }
    return sum(sums[0] + sums[1]);
}

void drop_beyond(const float* logits, const int32_t* ids, size_t size, Border border, float* weights) {
    for (size_t i = 0; i < size; ++i) {
        const int32_t id = ids ? ids[i] : static_cast<int32_t>(i);
        const bool kept = (logits[i] > border.logit) | ((logits[i] == border.logit) & (id <= border.id));
        weights[i] = kept ? weights[i] : 0.f;
    }
}

void drop_below(size_t size, double least, double rounder, float* weights) {
    for (size_t i = 0; i < size; ++i) weights[i] = rounded(weights[i], rounder) < least ? 0.f : weights[i];
}

double mass_of_weights(const float* weights, size_t size, double rounder) {
    const float small = small_rounder(rounder);
    float room[block];
    double total = 0;
    for (size_t first = 0; first < block_count(size); first += lanes) {
        Sums all;
        for (size_t b = first; b < block_count(size) && b < first + lanes; ++b) {
            const float* p = whole_block(weights, size, b, 0, room);
            for (size_t i = 0; i < block; i += lanes) all.add({load(p + i), small});
        }
        total += all.of_lanes();
    }
    return total;
}

double sum_weights(const float* weights, size_t size, double rounder, double* sums) {
    const float small = small_rounder(rounder);
    float room[block];
    double total = 0;
    for (size_t first = 0; first < block_count(size); first += group) {
        const size_t count = block_count(size) - first < group ? block_count(size) - first : group;
        Sums masses[group]{};
        for (size_t b = first; b < first + count; ++b) {
            const float* p = whole_block(weights, size, b, 0, room);
            for (size_t i = 0; i < block; i += lanes) masses[b - first].add({load(p + i), small});
        }
        total += store_totals(masses, count, sums + first);
    }
    return total;
}

}  // namespace

const Passes WINGBEAT_PASSES{
    WINGBEAT_LEVEL, find_peaks,     mask,  find_largest, sum_masses, sum_depths,  near,         sum_within,  split_near,
    largest_within, split,          list_from, count_from, weigh,    sum_squares, weight_above, drop_beyond,
    drop_below,     mass_of_weights, sum_weights,
};

}  // namespace wingbeat::sampler
