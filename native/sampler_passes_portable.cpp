#define WINGBEAT_PASSES portable_passes
#define WINGBEAT_LEVEL "portable"
#include "sampler_passes.inl.hpp"
