#define WINGBEAT_PASSES avx512_passes
#define WINGBEAT_LEVEL "avx512"
#include "sampler_passes.inl.hpp"
