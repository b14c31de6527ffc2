// Python module wingbeat._sampler: tokens for all rows of a step. See src/wingbeat/sampling/samplers.py.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>
#include <stdexcept>

#include "sampler_row.hpp"
#include "sampler_threads.hpp"

namespace nb = nanobind;

namespace wingbeat::sampler {

template <class T, int Dimensions>
using Array = nb::ndarray<T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;  // rows may be wider than the vocabulary

template <class T>
T field(nb::handle params, const char* name) {
    return nb::cast<T>(params.attr(name));
}

class Sampler {
   public:
    Sampler(size_t slots, size_t valid_vocab, size_t threads)
        : vocab_(valid_vocab), sequences_(slots), workers_(threads, RowSampler(valid_vocab)), pool_(threads) {}

    void start(size_t slot, nb::handle params, Array<const int32_t, 1> prompt, uint64_t seed, uint32_t choice,
               Array<const int32_t, 1> generated) {
        auto sequence = std::make_unique<Sequence>();
        sequence->temperature = field<double>(params, "temperature");
        sequence->top_p = field<double>(params, "top_p");
        sequence->top_k = field<int64_t>(params, "top_k");
        sequence->min_p = field<double>(params, "min_p");
        sequence->presence = field<double>(params, "presence_penalty");
        sequence->frequency = field<double>(params, "frequency_penalty");
        sequence->repetition = field<double>(params, "repetition_penalty");
        sequence->seed = seed;
        sequence->choice = choice;
        if (!params.attr("logprobs").is_none()) sequence->logprobs = field<int64_t>(params, "logprobs");
        for (auto [token, bias] : field<nb::dict>(params, "logit_bias"))
            if (const auto id = nb::cast<int64_t>(token); id >= 0 && id < static_cast<int64_t>(vocab_))
                sequence->bias.push_back({nb::cast<int32_t>(token), nb::cast<double>(bias)});
        sequence->remember_prompt(prompt.data(), prompt.size(), static_cast<int32_t>(vocab_));
        for (size_t i = 0; i < generated.size(); ++i) sequence->remember(generated.data()[i]);
        std::lock_guard lock(mutex_);
        sequences_.at(slot) = std::move(sequence);
    }

    void finish(size_t slot) {
        std::lock_guard lock(mutex_);
        sequences_.at(slot).reset();
    }

    void sample(Rows logits, Array<const int32_t, 1> slots, Array<const int64_t, 1> positions,
                Array<int32_t, 1> tokens, Array<float, 1> logprobs, Array<int32_t, 2> top_tokens,
                Array<float, 2> top_logprobs) {
        std::lock_guard lock(mutex_);
        const size_t rows = logits.shape(0), top = top_tokens.shape(1);
        pool_.run(rows, [&](size_t row, size_t thread) {
            const Report report{logprobs.data() + row, top_tokens.data() + row * top, top_logprobs.data() + row * top};
            tokens.data()[row] = workers_[thread].sample(
                logits.data() + static_cast<int64_t>(row) * logits.stride(0), vocab_, *sequences_[slots.data()[row]],
                static_cast<uint64_t>(positions.data()[row]), report);
        });
    }

    void score(Rows logits, Array<const int32_t, 1> targets, Array<float, 1> logprobs, Array<int32_t, 2> top_tokens,
               Array<float, 2> top_logprobs) {
        std::lock_guard lock(mutex_);
        const size_t rows = logits.shape(0), top = top_tokens.shape(1);
        pool_.run(rows, [&](size_t row, size_t thread) {
            const Report report{logprobs.data() + row, top_tokens.data() + row * top, top_logprobs.data() + row * top};
            workers_[thread].score(logits.data() + static_cast<int64_t>(row) * logits.stride(0), vocab_,
                                   targets.data()[row], top, report);
        });
    }

   private:
    const size_t vocab_;
    std::mutex mutex_;  // `sample` and `score` run without Python's lock
    std::vector<std::unique_ptr<Sequence>> sequences_;
    std::vector<RowSampler> workers_;  // one for each thread
    ThreadPool pool_;
};

}  // namespace wingbeat::sampler

NB_MODULE(_sampler, module) {
    nb::set_leak_warnings(false);  // what a daemon thread or a traceback holds at exit is alive, not leaked
    using wingbeat::sampler::Sampler;
    module.doc() = "Sampling in C++; use wingbeat.sampling.samplers.Sampler, which checks the arguments.";
    nb::class_<Sampler>(module, "Sampler")
        .def(nb::init<size_t, size_t, size_t>(), nb::arg("slots"), nb::arg("valid_vocab"), nb::arg("threads"))
        .def("start", &Sampler::start)
        .def("finish", &Sampler::finish)
        .def("sample", &Sampler::sample, nb::call_guard<nb::gil_scoped_release>())
        .def("score", &Sampler::score, nb::call_guard<nb::gil_scoped_release>());
}
