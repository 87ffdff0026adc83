#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "core/models.h"
#include "llama/api.h"

namespace dflash {

/// Whether it is a chain, which llama_sampler_chain_n does not ask.
bool is_chain(llama_sampler* sampler);

/// The name of the i-th sampler of a chain; samplers made in Python have none.
std::string_view name_in(llama_sampler* chain, int32_t i);

/// Whether the i-th sampler of a chain can change anything: names of others begin with a question
/// mark.
bool is_active(llama_sampler* chain, int32_t i);

/// The samplers of a chain before the last, and what they leave of a row of logits.
///
/// Top-k is quicker found than sorted out of a copy of the row, which is what libllama does.
///
/// A grammar is slow: it is asked about the likeliest tokens first, and about no more of them than
/// the samplers after it can use. What the last sampler gets to see is the same, in the same order,
/// as if the grammar had been asked about the whole row; where only its choice is wanted, that is.
class Shaping {
 public:
  enum class Wanted { distribution, choice };

  Shaping(llama_sampler* chain, int32_t n_vocab, Wanted wanted);

  bool has_grammar() const { return grammar_ < last_; }
  /// Whether the whole row need not be gone through, as far as can be known before it is there.
  bool is_quick() const { return use_ != Use::everything; }

  /// What is left of a row, [n_vocab]; valid until the next call.
  llama_token_data_array shape(const float* logits);
  /// The last sampler's choice among them.
  Token choose(llama_token_data_array& candidates) const;

  /// How many of the drafts the grammar lets follow the text, up to the first that it forbids.
  size_t n_allowed(const std::vector<Token>& drafts,
                   const std::function<bool(Token)>& is_eog) const;

 private:
  /// What the samplers after the grammar make of a row's end decides how many must be asked about.
  /// Without a grammar only top-k is of use.
  enum class Use { everything, the_best, top_k, min_p };

  Use use_of_row();
  void apply(llama_token_data_array& candidates, int32_t first, int32_t end) const;
  llama_token_data_array row_of(const float* logits);
  const float* values_of(const llama_token_data_array& row);
  bool shape_likeliest(const float* values, llama_token_data_array& out);
  bool take_top_k(const float* logits, llama_token_data_array& out);
  void ask(const float* values, const std::vector<int32_t>& ids, size_t n_asked);
  bool decide(float bound, llama_token_data_array& out);
  bool decide_top_k(float bound, llama_token_data_array& out);
  bool decide_by_bounds(float bound, llama_token_data_array& out);
  bool decide_min_p(float bound, llama_token_data_array& out);
  bool chooses_alike(llama_token_data_array& some, llama_token_data_array& more) const;

  llama_sampler* chain_;
  int32_t n_vocab_;
  Wanted wanted_;
  int32_t last_;       ///< the sampler that chooses
  int32_t grammar_;    ///< last_ where there is none
  int32_t after_ = 0;  ///< the first sampler that does anything, after the grammar if there is one
  size_t k_ = 0;       ///< of that one, where it is top-k
  bool prefix_ = false;  ///< all that follow top-k keep a prefix of what is sorted
  bool before_ = false;  ///< a sampler before the grammar changes the row
  Use use_ = Use::everything;
  std::vector<llama_token_data> row_;    // all of it
  std::vector<float> values_;            // its logits after the samplers before the grammar
  std::vector<llama_token_data> found_;  // tokens that the grammar allows, the likeliest first
  std::vector<llama_token_data> left_;   // what later samplers leave of them
};

}  // namespace dflash
