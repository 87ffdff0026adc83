#pragma once

#include <stdexcept>

namespace dflash {

/// No room: the tokens exceed the context or the batch.
struct ContextError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A call into libllama failed.
struct BackendError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The caller cancelled between two chunks of work.
struct Cancelled : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace dflash
