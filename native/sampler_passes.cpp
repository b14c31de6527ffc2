#include "sampler_passes.hpp"

namespace wingbeat::sampler {

std::vector<const Passes*> executable_passes() {
    std::vector<const Passes*> found;
#if defined(WINGBEAT_X86)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        found.push_back(&avx512_passes);
    if (avx2) found.push_back(&avx2_passes);
#endif
    found.push_back(&portable_passes);
    return found;
}

}  // namespace wingbeat::sampler
