#include "cpu_levels.hpp"

#include <stdexcept>

#if defined(WINGBEAT_X86) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace wingbeat {
namespace {

// Whether the processor has AMX in bfloat16 and int8 and the system lets this process use it.
[[maybe_unused]] bool amx_allowed() {
#if defined(WINGBEAT_X86) && defined(__linux__)
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;  // CPUID leaf 7, edx
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (kBf16 | kTile | kInt8)) != (kBf16 | kTile | kInt8)) return false;
  constexpr int request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

}  // namespace

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
  bool bf16_vnni = avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
  if (bf16_vnni && amx_allowed()) found.push_back(&amx_kernels());
  if (bf16_vnni) found.push_back(&avx512_bf16_kernels());
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
