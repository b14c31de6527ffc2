// The kernels for AMX tiles in bfloat16 and int8, beside AVX-512 with BF16 and VNNI.
#include "intrinsics.hpp"

#define WINGBEAT_BF16
#define WINGBEAT_VNNI
#define WINGBEAT_AMX
#define WINGBEAT_UNIT amx
#define WINGBEAT_NAME "amx"
#define WINGBEAT_SIMD "simd_avx512.hpp"
#include "kernels.inl.hpp"

namespace wingbeat {
const KernelTable& amx_kernels() { return amx::kTable; }
}  // namespace wingbeat
