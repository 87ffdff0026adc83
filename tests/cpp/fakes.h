#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/models.h"

// Scripted models. The verifier's next token is a function of everything in its memory, so a wrong
// memory gives a wrong text; the drafter knows it only through the features that were injected, so
// wrong features give wrong drafts.

namespace dflash::fakes {

/// What a fake was told to throw.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Counts the calls into all fakes of a rig, and lets those throw that it was told to.
class Calls {
 public:
  enum class How { before, halfway };  ///< before it did anything, or with half its work done

  /// The k-th call from here on throws, and the n - 1 calls after it.
  void fail(int32_t k, How how, int32_t n = 1);
  void heal() { fail(0, How::before, 0); }
  enum class Kind { work, trim };
  /// A call: throws, or gives true when it has to fail halfway.
  bool next(Kind kind = Kind::work);
  /// Ends a call that has to fail halfway.
  [[noreturn]] static void fail_now() { throw Failure("told to fail halfway"); }
  /// Whether a call threw since fail().
  bool failed() const { return count_ >= first_ && n_ > 0; }
  /// Calls of trim() so far.
  int32_t n_trims() const { return n_trims_; }
  /// Whether the call that threw last was a trim().
  bool failed_in_trim() const { return failed_in_trim_; }

 private:
  int32_t count_ = 0;
  int32_t first_ = 0;
  int32_t n_ = 0;
  How how_ = How::before;
  bool failed_in_trim_ = false;
  int32_t n_trims_ = 0;
};

/// The law that the verifier's tokens obey.
class Law {
 public:
  static constexpr Token kEog = 0;
  static constexpr Token kVocab = 23;
  static constexpr uint32_t kNothing = 1;  ///< the hash of an empty prefix

  /// The hash of a prefix and one more token: 24 bits, exact in a float.
  static uint32_t after(uint32_t prefix, Token token);
  static uint32_t hash(const std::vector<Token>& tokens);
  /// The token at `pos` after a prefix.
  Token next(uint32_t prefix, int32_t pos) const;
  /// What plain decoding emits after `prompt`: up to n tokens, the end of generation or the end of
  /// a context of n_ctx. Every `noise`-th one is off, as FakeSampler's.
  std::vector<Token> text(std::vector<Token> prompt, int32_t n, int32_t n_ctx = 1 << 20,
                          int32_t noise = 0) const;

  /// Tokens that stand at a position whatever comes before.
  std::map<int32_t, Token> fixed;
};

/// What a memory can drop.
enum class Memory {
  any_part,        ///< like a cache of keys and values
  last_rows,       ///< like a recurrent state with snapshots: rows of the last decode but its first
  all_or_nothing,  ///< like a recurrent state
};

class FakeVerifier : public Verifier {
 public:
  struct Size {
    int32_t n_ctx = 4096;
    int32_t n_batch = 512;
    int32_t max_rows = 64;
    Memory memory = Memory::any_part;
    bool aborts = false;  ///< a decode that is running ends when it is to stop
  };
  static constexpr int32_t kFeatures = 3;  ///< token, position, hash of the prefix up to it

  FakeVerifier(const Law& law, Calls& calls, Size size) : law_(law), calls_(calls), size_(size) {}

  int32_t n_ctx() const override { return size_.n_ctx; }
  int32_t n_batch() const override { return size_.n_batch; }
  int32_t max_rows() const override { return size_.max_rows; }
  int32_t n_vocab() const override { return Law::kVocab; }
  int32_t n_features() const override { return kFeatures; }
  void tap(bool on) override { tapped = on; }
  void decode(const Token* tokens, int32_t n, int32_t pos, Rows rows) override;
  void features(int32_t first, int32_t n, float* out) override;
  const float* logits(int32_t row) const override;
  int32_t n_held() const override { return static_cast<int32_t>(memory_.size()); }
  bool trim(int32_t pos) override;
  bool can_trim(int32_t pos) const override;
  bool trims_once() const override { return size_.memory == Memory::last_rows; }
  void watch(const Stop& stop) override { stop_ = &stop; }
  bool is_eog(Token token) const override { return token == Law::kEog; }

  /// The most likely token of a row of the last decode; -1 is the last one.
  Token best(int32_t row) const;
  const std::vector<Token>& memory() const { return memory_; }
  /// Puts tokens there behind the session's back.
  void write(const std::vector<Token>& tokens);

  bool tapped = true;            ///< decodes give features
  int32_t n_gathered = 0;        ///< rows of features that were asked for
  int32_t n_decoded = 0;         ///< tokens decoded so far
  std::vector<int32_t> decodes;  ///< sizes of all decodes
  /// By how much a row of a decode of n tokens is off: its logits, and what it leaves in the
  /// memory.
  std::function<float(int32_t n, int32_t row)> logits_off = [](int32_t, int32_t) { return 0.0F; };
  std::function<float(int32_t n, int32_t row)> memory_off = logits_off;
  std::function<void()> while_decoding;  ///< something that happens meanwhile

 private:
  void append(Token token, float off = 0);
  std::vector<float> row_of(float off) const;

  const Law& law_;
  Calls& calls_;
  Size size_;
  std::vector<Token> memory_;
  std::vector<uint32_t> hashes_;            // of the prefixes that end at each position
  std::vector<float> off_;                  // of the memory up to each position
  std::vector<std::vector<float>> logits_;  // of the rows of the last decode
  std::vector<Token> best_;                 // of the rows of the last decode; kEog - 1: no logits
  int32_t first_row_ = 0;                   // position of the last decode
  bool dropped_ = true;                     // since the last decode
  const Stop* stop_ = nullptr;
  bool has_features_ = false;  // of the last decode
};

class FakeDrafter : public Drafter {
 public:
  /// Whether draft `i` of the block whose anchor stands at `pos` is right.
  using Right = std::function<bool(int32_t pos, int32_t i)>;
  struct Row {
    Token token;
    int32_t pos;
    uint32_t hash;
  };

  FakeDrafter(const Law& law, Calls& calls, int32_t block_size, Right right)
      : law_(law), calls_(calls), block_size_(block_size), right_(std::move(right)) {}

  int32_t n_features() const override { return n_features_wanted; }
  int32_t max_width() const override { return block_size_ - 1; }
  int32_t max_inject() const override { return max_inject_wanted; }
  int32_t n_ctx() const override { return n_ctx_wanted; }
  void inject(const float* features, int32_t n, int32_t pos) override;
  void draft(Token anchor, int32_t pos, int32_t width, Draft& out) override;
  void trim(int32_t pos) override;
  void forget(int32_t pos) override;
  void wait() override;
  std::string save() override;
  void load(std::string_view state) override;

  const std::vector<Row>& memory() const { return memory_; }

  int32_t n_features_wanted = FakeVerifier::kFeatures;
  int32_t max_inject_wanted = 5;
  int32_t n_ctx_wanted = 4096;
  int32_t n_injected = 0;                                ///< rows taken in so far
  int32_t n_unwaited = 0;                                ///< of them, rows that were not waited for
  int32_t n_waits = 0;                                   ///< calls of wait()
  int32_t n_drafts = 0;                                  ///< calls of draft()
  std::function<void(const FakeDrafter&)> before_draft;  ///< something that happens then
  std::function<void()> while_waiting;                   ///< and meanwhile
  std::vector<int32_t> widths;                           ///< what they were asked for

 private:
  const Law& law_;
  Calls& calls_;
  int32_t block_size_;
  Right right_;
  std::vector<Row> memory_;
};

/// Takes the most likely token, or with `noise` every so many calls another one.
class FakeSampler : public Sampler {
 public:
  FakeSampler(const FakeVerifier& verifier, Calls& calls, int32_t noise = 0)
      : verifier_(verifier), calls_(calls), noise_(noise) {}
  size_t n_possible(const std::vector<Token>& drafts) const override {
    return std::min(drafts.size(), most_possible);
  }
  Token sample(int32_t row) override;

  /// The n-th token sampled, where `best` is the most likely one.
  static Token choose(Token best, int32_t n, int32_t noise);

  std::vector<Token> sampled;
  size_t most_possible = std::numeric_limits<size_t>::max();  ///< drafts that it does not forbid

 private:
  const FakeVerifier& verifier_;
  Calls& calls_;
  int32_t noise_;
};

}  // namespace dflash::fakes
