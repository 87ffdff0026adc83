#include "llama/answers.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "core/errors.h"
#include "llama/backend.h"
#include "llama/sampler.h"
#include "llama/top_k.h"

namespace dflash {

Answers::Answers(llama_context* context, int32_t n_slots)
    : context_(context),
      memory_(api().llama_get_memory(context)),
      vocab_(api().llama_model_get_vocab(api().llama_get_model(context))),
      slots_(static_cast<size_t>(n_slots)),
      n_batch_(static_cast<int32_t>(api().llama_n_batch(context))),
      n_ctx_slot_(static_cast<int32_t>(api().llama_n_ctx_seq(context))),
      n_vocab_(api().llama_vocab_n_tokens(vocab_)) {
  if (memory_ == nullptr) {
    throw std::invalid_argument("the context has no memory: it cannot generate");
  }
  if (n_slots < 1 || n_slots > static_cast<int32_t>(api().llama_n_seq_max(context))) {
    throw std::invalid_argument("as many slots as the context has sequences, at least 1");
  }
  if (n_slots > n_batch_) throw std::invalid_argument("n_batch must hold a token of every slot");
}

const Answers::Slot& Answers::at(int32_t slot) const {
  if (slot < 0 || slot >= static_cast<int32_t>(slots_.size())) {
    throw std::invalid_argument("there is no slot " + std::to_string(slot));
  }
  return slots_[static_cast<size_t>(slot)];
}

void Answers::start(int32_t slot, std::vector<Token> prompt, int32_t max_tokens,
                    llama_sampler* sampler, int32_t top_k) {
  if (at(slot).active) throw std::invalid_argument("the slot is in use");
  if (prompt.empty() || max_tokens < 1) {
    throw std::invalid_argument("an answer needs a prompt, and room for a token");
  }
  if (sampler != nullptr && top_k < 1) {
    throw std::invalid_argument("top_k must be at least 1: there is nothing to choose from");
  }
  for (const Token token : prompt) {
    // libllama indexes its embedding table without looking.
    if (token < 0 || token >= n_vocab_)
      throw std::invalid_argument("a token of the prompt is not in the vocabulary");
  }
  if (static_cast<int32_t>(prompt.size()) > std::min(n_batch_, n_ctx_slot_)) {
    throw ContextError("a prompt of " + std::to_string(prompt.size()) +
                       " tokens; there is room for " +
                       std::to_string(std::min(n_batch_, n_ctx_slot_)));
  }
  Slot fresh;
  fresh.active = true;
  fresh.prompt = std::move(prompt);
  fresh.max_tokens = max_tokens;
  fresh.sampler = sampler;
  fresh.top_k = std::min(top_k, n_vocab_);
  slots_[static_cast<size_t>(slot)] = std::move(fresh);
}

std::vector<int32_t> Answers::run(int32_t n_steps) {
  std::vector<int32_t> done;
  for (int32_t step = 0; step < n_steps && done.empty(); ++step) {
    read_prompts();
    write_tokens();
    for (size_t slot = 0; slot < slots_.size(); ++slot) {
      if (slots_[slot].active && slots_[slot].done) done.push_back(static_cast<int32_t>(slot));
    }
  }
  return done;
}

void Answers::free(int32_t slot) {
  at(slot);
  slots_[static_cast<size_t>(slot)] = {};
  api().llama_memory_seq_rm(memory_, slot, -1, -1);
}

// Prompts are read whole, as many in one decode as it takes; their last rows give first tokens.
void Answers::read_prompts() {
  size_t next = 0;
  while (next < slots_.size()) {
    std::vector<int32_t> read;
    for (; next < slots_.size(); ++next) {
      const Slot& slot = slots_[next];
      if (!slot.reads()) continue;
      if (tokens_.size() + slot.prompt.size() > static_cast<size_t>(n_batch_)) break;
      for (size_t i = 0; i < slot.prompt.size(); ++i) {
        add(static_cast<int32_t>(next), slot.prompt[i], static_cast<int32_t>(i),
            i + 1 == slot.prompt.size());
      }
      read.push_back(static_cast<int32_t>(next));
    }
    if (read.empty()) return;
    decode();
    int32_t row = -1;
    for (const int32_t slot : read) {
      Slot& own = slots_[static_cast<size_t>(slot)];
      own.n_read = static_cast<int32_t>(own.prompt.size());
      row += own.n_read;
      sample(slot, row);
    }
  }
}

void Answers::write_tokens() {
  std::vector<int32_t> written;
  for (size_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[i];
    if (!slot.writes()) continue;
    add(static_cast<int32_t>(i), slot.answer.back(), slot.n_past() - 1, true);
    written.push_back(static_cast<int32_t>(i));
  }
  if (written.empty()) return;
  decode();
  for (size_t row = 0; row < written.size(); ++row) sample(written[row], static_cast<int32_t>(row));
}

void Answers::add(int32_t slot, Token token, int32_t pos, bool row) {
  tokens_.push_back(token);
  positions_.push_back(pos);
  ids_.push_back(slot);
  rows_.push_back(row ? 1 : 0);
}

void Answers::decode() {
  const auto n = tokens_.size();
  ones_.assign(n, 1);
  sequences_.clear();
  for (size_t i = 0; i < n; ++i) sequences_.push_back(&ids_[i]);
  const llama_batch batch = {
      static_cast<int32_t>(n), tokens_.data(), nullptr, positions_.data(), ones_.data(),
      sequences_.data(),       rows_.data()};
  const int code = timed(backend_seconds_, [&] { return api().llama_decode(context_, batch); });
  tokens_.clear();
  positions_.clear();
  ids_.clear();
  rows_.clear();
  check_decode(code, "verifier");
}

void Answers::sample(int32_t slot, int32_t row) {
  Slot& own = slots_[static_cast<size_t>(slot)];
  const float* logits = api().llama_get_logits_ith(context_, row);
  if (logits == nullptr) throw BackendError("libllama gave no logits");
  own.answer.push_back(own.sampler == nullptr ? argmax(logits, n_vocab_) : draw(own, logits));
  const bool full = own.n_past() >= n_ctx_slot_;
  const bool enough = static_cast<int32_t>(own.answer.size()) >= own.max_tokens;
  own.done = full || enough || api().llama_vocab_is_eog(vocab_, own.answer.back());
}

// libllama's own top-k sampler would sort a copy of the whole row.
Token Answers::draw(const Slot& slot, const float* logits) {
  candidates_.clear();
  for (const int32_t id : top_k(logits, n_vocab_, slot.top_k)) {
    candidates_.push_back({id, logits[id], 0.0F});
  }
  llama_token_data_array candidates = {candidates_.data(), candidates_.size(), -1, true};
  api().llama_sampler_apply(slot.sampler, &candidates);
  if (candidates.selected < 0 || candidates.selected >= static_cast<int64_t>(candidates.size)) {
    throw BackendError("the sampler chose no token: its chain must end in one that does");
  }
  const Token token = candidates.data[candidates.selected].id;
  api().llama_sampler_accept(slot.sampler, token);
  return token;
}

}  // namespace dflash
