// The kernels for AVX2, FMA and F16C with the AVX-VNNI instructions.
#include <immintrin.h>

#define WINGBEAT_AVX_VNNI
#define WINGBEAT_UNIT avx_vnni
#define WINGBEAT_NAME "avx_vnni"
#define WINGBEAT_SIMD "simd_avx2.hpp"
#include "kernels.inl.hpp"

namespace wingbeat {
const KernelTable& avx_vnni_kernels() { return avx_vnni::kTable; }
}  // namespace wingbeat
