// Memory for the weights of one program: small weights share huge pages, large ones have their own.
#pragma once

#include <cstdint>
#include <deque>

#include "memory.hpp"
#include "thread_pool.hpp"

namespace wingbeat {

class WeightMemory {
 public:
  // Zeroed bytes, 64-byte aligned, until this object ends. Throws std::bad_alloc.
  std::uint8_t* take(std::size_t bytes, ThreadPool& pool) {
    bytes = (bytes + 63) / 64 * 64;
    if (bytes >= 2 * kHugePage) return touched(blocks_.emplace_back(bytes), pool);
    if (bytes > left_) {
      next_ = blocks_.emplace_back(kShared).as<std::uint8_t>();
      left_ = kShared;
    }
    left_ -= bytes;
    return std::exchange(next_, next_ + bytes);
  }

 private:
  static constexpr std::size_t kShared = 16 * kHugePage;

  // The system zeroes a huge page for the thread that touches it first. Were it left to the packing, whose threads
  // work side by side, two of them would often zero the same one.
  static std::uint8_t* touched(const Memory& block, ThreadPool& pool) {
    auto* data = block.as<volatile std::uint8_t>();
    pool.run({(int)(block.bytes() / kHugePage)}, [&](int, int page, int) { data[(std::size_t)page * kHugePage] = 0; });
    return block.as<std::uint8_t>();
  }

  std::deque<Memory> blocks_;
  std::uint8_t* next_ = nullptr;
  std::size_t left_ = 0;
};

}  // namespace wingbeat
