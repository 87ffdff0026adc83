#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "bindings/owner.h"
#include "core/errors.h"
#include "core/session.h"
#include "llama/drafter.h"
#include "llama/verifier.h"

namespace dflash::bindings {

/// A session and its pair, one caller at a time, that can be closed before its contexts are freed.
class Handle {
 public:
  Handle(LlamaVerifier& verifier, LlamaDrafter* drafter, SessionOptions options,
         std::shared_ptr<Stop> stop)
      : verifier_(verifier),
        drafter_(drafter),
        owner_(Owner::of(verifier.context())),
        stop_(std::move(stop)),
        pair_(verifier, drafter),
        session_(pair_, options, stop_) {}

  /// Runs `work` on the session without the GIL, alone, after those who came before.
  template <class Work>
  auto run(Work work) {
    const Unlocked unlocked;
    const Owner::Turn turn(*owner_);
    check_open();
    const Published at_the_end(*this);
    return work(session_);
  }

  /// Between two chunks of a read: shows how far it is, and lets Ctrl-C end it.
  void progress() {
    publish();
    check_signals();
  }

  /// Reads of plain fields, which a closed session still has.
  template <class Read>
  auto read(Read read_field) {
    const Unlocked unlocked;
    const Owner::Turn turn(*owner_);
    return read_field(session_);
  }

  /// Statistics as of the last call that ended, or chunk that was read: at any time, in any thread.
  Stats last_stats() {
    const std::lock_guard<std::mutex> alone(stats_mutex_);
    return last_;
  }
  Stats total_stats() {
    const std::lock_guard<std::mutex> alone(stats_mutex_);
    return total_;
  }

  void cancel() { stop_->request(); }

  void close() {
    const Unlocked unlocked;
    closed_ = true;
    stop_->request();
    // A signal handler between two chunks of a read: that ends before it decodes again.
    if (owner_->mine()) return;
    const Owner::Turn turn(*owner_);
    stop_->clear();
  }

  bool closed() const { return closed_; }
  LlamaVerifier& verifier() const { return verifier_; }
  LlamaDrafter* drafter() const { return drafter_; }

 private:
  struct Published {
    explicit Published(Handle& h) : handle(h) {}
    ~Published() { handle.publish(); }
    Handle& handle;
  };

  void publish() {
    const std::lock_guard<std::mutex> publishing(stats_mutex_);
    last_ = session_.last_stats();
    total_ = session_.total_stats();
  }

  void check_open() const {
    if (closed_) throw BackendError("the session is closed");
  }

  LlamaVerifier& verifier_;
  LlamaDrafter* drafter_;
  std::shared_ptr<Owner> owner_;
  std::shared_ptr<Stop> stop_;
  Pair pair_;
  Session session_;
  std::mutex stats_mutex_;
  Stats last_;
  Stats total_;
  std::atomic<bool> closed_{false};
};

}  // namespace dflash::bindings
