// Which kernels this machine can run.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace wingbeat {

// Best first.
std::vector<const KernelTable*> executable_kernels();
// The levels that were compiled, whether this machine can run them or not; best first.
std::vector<std::string> built_levels();
// Throws std::invalid_argument, naming the choices, when the machine cannot run `name`. "" takes the best.
const KernelTable& kernels_by_name(const std::string& name);

}  // namespace wingbeat
