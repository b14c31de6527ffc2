#include "ggml_blocks.hpp"

#include "source_rows.hpp"
#include "wider.hpp"

namespace wingbeat {
namespace {

using Byte = std::uint8_t;

WINGBEAT_INLINE float half_at(const Byte* p) { return Float16Source::widen((std::uint16_t)(p[0] | p[1] << 8)); }

WINGBEAT_WIDER void decode_q8_0(const Byte* block, std::size_t count, float* out) {
  for (; count; --count, block += 34, out += 32) {
    float scale = half_at(block);
    for (int i = 0; i < 32; ++i) out[i] = (float)(std::int8_t)block[2 + i] * scale;
  }
}

WINGBEAT_WIDER void decode_q4_0(const Byte* block, std::size_t count, float* out) {
  for (; count; --count, block += 18, out += 32) {
    float scale = half_at(block);
    for (int i = 0; i < 16; ++i) {
      out[i] = (float)((block[2 + i] & 15) - 8) * scale;
      out[16 + i] = (float)((block[2 + i] >> 4) - 8) * scale;
    }
  }
}

// Of the eight parts of a Q4_K or Q5_K block: six bits each in twelve bytes, times the block's two halves.
struct Parts {
  float scale[8], least[8];
};

WINGBEAT_INLINE Parts parts_of(const Byte* block) {
  Parts parts;
  float scale = half_at(block), least = half_at(block + 2);
  const Byte *first = block + 4, *second = block + 8, *both = block + 12;
  for (int i = 0; i < 4; ++i) {
    parts.scale[i] = scale * (float)(first[i] & 63);
    parts.least[i] = least * (float)(second[i] & 63);
    parts.scale[4 + i] = scale * (float)((both[i] & 15) | (first[i] >> 6) << 4);
    parts.least[4 + i] = least * (float)((both[i] >> 4) | (second[i] >> 6) << 4);
  }
  return parts;
}

WINGBEAT_WIDER void decode_q4_k(const Byte* block, std::size_t count, float* out) {
  for (; count; --count, block += 144, out += 256) {
    Parts parts = parts_of(block);
    for (int p = 0; p < 8; ++p) {
      const Byte* packed = block + 16 + p / 2 * 32;
      for (int i = 0; i < 32; ++i) {
        int value = packed[i] >> (p % 2 * 4) & 15;
        out[p * 32 + i] = (float)value * parts.scale[p] - parts.least[p];
      }
    }
  }
}

WINGBEAT_WIDER void decode_q5_k(const Byte* block, std::size_t count, float* out) {
  for (; count; --count, block += 176, out += 256) {
    Parts parts = parts_of(block);
    for (int p = 0; p < 8; ++p) {
      const Byte *fifth = block + 16, *packed = block + 48 + p / 2 * 32;
      for (int i = 0; i < 32; ++i) {
        int value = (packed[i] >> (p % 2 * 4) & 15) | (fifth[i] >> p & 1) << 4;
        out[p * 32 + i] = (float)value * parts.scale[p] - parts.least[p];
      }
    }
  }
}

WINGBEAT_WIDER void decode_q6_k(const Byte* block, std::size_t count, float* out) {
  for (; count; --count, block += 210, out += 256) {
    float scale = half_at(block + 208);
    for (int part = 0; part < 16; ++part) {  // of two halves of four quarters, each of two
      int half = part / 8, quarter = part / 2 % 4, from = part % 2 * 16;
      const Byte *low = block + half * 64 + quarter % 2 * 32 + from, *high = block + 128 + half * 32 + from;
      float by = scale * (float)(std::int8_t)block[192 + part];
      for (int i = 0; i < 16; ++i) {
        int value = (low[i] >> (quarter / 2 * 4) & 15) | (high[i] >> (2 * quarter) & 3) << 4;
        out[part * 16 + i] = (float)(value - 32) * by;
      }
    }
  }
}

}  // namespace

const GgmlKind* ggml_kind(const std::string& name) {
  static const GgmlKind q8_0{32, 34, decode_q8_0}, q4_0{32, 18, decode_q4_0}, q4_k{256, 144, decode_q4_k}, q5_k{256, 176, decode_q5_k},
      q6_k{256, 210, decode_q6_k};
  if (name == "Q8_0") return &q8_0;
  if (name == "Q4_0") return &q4_0;
  if (name == "Q4_K") return &q4_k;
  if (name == "Q5_K") return &q5_k;
  if (name == "Q6_K") return &q6_k;
  return nullptr;
}

}  // namespace wingbeat
