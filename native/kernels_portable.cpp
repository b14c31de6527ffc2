// The kernels in plain C++, for any machine.
#define WINGBEAT_UNIT portable
#define WINGBEAT_NAME "portable"
#define WINGBEAT_SIMD "simd_portable.hpp"
#include "kernels.inl.hpp"

namespace wingbeat {
const KernelTable& portable_kernels() { return portable::kTable; }
}  // namespace wingbeat
