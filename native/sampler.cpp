// Python module wingbeat._sampler: tokens for all rows of a step. See src/wingbeat/sampling/samplers.py.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cfenv>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "sampler_params.hpp"
#include "sampler_row.hpp"
#include "thread_pool.hpp"

namespace nb = nanobind;

namespace wingbeat::sampler {

template <class T, int Dimensions>
using Array = nb::ndarray<T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;
template <class T>
using Rows = nb::ndarray<T, nb::ndim<2>, nb::device::cpu>;  // rows may be wider than the vocabulary

// `Report` of results.py: logprobs, top_tokens, top_logprobs, mu.
using Reports = std::tuple<Array<float, 1>, Array<int32_t, 2>, Array<float, 2>, Array<double, 1>>;
// `Masks` of results.py: bits, rows.
using Masks = std::tuple<Array<const uint32_t, 2>, Array<const int32_t, 1>>;

// While it lives, this thread computes as the NumPy twin does: the kernels' threads flush denormals.
class PlainFloats {
   public:
    PlainFloats() {
        std::fegetenv(&saved_);
        std::fesetenv(FE_DFL_ENV);
    }
    ~PlainFloats() { std::fesetenv(&saved_); }

   private:
    std::fenv_t saved_;
};

const Passes& passes_named(const std::string& name) {
    for (const Passes* passes : executable_passes())
        if (name.empty() || name == passes->name) return *passes;
    throw nb::value_error(("the sampler has no level '" + name + "' that runs on this machine").c_str());
}

class Sampler {
   public:
    // `pool`: wingbeat._kernels.ThreadPool, or None for a thread of its own.
    Sampler(size_t slots, size_t valid_vocab, nb::object pool, const std::string& level, int32_t end_of_text)
        : vocab_(valid_vocab),
          end_of_text_(end_of_text),
          sequences_(slots),
          kept_(std::move(pool)),
          own_(kept_.is_none() ? std::make_unique<ThreadPool>(1) : nullptr),
          pool_(own_ ? *own_ : *nb::cast<ThreadPool*>(kept_)),
          workers_(static_cast<size_t>(pool_.threads()), RowSampler(passes_named(level))) {}

    void start(size_t slot, nb::handle params, Array<const int32_t, 1> prompt, uint64_t seed, uint32_t choice,
               Array<const int32_t, 1> generated, nb::handle memory) {
        auto sequence = sequence_from(params, memory, vocab_, end_of_text_);
        sequence->seed = seed;
        sequence->choice = choice;
        begin_penalties(*sequence, params, memory, {prompt.data(), prompt.data() + prompt.size()}, vocab_);
        for (size_t i = 0; i < generated.size(); ++i) sequence->remember(generated.data()[i]);
        std::lock_guard lock(mutex_);
        sequences_.at(slot) = std::move(sequence);
    }

    void finish(size_t slot) {
        std::lock_guard lock(mutex_);
        sequences_.at(slot).reset();
    }

    // `sample` follows in a moment.
    void prepare(size_t rows) {
        if (shared(rows)) pool_.wake();
    }

    // Throws before anything is changed when the slots are not those of different sequences.
    void sample(Rows<float> logits, Array<const int32_t, 1> slots, Array<const int64_t, 1> positions,
                Array<int32_t, 1> tokens, const std::optional<Reports>& reports, const std::optional<Masks>& masks) {
        std::lock_guard lock(mutex_);
        const size_t rows = logits.shape(0);
        ++steps_;
        for (size_t row = 0; row < rows; ++row) sequence_of(slots.data()[row]);
        run(rows, [&](size_t row, RowSampler& worker) {
            float* start = logits.data() + static_cast<int64_t>(row) * logits.stride(0);
            const float* next = row + 1 < rows ? start + logits.stride(0) : nullptr;
            Sequence& sequence = *sequences_[static_cast<size_t>(slots.data()[row])];
            const Report report = reports ? report_of(*reports, row) : Report{};
            const int32_t token = worker.sample(start, next, vocab_, masks ? allowed_by(*masks, row) : nullptr, sequence,
                                                static_cast<uint64_t>(positions.data()[row]), report);
            tokens.data()[row] = token;
            if (token >= 0 && sequence.surprises()) std::get<3>(*reports).data()[row] = sequence.mu;
        });
    }

    void score(Rows<const float> logits, Array<const int32_t, 1> targets, Array<float, 1> logprobs,
               Array<int32_t, 2> top_tokens, Array<float, 2> top_logprobs, Array<int32_t, 1> ranks) {
        std::lock_guard lock(mutex_);
        const size_t rows = logits.shape(0), top = top_tokens.shape(1);
        run(rows, [&](size_t row, RowSampler& worker) {
            const Report report{logprobs.data() + row, top_tokens.data() + row * top, top_logprobs.data() + row * top};
            const float* start = logits.data() + static_cast<int64_t>(row) * logits.stride(0);
            const int32_t target = targets.data()[row];
            if (worker.score(start, vocab_, target, top, report)) ranks.data()[row] = rank_of(start, vocab_, target);
        });
    }

   private:
    static Report report_of(const Reports& reports, size_t row) {
        const auto& [logprobs, top_tokens, top_logprobs, mu] = reports;
        const size_t top = row * top_tokens.shape(1);
        return {logprobs.data() + row, top_tokens.data() + top, top_logprobs.data() + top};
    }

    // The bits of the tokens that a row may get; null: of all.
    static const uint32_t* allowed_by(const Masks& masks, size_t row) {
        const auto& [bits, rows] = masks;
        const int32_t mask = rows.data()[row];
        return mask < 0 ? nullptr : bits.data() + static_cast<size_t>(mask) * bits.shape(1);
    }

    void sequence_of(int32_t slot) {
        const std::string name = "slot " + std::to_string(slot);
        if (slot < 0 || static_cast<size_t>(slot) >= sequences_.size())
            throw nb::index_error((name + " does not exist: the sampler has " + std::to_string(sequences_.size())).c_str());
        Sequence* sequence = sequences_[static_cast<size_t>(slot)].get();
        if (!sequence) throw nb::value_error((name + " has no sequence: call start first").c_str());
        if (std::exchange(sequence->last_step, steps_) == steps_)
            throw nb::value_error((name + " occurs twice: every row of a step needs its own slot").c_str());
    }

    // Whether so many rows are shared by the pool's threads: those that sleep are not woken for what is done sooner than
    // they are awake.
    bool shared(size_t rows) const {
        constexpr size_t worth_waking = 1 << 16;  // logits
        return rows >= 2 && rows * vocab_ >= worth_waking;
    }

    // Calls work(row, worker) for each row, and throws what one of them threw.
    template <class Work>
    void run(size_t rows, const Work& work) {
        if (!shared(rows)) {
            const PlainFloats mode;
            for (size_t row = 0; row < rows; ++row) work(row, workers_[0]);
            return;
        }
        std::exception_ptr error;
        std::mutex failing;
        pool_.run({static_cast<int>(rows)}, [&](int, int row, int thread) {
            try {
                const PlainFloats mode;
                work(static_cast<size_t>(row), workers_[static_cast<size_t>(thread)]);
            } catch (...) {  // no memory
                std::lock_guard lock(failing);
                error = std::current_exception();
            }
        });
        if (error) std::rethrow_exception(error);
    }

    const size_t vocab_;
    const int32_t end_of_text_;
    std::mutex mutex_;  // `sample` and `score` run without Python's lock
    uint64_t steps_ = 0;
    std::vector<std::unique_ptr<Sequence>> sequences_;
    const nb::object kept_;
    const std::unique_ptr<ThreadPool> own_;
    ThreadPool& pool_;
    std::vector<RowSampler> workers_;  // one for each thread
};

}  // namespace wingbeat::sampler

NB_MODULE(_sampler, module) {
    nb::set_leak_warnings(false);  // what a daemon thread or a traceback holds at exit is alive, not leaked
    using wingbeat::sampler::Sampler;
    module.doc() = "Sampling in C++; use wingbeat.sampling.samplers.Sampler, which checks the arguments.";
    nb::class_<Sampler>(module, "Sampler")
        .def(nb::init<size_t, size_t, nb::object, const std::string&, int32_t>(), nb::arg("slots"), nb::arg("valid_vocab"),
             nb::arg("pool").none(), nb::arg("level"), nb::arg("end_of_text"))
        .def("start", &Sampler::start)
        .def("finish", &Sampler::finish)
        .def("prepare", &Sampler::prepare)
        // Never converted: results would go into a copy.
        .def("sample", &Sampler::sample, nb::arg().noconvert(), nb::arg(), nb::arg(), nb::arg().noconvert(),
             nb::arg().noconvert().none(), nb::arg().none(), nb::call_guard<nb::gil_scoped_release>())
        .def("score", &Sampler::score, nb::call_guard<nb::gil_scoped_release>());
    module.def("levels", [] {
        std::vector<std::string> names;
        for (const auto* passes : wingbeat::sampler::executable_passes()) names.emplace_back(passes->name);
        return names;
    });
}
