#define WINGBEAT_PASSES avx2_passes
#define WINGBEAT_LEVEL "avx2"
#include "sampler_passes.inl.hpp"
