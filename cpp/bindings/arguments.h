#pragma once

#include <vector>

#include "bindings/bindings.h"
#include "core/models.h"
#include "llama/api.h"

namespace dflash::bindings {

/// Token ids from a list or an array of integers; nothing is rounded or cut to fit.
std::vector<Token> to_vector(const py::object& tokens);

/// A llama_sampler from None (greedy), an address, or llama_cpp's LlamaSampler.
llama_sampler* sampler_address(const py::object& sampler);

}  // namespace dflash::bindings
