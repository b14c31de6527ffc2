// The kernels for AVX-512 with the VNNI instructions.
#include "intrinsics.hpp"

#define WINGBEAT_VNNI
#define WINGBEAT_UNIT avx512_vnni
#define WINGBEAT_NAME "avx512_vnni"
#define WINGBEAT_SIMD "simd_avx512.hpp"
#include "kernels.inl.hpp"

namespace wingbeat {
const KernelTable& avx512_vnni_kernels() { return avx512_vnni::kTable; }
}  // namespace wingbeat
