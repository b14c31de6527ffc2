// Zeroed, 64-byte aligned memory; large blocks ask for huge pages, which a decode step's reading of all weights needs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace wingbeat {

constexpr std::size_t kHugePage = std::size_t{1} << 21;

class Memory {
 public:
  Memory() = default;
  explicit Memory(std::size_t bytes) : bytes_(bytes) {
#if defined(__linux__)
    if (bytes >= 2 * kHugePage) {
      map();
      return;
    }
#endif
    data_ = std::aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    if (!data_) throw std::bad_alloc();
    std::memset(data_, 0, bytes);
  }
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(mapped_, other.mapped_);
    std::swap(mapped_bytes_, other.mapped_bytes_);
    return *this;
  }
  ~Memory() {
#if defined(__linux__)
    if (mapped_) {
      munmap(mapped_, mapped_bytes_);
      return;
    }
#endif
    std::free(data_);
  }

  template <class T>
  T* as() const { return static_cast<T*>(data_); }
  std::size_t bytes() const { return bytes_; }

 private:
#if defined(__linux__)
  // The system's pages are zero already, and come when they are first written: on the thread that writes them.
  void map() {
    mapped_bytes_ = bytes_ + kHugePage;
    void* p = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    mapped_ = p;
    data_ = reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(p) + kHugePage - 1) & ~(kHugePage - 1));
    madvise(data_, bytes_, MADV_HUGEPAGE);
  }
#endif

  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  void* mapped_ = nullptr;  // where the mapping that holds the data begins
  std::size_t mapped_bytes_ = 0;
};

}  // namespace wingbeat
