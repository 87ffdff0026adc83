#pragma once

#include "bindings/handle.h"

namespace dflash::bindings {

/// What a session learned of its pair and of its drafts, as Python keeps it.
void register_learned(py::class_<Handle>& session);

}  // namespace dflash::bindings
