#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "core/pair.h"
#include "core/stats.h"

namespace dflash {

/// A drafter's memory as it was saved.
struct SavedFeatures {
  int32_t n_forgotten = 0;
  std::string_view memory;

  /// Throws BackendError where `state`, which has to outlive it, is damaged.
  static SavedFeatures parse(std::string_view state);
};

/// The drafter's side of a timeline: the features of its first end() positions, but for the oldest
/// n_forgotten(). Those of the first n_injected() are in the drafter's memory, the others wait here
/// until a block is drafted, so that plain decoding costs nothing more.
///
/// The oldest are dropped where the drafter has no room for them; and, with the drafter's whole
/// memory, where too many wait and drafting has not paid for long.
///
/// Without a drafter there are none, and all calls do nothing.
class Features {
 public:
  /// `most_bytes` of features may wait. Pair and account must outlive it.
  Features(Pair& pair, size_t most_bytes, Account& account);

  int32_t end() const { return end_; }
  int32_t n_forgotten() const { return n_forgotten_; }
  int32_t n_injected() const { return drafter_ == nullptr ? 0 : end_ - n_waiting(); }
  /// Whether some are lacking of tokens before `n_past`.
  bool missing(int32_t n_past) const { return drafter_ != nullptr && end_ < n_past; }
  /// Rows that a block drafted now would have to take in before, by themselves: more than it adds.
  int32_t n_behind() const;

  /// Whether the next decode gives features.
  void tap(bool on);
  /// Takes those of the first `n` rows of the last decode, which stand at end(). `n_expected`:
  /// tokens of the prompt that is being read, of whose beginning the drafter may see nothing.
  void take(int32_t n, int32_t n_expected);
  /// The drafter takes in what waits.
  void inject();
  /// The same where it is more than a block adds; tells what that took.
  void catch_up(Costs& costs);
  /// Tokens were emitted by a step that drafted a block which promised to pay, or did not.
  void stepped(int32_t n_emitted, bool promised);

  /// Of a prompt of so many tokens the first position that the drafter could see but was not told
  /// of, since the tap was off. Asked once: it is going to be read again.
  int32_t take_untold(int32_t n_prompt);

  /// Keeps those of the first `n` positions here; the drafter's memory follows in trim().
  void keep(int32_t n);
  /// Keeps those of the first `n` positions, in the drafter's memory too.
  void trim(int32_t n);

  /// The drafter's memory as bytes; nothing may wait.
  std::string save() const;
  /// Forgets all, here only: load() follows.
  void clear();
  /// The first `n` positions of what was saved.
  void load(const SavedFeatures& saved, int32_t n);

 private:
  static constexpr int32_t kNowhere = std::numeric_limits<int32_t>::max();

  int32_t n_waiting() const { return static_cast<int32_t>(waiting_.size() / row_); }
  int32_t n_unneeded(int32_t n, int32_t n_expected) const;
  bool idle() const;
  void gather(int32_t row, int32_t n);
  void make_room();
  void fit_drafter();
  void forget(int32_t n);

  Verifier& verifier_;
  Drafter* drafter_;
  Account& account_;
  size_t row_;            // floats
  int32_t most_waiting_;  // rows
  int32_t end_ = 0;
  int32_t n_forgotten_ = 0;
  int32_t untold_from_ = kNowhere;  // position from which on the tap was off
  int32_t tokens_idle_ = 0;         // emitted since a block was drafted that promised to pay
  bool tapped_ = false;             // the last decode gave features
  std::vector<float> waiting_;      // [rows, row_]
};

}  // namespace dflash
