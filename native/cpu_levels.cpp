#include "cpu_levels.hpp"

#include <stdexcept>

#if defined(WINGBEAT_X86)
#include <cpuid.h>
#endif
#if defined(WINGBEAT_X86) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace wingbeat {
namespace {

#if defined(WINGBEAT_X86)
struct Cpuid {
  unsigned a = 0, b = 0, c = 0, d = 0;
  Cpuid(unsigned leaf, unsigned subleaf) {
    if (!__get_cpuid_count(leaf, subleaf, &a, &b, &c, &d)) a = b = c = d = 0;
  }
};

[[maybe_unused]] bool has_avx_vnni() { return Cpuid(7, 1).a & 1u << 4; }

// Whether the processor has AMX in bfloat16 and int8 and the system lets this process use it.
[[maybe_unused]] bool amx_allowed() {
#if defined(__linux__)
  constexpr unsigned wanted = 1u << 22 | 1u << 24 | 1u << 25;  // bfloat16, tiles, int8
  if ((Cpuid(7, 0).d & wanted) != wanted) return false;
  constexpr int request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}
#endif

}  // namespace

std::vector<const KernelTable*> executable_kernels() {
  std::vector<const KernelTable*> found;
#if defined(WINGBEAT_X86)
  __builtin_cpu_init();
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#if defined(WINGBEAT_EMULATE_AVX512)
  found = {&avx512_bf16_kernels(), &avx512_vnni_kernels(), &avx512_kernels()};
#endif
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  bool vnni = avx512 && __builtin_cpu_supports("avx512vnni"), bf16 = vnni && __builtin_cpu_supports("avx512bf16");
#if defined(WINGBEAT_AMX_UNIT)
  if (bf16 && amx_allowed()) found.push_back(&amx_kernels());
#endif
  if (bf16) found.push_back(&avx512_bf16_kernels());
  if (vnni) found.push_back(&avx512_vnni_kernels());
  if (avx512) found.push_back(&avx512_kernels());
#if defined(WINGBEAT_AVX_VNNI_UNIT)
  if (avx2 && has_avx_vnni()) found.push_back(&avx_vnni_kernels());
#endif
  if (avx2) found.push_back(&avx2_kernels());
#endif
  found.push_back(&portable_kernels());
  return found;
}

std::vector<std::string> built_levels() {
  std::vector<std::string> names;
#if defined(WINGBEAT_AMX_UNIT)
  names.emplace_back("amx");
#endif
#if defined(WINGBEAT_X86)
  for (const char* name : {"avx512_bf16", "avx512_vnni", "avx512"}) names.emplace_back(name);
#if defined(WINGBEAT_AVX_VNNI_UNIT)
  names.emplace_back("avx_vnni");
#endif
  names.emplace_back("avx2");
#endif
  names.emplace_back("portable");
  return names;
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
