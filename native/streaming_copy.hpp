// Copies of whole states: larger than the caches of a core, and not looked at again soon.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace wingbeat {

// Stores that go past the caches. Plain ones would first read each line that they overwrite, a third of all the traffic,
// and drive the weights of the next step out of the caches.
inline void streaming_copy(std::byte* target, const std::byte* source, std::size_t bytes) {
#if defined(__SSE2__)
  constexpr std::size_t line = 64;
  std::size_t at = std::min(bytes, (line - reinterpret_cast<std::uintptr_t>(target) % line) % line);
  std::memcpy(target, source, at);
  for (; at + line <= bytes; at += line) {
    __m128i parts[4];
    for (int i = 0; i < 4; ++i) parts[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + at) + i);
    for (int i = 0; i < 4; ++i) _mm_stream_si128(reinterpret_cast<__m128i*>(target + at) + i, parts[i]);
  }
  std::memcpy(target + at, source + at, bytes - at);
  _mm_sfence();  // other threads read it next
#else
  std::memcpy(target, source, bytes);
#endif
}

}  // namespace wingbeat
