// The passes over weights that were written down.
#pragma once

#include "sampler_units.inl.hpp"

namespace wingbeat::sampler {
namespace {

void weigh(const float* logits, size_t size, const Scale& scale, float* weights) {
    for (size_t i = 0; i < size; i += lanes) store(weights + i, power_of(depth_of(load(logits + i), scale)));
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

void drop_below(size_t size, double least, float* weights) {
    for (size_t i = 0; i < size; ++i) weights[i] = rounded(weights[i]) < least ? 0.f : weights[i];
}

double mass_of_weights(const float* weights, size_t size) {
    float room[block];
    Units total;
    for (size_t b = 0; b < block_count(size); ++b) {
        const float* p = whole_block(weights, size, b, 0, room);
        for (size_t i = 0; i < block; i += lanes) total.add(i, units_of_weights(load(p + i)));
    }
    return total.mass();
}

double sum_weights(const float* weights, size_t size, double* sums) {
    float room[block];
    double total = 0;
    for (size_t b = 0; b < block_count(size); ++b) {
        const float* p = whole_block(weights, size, b, 0, room);
        Units all;
        for (size_t i = 0; i < block; i += lanes) all.add(i, units_of_weights(load(p + i)));
        total += sums[b] = all.mass();
    }
    return total;
}

}  // namespace
}  // namespace wingbeat::sampler
