// The passes that compare logits and weigh nothing.
#pragma once

#include "sampler_lanes.inl.hpp"

namespace wingbeat::sampler {
namespace {

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

}  // namespace
}  // namespace wingbeat::sampler
