// Packing is plain loops, bound by arithmetic: a function with WINGBEAT_WIDER is compiled for wider vectors, too, where the
// compiler can choose among them at run time. No operation is fused or reordered, so the result is the same.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define WINGBEAT_WIDER __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WINGBEAT_WIDER
#endif

// For what such a function calls: else it would be compiled once, for all of them.
#define WINGBEAT_INLINE __attribute__((always_inline)) inline
