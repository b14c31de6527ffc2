// The kernels for AVX2, FMA and F16C.
#include <immintrin.h>

#define WINGBEAT_UNIT avx2
#define WINGBEAT_NAME "avx2"
#define WINGBEAT_SIMD "simd_avx2.hpp"
#include "kernels.inl.hpp"

namespace wingbeat {
const KernelTable& avx2_kernels() { return avx2::kTable; }
}  // namespace wingbeat
