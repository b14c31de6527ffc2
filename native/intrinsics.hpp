// The x86 intrinsics; or an emulation of them, so that the AVX-512 kernels can be tested on a machine that lacks the
// instructions (tools/avx512/test.sh).
#pragma once

#if defined(WINGBEAT_INTRINSICS)
#include WINGBEAT_INTRINSICS
#else
#include <immintrin.h>
#endif
