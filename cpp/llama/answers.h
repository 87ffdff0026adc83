#pragma once

#include <vector>

#include "core/models.h"
#include "llama/api.h"

namespace dflash {

/// Answers many prompts at once, each in a sequence of one context: one decode gives a token to
/// all of them. Plain decoding; what it writes is what a drafter is trained on.
class Answers {
 public:
  /// `context` must outlive it and have n_seq_max >= n_slots.
  Answers(llama_context* context, int32_t n_slots);

  /// Begins an answer in a slot that is free. `sampler` is a llama_sampler chain of the caller's,
  /// which belongs to this slot until it is free again; it chooses among the `top_k` most likely
  /// tokens. Null takes the most likely one.
  void start(int32_t slot, std::vector<Token> prompt, int32_t max_tokens, llama_sampler* sampler,
             int32_t top_k);

  /// Decodes up to `n_steps` times, or until an answer is complete: with an end of generation,
  /// `max_tokens`, or no room in its sequence. Gives the slots of those that are.
  std::vector<int32_t> run(int32_t n_steps);

  /// The tokens of a slot's answer so far.
  const std::vector<Token>& answer(int32_t slot) const { return at(slot).answer; }
  /// Frees a slot, its memory included.
  void free(int32_t slot);
  const llama_context* context() const { return context_; }
  /// Seconds spent inside llama_decode so far.
  double backend_seconds() const { return backend_seconds_; }

 private:
  struct Slot {
    bool active = false;
    bool done = false;
    std::vector<Token> prompt;
    std::vector<Token> answer;
    int32_t n_read = 0;  // of the prompt
    int32_t max_tokens = 0;
    llama_sampler* sampler = nullptr;
    int32_t top_k = 0;

    bool reads() const { return active && !done && n_read < static_cast<int32_t>(prompt.size()); }
    bool writes() const { return active && !done && !reads(); }
    int32_t n_past() const { return n_read + static_cast<int32_t>(answer.size()); }
  };

  const Slot& at(int32_t slot) const;
  void read_prompts();
  void write_tokens();
  void add(int32_t slot, Token token, int32_t pos, bool row);
  void decode();
  void sample(int32_t slot, int32_t row);
  Token draw(const Slot& slot, const float* logits);

  llama_context* context_;
  llama_memory_i* memory_;
  const llama_vocab* vocab_;
  std::vector<Slot> slots_;
  int32_t n_batch_;
  int32_t n_ctx_slot_;  // positions of a sequence
  int32_t n_vocab_;
  double backend_seconds_ = 0;

  // The batch in the making.
  std::vector<llama_token> tokens_;
  std::vector<llama_pos> positions_;
  std::vector<llama_seq_id> ids_;
  std::vector<llama_seq_id*> sequences_;
  std::vector<int32_t> ones_;
  std::vector<int8_t> rows_;

  std::vector<llama_token_data> candidates_;
};

}  // namespace dflash
