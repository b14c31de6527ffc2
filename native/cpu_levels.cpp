#include "cpu_levels.hpp"

#include <stdexcept>

namespace wingbeat {

std::vector<const KernelTable*> executable_kernels() {
  std::vector<const KernelTable*> found;
#if defined(WINGBEAT_X86)
  __builtin_cpu_init();
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#if defined(WINGBEAT_EMULATE_AVX512)
  found = {&avx512_bf16_kernels(), &avx512_kernels()};
#endif
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni"))
    found.push_back(&avx512_bf16_kernels());
  if (avx512) found.push_back(&avx512_kernels());
  if (avx2) found.push_back(&avx2_kernels());
#endif
  found.push_back(&portable_kernels());
  return found;
}

const KernelTable& kernels_by_name(const std::string& name) {
  std::vector<const KernelTable*> found = executable_kernels();
  if (name.empty()) return *found.front();
  std::string choices;
  for (const KernelTable* k : found) {
    if (name == k->name) return *k;
    choices += std::string(choices.empty() ? "" : ", ") + k->name;
  }
  throw std::invalid_argument("kernel level '" + name + "' does not run on this machine; it can run: " + choices);
}

}  // namespace wingbeat
