// From Python's SamplingParams and Memory to a Sequence.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>
#include <utility>

#include "sampler_sequence.hpp"

namespace wingbeat::sampler {

namespace nb = nanobind;

template <class T>
T field(nb::handle params, const char* name) {
    return nb::cast<T>(params.attr(name));
}

// Tokens that have no logits are left out.
inline std::vector<int32_t> tokens_of(nb::handle params, const char* name, size_t vocab) {
    auto tokens = field<std::vector<int32_t>>(params, name);
    std::erase_if(tokens, [&](int32_t token) { return token < 0 || static_cast<size_t>(token) >= vocab; });
    return tokens;
}

template <class Choice>
Choice choice_of(nb::handle params, const char* name, std::initializer_list<std::pair<const char*, Choice>> choices) {
    const auto wanted = field<std::string>(params, name);
    for (const auto& [text, choice] : choices)
        if (wanted == text) return choice;
    throw nb::value_error((std::string(name) + " cannot be " + wanted).c_str());
}

inline void read_penalties(Penalties& penalties, nb::handle params, size_t vocab) {
    penalties.presence = field<double>(params, "presence_penalty");
    penalties.frequency = field<double>(params, "frequency_penalty");
    penalties.repetition = field<double>(params, "repetition_penalty");
    penalties.decay = field<double>(params, "penalty_decay");
    penalties.style = choice_of<PenaltyStyle>(params, "penalties",
                                              {{"counts", PenaltyStyle::counts},
                                               {"counts_decay_first", PenaltyStyle::counts_decay_first},
                                               {"values", PenaltyStyle::values}});
    penalties.free = tokens_of(params, "penalty_free", vocab);
    std::sort(penalties.free.begin(), penalties.free.end());
    penalties.free_of_presence = field<bool>(params, "penalty_free_presence");
}

// What was counted before the sequence goes on; `prompt` may repeat tokens.
inline void begin_penalties(Sequence& sequence, nb::handle params, nb::handle memory, std::vector<int32_t> prompt, size_t vocab) {
    Penalties& penalties = sequence.penalties;
    std::vector<Penalties::Count> counts;
    for (auto [token, count] : field<nb::dict>(memory, "counts")) {
        counts.push_back({nb::cast<int32_t>(token), nb::cast<int64_t>(count)});
        sequence.length += counts.back().count;
    }
    std::vector<Penalties::Weight> weights;
    for (auto [token, value] : field<nb::dict>(memory, "weights")) {
        const auto [weight, age] = nb::cast<std::pair<double, int64_t>>(value);
        weights.push_back({nb::cast<int32_t>(token), weight, age});
    }
    penalties.late = field<bool>(params, "global_penalty") && counts.empty();
    if (penalties.repetition == 1 || field<std::string>(params, "repetition_over") != "all") prompt.clear();
    std::erase_if(prompt, [&](int32_t token) { return token < 0 || static_cast<size_t>(token) >= vocab; });
    penalties.begin(tokens_of(params, "penalty_history", vocab), counts, weights, prompt);
}

// All but what `begin_penalties` adds.
inline std::unique_ptr<Sequence> sequence_from(nb::handle params, nb::handle memory, size_t vocab, int32_t end_of_text) {
    auto sequence = std::make_unique<Sequence>();
    sequence->kind = choice_of<Kind>(params, "sampler",
                                     {{"nucleus", Kind::nucleus},
                                      {"typical", Kind::typical},
                                      {"mirostat", Kind::mirostat},
                                      {"mirostat_full", Kind::mirostat_full},
                                      {"noise", Kind::noise}});
    sequence->order = choice_of<Order>(
        params, "order",
        {{"standard", Order::standard}, {"rwkv", Order::rwkv}, {"ai00", Order::ai00}, {"joint", Order::joint}});
    sequence->temperature = field<double>(params, "temperature");
    sequence->top_p = field<double>(params, "top_p");
    sequence->top_k = field<int64_t>(params, "top_k");
    sequence->min_p = field<double>(params, "min_p");
    sequence->rate = field<double>(params, "rate");
    sequence->noise = field<double>(params, "noise");
    const bool typical = sequence->kind == Kind::typical;
    sequence->tau = params.attr("tau").is_none() ? (typical ? 0.5 : 3) : field<double>(params, "tau");
    sequence->mu = memory.attr("mu").is_none() ? 2 * sequence->tau : field<double>(memory, "mu");
    sequence->last = field<int32_t>(memory, "last");
    if (!params.attr("logprobs").is_none()) sequence->logprobs = field<int64_t>(params, "logprobs");
    for (auto [token, bias] : field<nb::dict>(params, "logit_bias"))
        if (const auto id = nb::cast<int64_t>(token); id >= 0 && id < static_cast<int64_t>(vocab))
            sequence->bias.push_back({nb::cast<int32_t>(token), nb::cast<double>(bias)});
    sequence->no_repeat = tokens_of(params, "no_repeat", vocab);
    sequence->min_tokens = field<int64_t>(params, "min_tokens");
    sequence->held_back = tokens_of(params, "stop_token_ids", vocab);
    const bool ends = !field<bool>(params, "ignore_eos") && end_of_text >= 0 && static_cast<size_t>(end_of_text) < vocab;
    if (ends) sequence->held_back.push_back(end_of_text);
    read_penalties(sequence->penalties, params, vocab);
    return sequence;
}

}  // namespace wingbeat::sampler
