#include "llama/shaping.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <memory>

#include "core/errors.h"
#include "llama/top_k.h"

namespace dflash {

namespace {

constexpr size_t kFirstAsked = 64;
constexpr size_t kMoreAsked = 4;  // times as many, the next time
// The part of a row that is worth to be asked about by itself: sorting it costs too.
constexpr size_t kPart = 4;
constexpr size_t kMostK = 1024;
constexpr Token kUnseen = -1;

constexpr float kForbidden = -std::numeric_limits<float>::infinity();

struct Free {
  void operator()(llama_sampler* sampler) const { api().llama_sampler_free(sampler); }
};

llama_token_data_array array_of(std::vector<llama_token_data>& candidates, bool sorted) {
  return {candidates.data(), candidates.size(), -1, sorted};
}

// No function gives it, but what is sorted already is cut to it.
size_t k_of(llama_sampler* top_k) {
  std::vector<llama_token_data> candidates(kMostK);
  llama_token_data_array array = array_of(candidates, /*sorted=*/true);
  api().llama_sampler_apply(top_k, &array);
  return array.size;
}

bool has_equals(const std::vector<llama_token_data>& sorted, size_t n) {
  const auto end = sorted.begin() + static_cast<std::ptrdiff_t>(std::min(n, sorted.size()));
  const auto equal = [](const llama_token_data& a, const llama_token_data& b) {
    return a.logit == b.logit;
  };
  return std::adjacent_find(sorted.begin(), end, equal) != end;
}

bool allows(llama_sampler* grammar, Token token) {
  llama_token_data candidate = {token, 0.0F, 0.0F};
  llama_token_data_array array = {&candidate, 1, -1, false};
  api().llama_sampler_apply(grammar, &array);
  return candidate.logit > kForbidden;
}

// False where a grammar that waits for its trigger finds, too late, that the text before does not
// obey it: libllama throws then.
bool accepts(llama_sampler* grammar, Token token) {
  try {
    api().llama_sampler_accept(grammar, token);
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace

bool is_chain(llama_sampler* sampler) {
  return api().llama_sampler_chain_get(sampler, -1) != nullptr;
}

std::string_view name_in(llama_sampler* chain, int32_t i) {
  llama_sampler* sampler = api().llama_sampler_chain_get(chain, i);
  return sampler->iface->name == nullptr ? "" : sampler->iface->name(sampler);
}

bool is_active(llama_sampler* chain, int32_t i) {
  return name_in(chain, i).substr(0, 1) != "?";
}

Shaping::Shaping(llama_sampler* chain, int32_t n_vocab, Wanted wanted)
    : chain_(chain),
      n_vocab_(n_vocab),
      wanted_(wanted),
      last_(is_chain(chain) ? api().llama_sampler_chain_n(chain) - 1 : -1),
      grammar_(last_) {
  for (int32_t i = 0; i < last_ && !has_grammar(); ++i) {
    if (name_in(chain, i) == "grammar") grammar_ = i;
  }
  for (int32_t i = 0; i < grammar_ && has_grammar(); ++i) before_ = before_ || is_active(chain, i);
  use_ = use_of_row();
  if (!has_grammar() && use_ != Use::top_k) use_ = Use::everything;
}

Shaping::Use Shaping::use_of_row() {
  if (last_ < 0) return Use::everything;
  after_ = has_grammar() ? grammar_ + 1 : 0;
  while (after_ < last_ && !is_active(chain_, after_)) ++after_;
  const std::string_view name = name_in(chain_, after_);
  if (name == "greedy" && after_ == last_) return Use::the_best;
  if (name == "min-p" && after_ < last_) return Use::min_p;
  if (name != "top-k" || after_ == last_) return Use::everything;
  k_ = k_of(api().llama_sampler_chain_get(chain_, after_));
  constexpr std::array<std::string_view, 3> kPrefix = {"top-p", "min-p", "temp"};
  prefix_ = name_in(chain_, last_) == "dist";
  for (int32_t i = after_ + 1; i < last_ && prefix_; ++i) {
    prefix_ = !is_active(chain_, i) ||
              std::find(kPrefix.begin(), kPrefix.end(), name_in(chain_, i)) != kPrefix.end();
  }
  return k_ < kMostK ? Use::top_k : Use::everything;
}

void Shaping::apply(llama_token_data_array& candidates, int32_t first, int32_t end) const {
  for (int32_t i = first; i < end; ++i) {
    llama_sampler* sampler = api().llama_sampler_chain_get(chain_, i);
    if (sampler->iface->apply != nullptr) api().llama_sampler_apply(sampler, &candidates);
  }
}

llama_token_data_array Shaping::row_of(const float* logits) {
  row_.resize(static_cast<size_t>(n_vocab_));
  for (int32_t id = 0; id < n_vocab_; ++id) {
    row_[static_cast<size_t>(id)] = {id, logits[id], 0.0F};
  }
  return array_of(row_, /*sorted=*/false);
}

llama_token_data_array Shaping::shape(const float* logits) {
  llama_token_data_array out = {};
  if (!has_grammar()) {
    if (use_ == Use::top_k && take_top_k(logits, out)) return out;
    out = row_of(logits);
    apply(out, 0, last_);
    return out;
  }
  const float* values = logits;
  if (before_) {
    out = row_of(logits);
    apply(out, 0, grammar_);
    values = values_of(out);
  }
  llama_token_data_array likeliest = {};
  if (values != nullptr && shape_likeliest(values, likeliest)) return likeliest;
  if (!before_) out = row_of(logits);
  apply(out, grammar_, last_);
  return out;
}

// The logits of a row whose tokens are still all there and in their places.
const float* Shaping::values_of(const llama_token_data_array& row) {
  if (row.data != row_.data() || row.size != row_.size() || row.sorted) return nullptr;
  values_.resize(row_.size());
  for (size_t i = 0; i < row_.size(); ++i) {
    if (row_[i].id != static_cast<Token>(i)) return nullptr;
    values_[i] = row_[i].logit;
  }
  return values_.data();
}

bool Shaping::take_top_k(const float* logits, llama_token_data_array& out) {
  if (k_ == 0 || k_ >= static_cast<size_t>(n_vocab_)) return false;
  found_.clear();
  for (const int32_t id : top_k(logits, n_vocab_, static_cast<int32_t>(k_) + 1)) {
    found_.push_back({id, logits[id], 0.0F});
  }
  return decide_top_k(found_.back().logit, out);
}

bool Shaping::shape_likeliest(const float* values, llama_token_data_array& out) {
  if (use_ == Use::everything) return false;
  found_.clear();
  size_t n_asked = 0;
  const auto most = static_cast<size_t>(n_vocab_) / kPart;
  for (size_t n = kFirstAsked; n <= most; n *= kMoreAsked) {
    const std::vector<int32_t> ids = top_k(values, n_vocab_, static_cast<int32_t>(n));
    ask(values, ids, n_asked);
    n_asked = n;
    if (!found_.empty() && decide(values[ids.back()], out)) return true;
  }
  return false;
}

void Shaping::ask(const float* values, const std::vector<int32_t>& ids, size_t n_asked) {
  left_.clear();
  for (size_t i = n_asked; i < ids.size(); ++i) left_.push_back({ids[i], values[ids[i]], 0.0F});
  llama_token_data_array asked = array_of(left_, /*sorted=*/false);
  apply(asked, grammar_, grammar_ + 1);
  std::copy_if(asked.data, asked.data + asked.size, std::back_inserter(found_),
               [](const llama_token_data& token) { return token.logit > kForbidden; });
}

// Whether the tokens found decide what all of the row would give; no other is likelier than
// `bound`.
bool Shaping::decide(float bound, llama_token_data_array& out) {
  switch (use_) {
    case Use::the_best:
      out = {found_.data(), 1, -1, false};
      return true;
    case Use::top_k:
      return decide_top_k(bound, out);
    case Use::min_p:
      return decide_min_p(bound, out);
    default:
      return false;
  }
}

bool Shaping::decide_top_k(float bound, llama_token_data_array& out) {
  // The order of equals comes from how libllama sorts the whole row.
  if (has_equals(found_, k_ + 1)) return false;
  if (found_.size() <= k_) return prefix_ && decide_by_bounds(bound, out);
  left_.assign(found_.begin(), found_.begin() + static_cast<std::ptrdiff_t>(k_));
  out = array_of(left_, /*sorted=*/true);
  apply(out, after_, last_);
  return true;
}

// Fewer than k are found. Samplers that keep a prefix keep no more of it when less likely tokens
// are missing, and no less when likelier ones take their places: where both come out the same, so
// does the truth. This holds for sums of floats too, rounding being monotone.
bool Shaping::decide_by_bounds(float bound, llama_token_data_array& out) {
  std::vector<llama_token_data> most = found_;
  most.resize(k_, {kUnseen, bound, 0.0F});
  llama_token_data_array with_others = array_of(most, /*sorted=*/true);
  apply(with_others, after_, last_);
  left_ = found_;
  out = array_of(left_, /*sorted=*/true);
  apply(out, after_, last_);
  const size_t n_own = std::min(with_others.size, found_.size());
  if (n_own == 0 || !(found_[n_own - 1].logit > bound)) return false;
  if (out.size == with_others.size) return true;
  return wanted_ == Wanted::choice && chooses_alike(out, with_others);
}

// A draw adds up what is likeliest until it has its share of the sum: the larger the sum, the later
// it ends. Where the least and the most that the sum can be end at one token, so does the truth.
bool Shaping::chooses_alike(llama_token_data_array& some, llama_token_data_array& more) const {
  llama_sampler* draw = api().llama_sampler_chain_get(chain_, last_);
  for (llama_token_data_array* candidates : {&some, &more}) {
    const std::unique_ptr<llama_sampler, Free> once(api().llama_sampler_clone(draw));
    api().llama_sampler_apply(once.get(), candidates);
  }
  return some.selected == more.selected;
}

// What min-p keeps depends on the likeliest token only. It leaves the order of the row.
bool Shaping::decide_min_p(float bound, llama_token_data_array& out) {
  left_ = found_;
  std::sort(left_.begin(), left_.end(),
            [](const llama_token_data& a, const llama_token_data& b) { return a.id < b.id; });
  left_.push_back({kUnseen, bound, 0.0F});
  out = array_of(left_, /*sorted=*/false);
  apply(out, after_, after_ + 1);
  if (out.sorted || out.size == 0 || out.data[out.size - 1].id == kUnseen) return false;
  apply(out, after_ + 1, last_);
  return true;
}

Token Shaping::choose(llama_token_data_array& candidates) const {
  apply(candidates, last_, last_ + 1);
  if (candidates.selected < 0 || candidates.selected >= static_cast<int64_t>(candidates.size)) {
    throw BackendError("the sampler chain chose no token");
  }
  return candidates.data[candidates.selected].id;
}

size_t Shaping::n_allowed(const std::vector<Token>& drafts,
                          const std::function<bool(Token)>& is_eog) const {
  if (!has_grammar()) return drafts.size();
  llama_sampler* grammar = api().llama_sampler_chain_get(chain_, grammar_);
  std::unique_ptr<llama_sampler, Free> clone;
  for (size_t i = 0; i < drafts.size(); ++i) {
    if (drafts[i] < 0 || drafts[i] >= n_vocab_) return drafts.size();  // decoding it will tell
    if (!allows(grammar, drafts[i])) return i;
    if (i + 1 == drafts.size() || is_eog(drafts[i])) return i + 1;
    if (clone == nullptr) clone.reset(api().llama_sampler_clone(grammar));
    grammar = clone.get();
    if (!accepts(grammar, drafts[i])) return i + 1;
  }
  return drafts.size();
}

}  // namespace dflash
