// A double-array trie over byte strings, and greedy longest-match tokenisation with it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace wingbeat {

// Reaching byte c from a node whose children have base b is one load: slot b ^ c, which belongs to that node when its
// label is c. Bases are unique, so the label alone proves the parent. Eight bytes a slot keep the World trie (about
// 117,000 nodes) near one megabyte.
class Trie {
 public:
  using Entry = std::pair<std::string, std::uint32_t>;  // bytes and token id; ids start at 1

  explicit Trie(std::vector<Entry> entries);

  // Appends the ids of the greedy segmentation of text. Every single byte has a token, so it always succeeds.
  void encode(const unsigned char* text, std::size_t size, std::vector<std::uint32_t>& ids) const;

 private:
  struct Slot {
    std::uint32_t base : 24;  // where the children are; 0 = none
    std::uint32_t label : 8;  // the byte that leads here
    std::uint32_t token;      // the token that ends here; 0 = none
  };
  class Builder;

  std::vector<Slot> slots_;
  std::uint32_t root_ = 0;
};

}  // namespace wingbeat
