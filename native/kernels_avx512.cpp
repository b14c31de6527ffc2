// The kernels for AVX-512 (F, BW, DQ, VL).
#include "intrinsics.hpp"

#define WINGBEAT_UNIT avx512
#define WINGBEAT_NAME "avx512"
#define WINGBEAT_SIMD "simd_avx512.hpp"
#include "kernels.inl.hpp"

namespace wingbeat {
const KernelTable& avx512_kernels() { return avx512::kTable; }
}  // namespace wingbeat
