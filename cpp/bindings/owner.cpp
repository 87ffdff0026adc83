#include "bindings/owner.h"

#include <map>

#include "core/errors.h"

namespace dflash::bindings {

std::shared_ptr<Owner> Owner::of(const llama_context* context) {
  // Neither is ever destroyed: threads may still come here while the process ends.
  static auto& mutex = *new std::mutex;
  static auto& owners = *new std::map<const llama_context*, std::weak_ptr<Owner>>;
  const std::lock_guard<std::mutex> alone(mutex);
  for (auto it = owners.begin(); it != owners.end();) {
    it = it->second.expired() ? owners.erase(it) : std::next(it);
  }
  auto owner = owners[context].lock();
  if (!owner) owners[context] = owner = std::make_shared<Owner>();
  return owner;
}

Owner::Turn::Turn(Owner& owner) : owner_(owner) {
  if (owner.mine()) {
    throw BackendError(
        "the context is at work in this very thread, in the call that was interrupted: one call "
        "at a time");
  }
  std::unique_lock<std::mutex> lock(owner.mutex_);
  const uint64_t ticket = owner.next_ticket_++;
  owner.changed_.wait(lock, [&] { return owner.serving_ == ticket; });
  owner.worker_ = std::this_thread::get_id();
}

Owner::Turn::~Turn() {
  const std::lock_guard<std::mutex> lock(owner_.mutex_);
  owner_.worker_ = std::thread::id();
  ++owner_.serving_;
  owner_.changed_.notify_all();
}

}  // namespace dflash::bindings
