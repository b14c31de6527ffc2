// wingbeat._text: the tokenizer's trie. Built once a vocabulary, then read only and shared by threads.
#include "trie.hpp"

#include <nanobind/nanobind.h>

#include <algorithm>
#include <deque>
#include <stdexcept>
#include <string_view>

namespace nb = nanobind;

namespace wingbeat {

namespace {
constexpr std::uint32_t kBlock = 256;               // base ^ byte stays within one aligned block
constexpr std::uint32_t kMaxSlots = 1u << 24;       // what Slot::base can address
constexpr int kTries = 256;                         // free slots looked at before a new block is opened
constexpr std::uint32_t kNobody = 0xffffffffu;
}  // namespace

// Places nodes breadth first, so the wide ones near the root go first and the long thin tails fill the holes.
class Trie::Builder {
 public:
  Builder(std::vector<Slot>& slots, const std::vector<Entry>& entries) : slots_(slots), entries_(entries) {}

  std::uint32_t build() {
    open_block();  // block 0 has no owner: childless nodes point at it, so its labels must never match
    for (std::uint32_t c = 0; c < kBlock; ++c) {
      slots_[c].label = c ^ 1u;
      take(c);
    }
    std::deque<Range> queue;
    const std::uint32_t root = place({0, 0, static_cast<std::uint32_t>(entries_.size()), 0}, queue);
    while (!queue.empty()) {
      const Range range = queue.front();
      queue.pop_front();
      const std::uint32_t base = place(range, queue);
      slots_[range.slot].base = base;
    }
    // A slot left free has label 0, and may pass for somebody's child for byte 0: one without token or children, which
    // changes nothing.
    return root;
  }

 private:
  struct Range {  // the entries below one node: [begin, end) agree in their first `depth` bytes
    std::uint32_t slot, begin, end, depth;
  };

  // Gives the node's children their slots, queues them, returns the base (0 when there are none).
  std::uint32_t place(Range range, std::deque<Range>& queue) {
    std::vector<Range> children;
    std::vector<std::uint32_t> labels;
    for (std::uint32_t i = range.begin; i < range.end; ++i) {
      const std::string& text = entries_[i].first;
      if (text.size() == range.depth) {  // sorted, so the entry that ends here is the first
        slots_[range.slot].token = entries_[i].second;
        continue;
      }
      const std::uint32_t label = static_cast<unsigned char>(text[range.depth]);
      if (labels.empty() || labels.back() != label) {
        labels.push_back(label);
        children.push_back({0, i, i, range.depth + 1});
      }
      children.back().end = i + 1;
    }
    if (labels.empty()) return 0;
    const std::uint32_t base = find_base(labels);
    used_base_[base] = 1;
    for (std::size_t i = 0; i < labels.size(); ++i) {
      const std::uint32_t slot = base ^ labels[i];
      take(slot);
      slots_[slot].label = labels[i];
      children[i].slot = slot;
      queue.push_back(children[i]);
    }
    return base;
  }

  std::uint32_t find_base(const std::vector<std::uint32_t>& labels) {
    int tries = 0;
    for (std::uint32_t slot = head_; slot != kNobody && tries < kTries; slot = next_[slot], ++tries) {
      const std::uint32_t base = slot ^ labels[0];
      if (used_base_[base]) continue;
      const auto is_free = [&](std::uint32_t label) { return free_[base ^ label] != 0; };
      if (std::all_of(labels.begin() + 1, labels.end(), is_free)) return base;
    }
    return open_block();
  }

  std::uint32_t open_block() {
    const auto first = static_cast<std::uint32_t>(slots_.size());
    if (first + kBlock > kMaxSlots) throw std::length_error("the vocabulary is too large for the tokenizer");
    slots_.resize(first + kBlock, Slot{0, 0, 0});
    free_.resize(first + kBlock, 1);
    used_base_.resize(first + kBlock, 0);
    next_.resize(first + kBlock, kNobody);
    previous_.resize(first + kBlock, kNobody);
    for (std::uint32_t slot = first; slot < first + kBlock; ++slot) {
      previous_[slot] = tail_;
      (tail_ == kNobody ? head_ : next_[tail_]) = slot;
      tail_ = slot;
    }
    return first;
  }

  void take(std::uint32_t slot) {
    free_[slot] = 0;
    const std::uint32_t before = previous_[slot], after = next_[slot];
    (before == kNobody ? head_ : next_[before]) = after;
    (after == kNobody ? tail_ : previous_[after]) = before;
  }

  std::vector<Slot>& slots_;
  const std::vector<Entry>& entries_;
  std::vector<std::uint8_t> free_, used_base_;
  std::vector<std::uint32_t> next_, previous_;  // the list of free slots, in order
  std::uint32_t head_ = kNobody, tail_ = kNobody;
};

Trie::Trie(std::vector<Entry> entries) {
  std::sort(entries.begin(), entries.end());
  std::array<bool, 256> single{};
  for (const auto& [text, id] : entries) {
    if (text.empty() || id == 0) throw std::invalid_argument("a token needs at least one byte and an id above 0");
    if (text.size() == 1) single[static_cast<unsigned char>(text[0])] = true;
  }
  if (!std::all_of(single.begin(), single.end(), [](bool present) { return present; }))
    throw std::invalid_argument("every single byte needs a token");
  root_ = Builder(slots_, entries).build();
}

void Trie::encode(const unsigned char* text, std::size_t size, std::vector<std::uint32_t>& ids) const {
  const Slot* slots = slots_.data();
  const unsigned char* const end = text + size;
  while (text != end) {
    std::uint32_t base = root_, token = 0;
    const unsigned char* longest = text;
    for (const unsigned char* at = text; at != end;) {
      const Slot slot = slots[base ^ *at];
      if (slot.label != *at) break;
      ++at;
      longest = slot.token ? at : longest;
      token = slot.token ? slot.token : token;
      base = slot.base;
    }
    ids.push_back(token);
    text = longest;
  }
}

namespace {

Trie make_trie(nb::dict ids) {
  std::vector<Trie::Entry> entries;
  entries.reserve(ids.size());
  for (auto [text, id] : ids) {
    const auto bytes = nb::cast<nb::bytes>(text);
    entries.emplace_back(std::string(bytes.c_str(), bytes.size()), nb::cast<std::uint32_t>(id));
  }
  return Trie(std::move(entries));
}

nb::object encode(const Trie& trie, nb::bytes text) {
  std::vector<std::uint32_t> ids;
  {
    nb::gil_scoped_release unlocked;
    ids.reserve(text.size() / 4 + 8);
    trie.encode(static_cast<const unsigned char*>(text.data()), text.size(), ids);
  }
  nb::object list = nb::steal(PyList_New(static_cast<Py_ssize_t>(ids.size())));
  if (!list.is_valid()) throw nb::python_error();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    PyObject* number = PyLong_FromUnsignedLong(ids[i]);
    if (number == nullptr) throw nb::python_error();
    PyList_SET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i), number);
  }
  return list;
}

}  // namespace
}  // namespace wingbeat

NB_MODULE(_text, m) {
  nb::set_leak_warnings(false);  // what a daemon thread or a traceback holds at exit is alive, not leaked
  m.doc() = "Greedy longest-match tokenisation over bytes.";
  nb::class_<wingbeat::Trie>(m, "Trie")
      .def("__init__",
           [](wingbeat::Trie* self, nb::dict ids) { new (self) wingbeat::Trie(wingbeat::make_trie(std::move(ids))); },
           nb::arg("ids"))
      .def("encode", &wingbeat::encode, nb::arg("text"));
}
