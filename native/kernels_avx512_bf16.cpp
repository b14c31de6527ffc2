// The kernels for AVX-512 with the BF16 and VNNI instructions.
#include "intrinsics.hpp"

#define WINGBEAT_BF16
#define WINGBEAT_VNNI
#define WINGBEAT_UNIT avx512_bf16
#define WINGBEAT_NAME "avx512_bf16"
#define WINGBEAT_SIMD "simd_avx512.hpp"
#include "kernels.inl.hpp"

namespace wingbeat {
const KernelTable& avx512_bf16_kernels() { return avx512_bf16::kTable; }
}  // namespace wingbeat
