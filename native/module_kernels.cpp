// Python's door to the program runner: wingbeat._kernels.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <utility>

#include "cpu_levels.hpp"
#include "ggml_blocks.hpp"
#include "program.hpp"
#include "streaming_copy.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace wingbeat {
namespace {

using Ints = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using AnyMatrix = nb::ndarray<nb::ro, nb::ndim<2>, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Slot = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Pool = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

Format format_of(const std::string& name) {
  if (name == "float32") return Format::kFloat32;
  if (name == "bfloat16") return Format::kBfloat16;
  if (name == "int8") return Format::kInt8;
  if (name == "int4") return Format::kInt4;
  if (name == "nf4") return Format::kNf4;
  if (name == "sf4") return Format::kSf4;
  throw std::invalid_argument("unknown format '" + name + "'");
}

Activation activation_of(const std::string& name) {
  if (name == "none") return Activation::kNone;
  if (name == "tanh") return Activation::kTanh;
  if (name == "sigmoid") return Activation::kSigmoid;
  if (name == "relu2") return Activation::kRelu2;
  if (name == "silu") return Activation::kSilu;
  if (name == "decay6") return Activation::kDecay6;
  if (name == "decay7") return Activation::kDecay7;
  throw std::invalid_argument("unknown activation '" + name + "'");
}

Rows rows_of(const std::string& name) {
  if (name == "tokens") return Rows::kTokens;
  if (name == "logits") return Rows::kLogits;
  if (name == "sequences") return Rows::kSequences;
  if (name == "hidden") return Rows::kHidden;
  throw std::invalid_argument("unknown kind of rows '" + name + "'");
}

Source source_of(const std::string& name) {
  if (name == "float32") return Source::kFloat32;
  if (name == "bfloat16") return Source::kBfloat16;
  if (name == "float16") return Source::kFloat16;
  throw std::invalid_argument("unknown dtype '" + name + "' of a weight");
}

WeightKind kind_of(const std::string& name) {
  if (name == "matrix") return WeightKind::kMatrix;
  if (name == "matrix by K") return WeightKind::kMatrixByK;
  if (name == "table") return WeightKind::kTable;
  if (name == "vectors") return WeightKind::kVectors;
  throw std::invalid_argument("unknown kind of weight '" + name + "'");
}

void check(bool fits, const char* what) {
  if (!fits) throw std::invalid_argument(what);
}

// `source` names what the array's bits mean: 16-bit floats come as uint16.
int add_weight(Program& p, const std::string& kind, const std::string& format, const AnyMatrix& a, const std::string& source,
               const std::optional<std::pair<Floats, Floats>>& norm) {
  Matrix m{source_of(source), a.data(), (int)a.shape(0), (int)a.shape(1), a.stride(0), a.stride(1)};
  check(a.itemsize() == (m.source == Source::kFloat32 ? 4 : 2), "the array is not of the dtype that it is said to be");
  RowNorm n;
  if (norm) {
    check((int)norm->first.size() == m.columns && (int)norm->second.size() == m.columns, "the norm has another width than the rows");
    n = {norm->first.data(), norm->second.data()};
  }
  WeightKind k = kind_of(kind);
  Format f = format_of(format);
  nb::gil_scoped_release release;
  return p.add_weight(k, f, m, n);
}

int add_packed(Program& p, const std::string& kind, const std::string& format, int rows, int columns, const Bytes& data, const Bytes& scales) {
  return p.add_packed({kind_of(kind), format_of(format), rows, columns}, {data.data(), data.size()}, {scales.data(), scales.size()});
}

// [n, bytes of a block] to [n, its elements].
void decode_blocks(const std::string& kind, const nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>& blocks,
                   const Pool& values) {
  const GgmlKind* k = ggml_kind(kind);
  check(k != nullptr, "no such kind of blocks is decoded here");
  check(blocks.shape(1) == k->bytes && values.shape(1) == k->elements && blocks.shape(0) == values.shape(0),
        "the arrays are not of the shapes that this kind of blocks has");
  nb::gil_scoped_release release;
  k->decode(blocks.data(), blocks.shape(0), values.data());
}

// Both blobs of a weight, as views that keep the program.
nb::tuple packed(nb::handle_t<Program> self, int id) {
  const Weight& w = nb::cast<Program&>(self).weight(id);
  auto view = [&](const std::uint8_t* data, std::size_t bytes) {
    return nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>>(data, {bytes}, self);
  };
  return nb::make_tuple(view(w.data, w.shape.data_bytes()), view(w.scales, w.shape.scales_bytes()));
}

LinearOp linear_of(const Program& p, const nb::dict& op, const std::vector<int>& reads, const float* bias) {
  const PackedWeight& w = p.weight(nb::cast<std::vector<int>>(op["weights"]).at(0)).packed;
  int target = nb::cast<std::vector<int>>(op["writes"]).at(0), start = nb::cast<int>(op["start"]);
  const Buffer *x = p.buffer(reads.at(0)), *out = p.buffer(target);
  bool part = start != 0 || x->width != w.in;
  check(w.in == nb::cast<int>(op["columns"]) && w.out == out->width, "the matrix has another shape than the buffers");
  check(!part || ((w.format == Format::kFloat32 || w.format == Format::kBfloat16) && !w.by_k && start >= 0 && start % 32 == 0 &&
                  start + w.k_padded <= x->padded), "this part of the columns cannot be read");
  check(!w.by_k || (w.format != Format::kNf4 && w.format != Format::kSf4), "nf4 and sf4 are not kept by K");
  check(!w.by_k || p.spec(reads.at(0)).mask, "a matrix that is kept by K needs a mask of its input");
  LinearOp o{x, out, &w, bias, activation_of(nb::cast<std::string>(op["activation"])), nb::cast<int>(op["add"]) != 0,
             nb::cast<int>(op["wanted"]) != 0, start, nullptr, nullptr, nullptr};
  auto other = [&](std::size_t i) {
    const Buffer* b = p.buffer(reads.at(i));
    check(b->width == out->width && p.spec(reads.at(i)).f32 && p.spec(reads.at(i)).rows == p.spec(target).rows,
          "what the result combines with has another shape");
    return b;
  };
  auto combine = nb::cast<std::string>(op["combine"]);
  check(combine == "none" || combine == "gate" || combine == "lerp", "unknown way to combine");
  if (combine == "gate") o.gate = other(1);
  if (combine == "lerp") o.from = other(1), o.to = other(2);
  return o;
}

// One op of a stage as Python describes it: buffers and weights by id. What does not fit together is refused here,
// since the kernels look at nothing but addresses.
OpBody op_of(const Program& p, const nb::dict& op) {
  auto name = nb::cast<std::string>(op["name"]);
  auto reads = nb::cast<std::vector<int>>(op["reads"]), writes = nb::cast<std::vector<int>>(op["writes"]);
  auto weights = nb::cast<std::vector<int>>(op["weights"]);
  auto in = [&](std::size_t i) { return p.buffer(reads.at(i)); };
  auto optional_in = [&](std::size_t i) { return i < reads.size() ? in(i) : nullptr; };
  auto out = [&](std::size_t i) { return p.buffer(writes.at(i)); };
  auto vec = [&](std::size_t i, int width, int rows = 1) {
    const Weight& w = p.weight(weights.at(i));
    std::size_t floats = (std::size_t)rows * (std::size_t)round_up(width, kBlock);
    check(w.shape.kind == WeightKind::kVectors && w.shape.data_bytes() == floats * sizeof(float),
          "a vector has another width than the op's buffers");
    return reinterpret_cast<const float*>(w.data);
  };
  auto constant = [&](const char* key) { return nb::cast<float>(op[key]); };
  auto offset = [&] { return nb::cast<std::size_t>(op["state_offset"]); };
  auto number = [&](const char* key) { return nb::cast<int>(op[key]); };
  auto table = [&](int width) -> const Weight& {
    const Weight& w = p.weight(weights.at(0));
    check(w.shape.kind == WeightKind::kTable && w.shape.columns == width, "the table has another width than the buffer");
    check(w.shape.format == Format::kFloat32 || w.shape.format == Format::kBfloat16, "a table is float32 or bfloat16");
    check(w.shape.rows == p.vocab_size(), "the table has another number of rows than the vocabulary");
    return w;
  };
  auto of_heads = [&](int width) {
    check(number("heads") * number("size") == width, "the heads do not make up the width");
    return number("heads");
  };
  if (name == "embed") {
    const Weight& w = table(out(0)->width);
    return EmbedOp{out(0), w.shape.format, w.data, (std::size_t)w.shape.padded()};
  }
  if (name == "deep_embed") {
    check(in(0)->width * in(0)->width == in(1)->width && out(0)->width == in(0)->width, "the matrices are not square");
    const Weight& w = table(in(1)->width);
    return DeepEmbedOp{in(0), in(1), out(0), w.shape.format, w.data, (std::size_t)w.shape.padded()};
  }
  if (name == "norm_shift_mix") {
    int width = in(0)->width, mixes = (int)writes.size() - 1;
    check(mixes <= 8, "norm_shift_mix takes at most 8 mixes");
    NormShiftMixOp o{in(0), out(0), {}, mixes, vec(0, width), vec(1, width), vec(2, width, mixes), constant("eps"), offset()};
    for (int c = 0; c < o.mixes; ++c) o.outs[c] = out((std::size_t)c + 1);
    return o;
  }
  if (name == "commit_shift") return CommitShiftOp{in(0), offset()};
  if (name == "linear") return linear_of(p, op, reads, weights.size() > 1 ? vec(1, out(0)->width) : nullptr);
  if (name == "wkv4") {
    int d = in(0)->width;
    return Wkv4Op{in(0), in(1), in(2), out(0), vec(0, d), vec(1, d), offset()};
  }
  if (name == "wkv6") {
    int d = in(0)->width, heads = of_heads(d);
    std::size_t next = 3;
    const Buffer* w = number("decay") ? in(next++) : nullptr;
    const Buffer* g = number("gate") ? in(next++) : nullptr;
    return Wkv6Op{in(0), in(1), in(2), w, g, out(0), vec(0, d), vec(1, d), vec(2, d), w ? nullptr : vec(3, d),
                  heads, d / heads, constant("eps"), offset()};
  }
  if (name == "wkv7") {
    int d = in(0)->width, heads = of_heads(d);
    return Wkv7Op{in(0), in(1), in(2), in(3), in(4), in(5), optional_in(6), optional_in(7), out(0), vec(0, d), vec(1, d),
                  vec(2, d), vec(3, d), vec(4, d), heads, d / heads, constant("eps"), offset()};
  }
  if (name == "gather_norm") {
    int width = in(0)->width;
    return GatherNormOp{in(0), out(0), vec(0, width), vec(1, width), constant("eps")};
  }
  if (name == "tap") {
    int width = in(0)->width;
    bool normed = !weights.empty();
    check(out(0)->width == width && p.spec(writes.at(0)).rows == Rows::kHidden, "hidden rows have another shape");
    return TapOp{in(0), out(0), normed ? vec(0, width) : nullptr, normed ? vec(1, width) : nullptr, constant("eps"), number("layer")};
  }
  throw std::invalid_argument("the native kernels have no op '" + name + "'");
}

// Rows of a buffer as an array that keeps its memory.
nb::ndarray<nb::numpy, float> view(Program::Result&& result, int count) {
  std::size_t shape[2] = {(std::size_t)count, (std::size_t)result.rows.width};
  std::int64_t strides[2] = {(std::int64_t)result.rows.f32_stride, 1};
  using Owner = std::shared_ptr<Memory>;
  nb::capsule owner(new Owner(std::move(result.memory)), [](void* p) noexcept { delete static_cast<Owner*>(p); });
  return nb::ndarray<nb::numpy, float>(result.rows.f32, 2, shape, owner, strides);
}

template <bool profiled>
nb::ndarray<nb::numpy, float> run(Program& p, const Ints& tokens, const Ints& slots, const Ints& starts, const Ints& wanted,
                                  const Ints& hidden_rows, const Ints& hidden_layers, const Pool& pool) {
  if (starts.shape(0) != slots.shape(0) + 1) throw std::invalid_argument("seq_starts must be one longer than slots");
  if (hidden_layers.shape(0) != hidden_rows.shape(0)) throw std::invalid_argument("hidden_rows and hidden_layers differ in length");
  Step step{};
  step.rows = (int)tokens.shape(0);
  step.sequences = (int)slots.shape(0);
  step.wanted = (int)wanted.shape(0);
  step.tokens = tokens.data();
  step.slots = slots.data();
  step.seq_starts = starts.data();
  step.logit_rows = wanted.data();
  step.hidden = (int)hidden_rows.shape(0);
  step.hidden_rows = hidden_rows.data();
  step.hidden_layers = hidden_layers.data();
  step.pool = pool.data();
  Program::Result logits;
  {
    nb::gil_scoped_release release;
    logits = p.run(step, pool.shape(0), pool.shape(1), profiled);
  }
  return view(std::move(logits), step.wanted);
}

// [(seconds of the stage, [(seconds inside the units of an op, over all threads; their number)])]
nb::list profile(Program& p) {
  nb::list stages;
  for (const StageTimes& stage : p.profile()) {
    nb::list ops;
    for (const OpTimes& op : stage.ops) ops.append(nb::make_tuple(op.seconds, op.units));
    stages.append(nb::make_tuple(stage.seconds, ops));
  }
  return stages;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Bytes a second that all threads together read from memory, as a decode step reads weights.
double probe_read(const std::string& level, int threads, std::size_t bytes) {
  const KernelTable& kernels = kernels_by_name(level);
  std::size_t piece = std::size_t{1} << 18;
  int units = (int)(bytes / piece);
  if (units < 1) throw std::invalid_argument("probe_read needs at least 256 KiB");
  ThreadPool pool(threads);
  Memory memory((std::size_t)units * piece);
  std::vector<float> sink((std::size_t)pool.threads() * 16);
  // Written first: pages that never were are all the same one, which lies in the caches.
  pool.run({units}, [&](int, int unit, int) { std::memset(memory.as<std::uint8_t>() + (std::size_t)unit * piece, 1, piece); });
  auto pass = [&] {
    pool.run({units}, [&](int, int unit, int thread) {
      sink[(std::size_t)thread * 16] += kernels.read_bytes(memory.as<std::uint8_t>() + (std::size_t)unit * piece, piece);
    });
  };
  pass();
  auto start = std::chrono::steady_clock::now();
  pass();
  return (double)units * (double)piece / seconds_since(start);
}

// Multiply-adds a second that all threads together reach in a format, when memory is no limit.
double probe_peak(const std::string& level, int threads, const std::string& format) {
  const KernelTable& kernels = kernels_by_name(level);
  Format f = format_of(format);
  ThreadPool pool(threads, kernels.leave);
  std::vector<double> macs((std::size_t)pool.threads() * 8);
  std::vector<float> sink((std::size_t)pool.threads() * 16);
  constexpr int units = 64, iterations = 2000;
  auto start = std::chrono::steady_clock::now();
  pool.run({units}, [&](int, int, int thread) {
    macs[(std::size_t)thread * 8] += kernels.peak(f, iterations, &sink[(std::size_t)thread * 16]);
  });
  double seconds = seconds_since(start), total = 0;
  for (double m : macs) total += m;
  return total / seconds;
}

void copy_floats(Slot target, Floats source) {
  if (target.size() != source.size()) throw std::invalid_argument("the two sizes differ");
  nb::gil_scoped_release unlocked;
  streaming_copy(reinterpret_cast<std::byte*>(target.data()), reinterpret_cast<const std::byte*>(source.data()),
                 source.size() * sizeof(float));
}

}  // namespace
}  // namespace wingbeat

NB_MODULE(_kernels, m) {
  nb::set_leak_warnings(false);  // what a daemon thread or a traceback holds at exit is alive, not leaked
  using namespace wingbeat;
  m.doc() = "Runs recorded programs with native kernels.";
  nb::class_<ThreadPool>(m, "ThreadPool").def(nb::init<int>(), "threads"_a).def_prop_ro("threads", &ThreadPool::threads);
  nb::class_<Program>(m, "Program")
      .def("__init__",
           [](Program* self, const std::string& level, int threads, int vocab_size, std::size_t slot_floats) {
             new (self) Program(kernels_by_name(level), threads, vocab_size, slot_floats);
           },
           "level"_a, "threads"_a, "vocab_size"_a, "slot_floats"_a)
      .def_prop_ro("level", [](const Program& p) { return p.kernels().name; })
      .def_prop_ro("threads", [](Program& p) { return p.pool().threads(); })
      .def_prop_ro("pool", &Program::pool, nb::rv_policy::reference_internal)
      .def("add_buffer",
           [](Program& p, int width, const std::string& rows, const std::vector<std::string>& formats) {
             BufferSpec spec{width, rows_of(rows), false, false, false, false, false};
             for (const std::string& f : formats) {
               if (f == "mask") {
                 spec.mask = true;
                 continue;
               }
               switch (format_of(f)) {
                 case Format::kFloat32: spec.f32 = true; break;
                 case Format::kBfloat16: spec.bf16 = true; break;
                 case Format::kInt8: spec.int8 = true; break;
                 case Format::kInt4: spec.int4 = true; break;
                 case Format::kNf4:
                 case Format::kSf4: throw std::invalid_argument("activations are never " + f);
               }
             }
             return p.add_buffer(spec);
           },
           "width"_a, "rows"_a, "formats"_a)
      .def("add_weight", add_weight, "kind"_a, "format"_a, "array"_a.noconvert(), "source"_a, "norm"_a = nb::none())
      .def("add_packed", add_packed, "kind"_a, "format"_a, "rows"_a, "columns"_a, "data"_a.noconvert(), "scales"_a.noconvert(),
           nb::keep_alive<1, 6>(), nb::keep_alive<1, 7>())
      .def("packed", packed, "weight"_a)
      .def("checksum",
           [](Program& p, const Bytes& data) {
             nb::gil_scoped_release release;
             return p.checksum({data.data(), data.size()});
           },
           "data"_a.noconvert())
      .def("add_stage",
           [](Program& p, const nb::list& ops) {
             std::vector<OpBody> stage;
             for (nb::handle op : ops) stage.push_back(op_of(p, nb::cast<nb::dict>(op)));
             p.add_stage(std::move(stage));
           },
           "ops"_a)
      .def("set_logits", &Program::set_logits, "buffer"_a)
      .def("set_hidden", &Program::set_hidden, "buffer"_a)
      .def_prop_ro("weight_bytes", &Program::weight_bytes)
      .def("matrix_bytes", &Program::matrix_bytes, "weight"_a)
      // Never converted: a pool that nanobind copied would lose the new states.
      .def("run", run<false>, "tokens"_a.noconvert(), "slots"_a.noconvert(), "seq_starts"_a.noconvert(),
           "logit_rows"_a.noconvert(), "hidden_rows"_a.noconvert(), "hidden_layers"_a.noconvert(), "pool"_a.noconvert())
      .def("run_profiled", run<true>, "tokens"_a.noconvert(), "slots"_a.noconvert(), "seq_starts"_a.noconvert(),
           "logit_rows"_a.noconvert(), "hidden_rows"_a.noconvert(), "hidden_layers"_a.noconvert(), "pool"_a.noconvert())
      .def("hidden",
           [](Program& p) {
             auto [rows, count] = p.hidden();
             return view(std::move(rows), count);
           })
      .def("profile", profile);
  m.def("built_levels", built_levels);
  m.def("levels", [] {
    std::vector<std::string> names;
    for (const KernelTable* k : executable_kernels()) names.emplace_back(k->name);
    return names;
  });
  m.attr("packed_layout") = kPackedLayout;
  m.def("decodes", [](const std::string& kind) { return ggml_kind(kind) != nullptr; }, "kind"_a);
  m.def("decode_blocks", decode_blocks, "kind"_a, "blocks"_a.noconvert(), "values"_a.noconvert());
  m.def("copy", copy_floats, "target"_a.noconvert(), "source"_a.noconvert());
  m.def("probe_read", probe_read, "level"_a, "threads"_a, "bytes"_a, nb::call_guard<nb::gil_scoped_release>());
  m.def("probe_peak", probe_peak, "level"_a, "threads"_a, "format"_a, nb::call_guard<nb::gil_scoped_release>());
}
