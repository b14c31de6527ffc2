// ggml's quantised blocks to float32: the kinds that model files have most, as formats/blocks.py says what they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace wingbeat {

struct GgmlKind {
  std::size_t elements, bytes;  // of a block
  void (*decode)(const std::uint8_t* blocks, std::size_t count, float* out);
};

// The kind of that name, such as "Q4_K", or null where there is none here.
const GgmlKind* ggml_kind(const std::string& name);

}  // namespace wingbeat
