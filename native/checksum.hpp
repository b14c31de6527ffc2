// A checksum as fast as memory is read: it finds what was damaged, not what was forged.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>

#include "thread_pool.hpp"

namespace wingbeat {

inline std::uint64_t checksum_mix(std::uint64_t sum, std::uint64_t word) {
  return std::rotl(sum ^ word, 29) * 0x9e3779b97f4a7c15u;  // odd, so that no word is lost
}

// Eight sums side by side, so that no multiplication waits for the one before.
inline std::uint64_t checksum_piece(const std::uint8_t* data, std::size_t bytes) {
  std::uint64_t sums[8] = {1, 2, 3, 4, 5, 6, 7, 8}, words[8];
  auto mix = [&] {
    for (int i = 0; i < 8; ++i) sums[i] = checksum_mix(sums[i], words[i]);
  };
  std::size_t whole = bytes / sizeof words * sizeof words;
  for (std::size_t at = 0; at < whole; at += sizeof words) {
    std::memcpy(words, data + at, sizeof words);
    mix();
  }
  if (whole < bytes) {
    std::memset(words, 0, sizeof words);
    std::memcpy(words, data + whole, bytes - whole);
    mix();
  }
  std::uint64_t sum = bytes;
  for (std::uint64_t s : sums) sum = checksum_mix(sum, s ^ s >> 32);
  return sum;
}

inline std::uint64_t checksum(const std::uint8_t* data, std::size_t bytes, ThreadPool& pool) {
  constexpr std::size_t piece = std::size_t{1} << 20;
  std::vector<std::uint64_t> sums((bytes + piece - 1) / piece);
  pool.run({(int)sums.size()}, [&](int, int unit, int) {
    std::size_t at = (std::size_t)unit * piece;
    sums[(std::size_t)unit] = checksum_piece(data + at, std::min(piece, bytes - at));
  });
  std::uint64_t sum = bytes;
  for (std::uint64_t s : sums) sum = checksum_mix(sum, s);
  return sum;
}

}  // namespace wingbeat
