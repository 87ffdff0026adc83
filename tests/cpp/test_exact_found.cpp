// Widths whose rows are plain decoding's to the bit: how they are found.

#include <algorithm>
#include <numeric>

#include "core/plain_rows.h"
#include "rig.h"

using namespace dflash;
using namespace dflash::fakes;

namespace {

using Off = std::function<float(int32_t n, int32_t row)>;

const Off kExact = [](int32_t, int32_t) { return 0.0F; };

Off off_at(int32_t n_rows, int32_t which_row) {
  return [=](int32_t n, int32_t row) { return n == n_rows && row == which_row ? 1e-6F : 0.0F; };
}

std::vector<int32_t> up_to(int32_t width) {
  std::vector<int32_t> widths(static_cast<size_t>(width) + 1);
  std::iota(widths.begin(), widths.end(), 0);
  return widths;
}

std::vector<int32_t> without(std::vector<int32_t> widths, int32_t width) {
  widths.erase(std::remove(widths.begin(), widths.end(), width), widths.end());
  return widths;
}

/// Sees what is off in a decode of n tokens, whatever becomes of it.
class FakeWitness : public Witness {
 public:
  explicit FakeWitness(Off off = kExact) : off_(std::move(off)) {}

  void begin(int32_t n_rows) override { n_rows_ = n_rows; }
  uint64_t seen(int32_t row) const override {
    CHECK(row < n_rows_);
    return off_(n_rows_, row) == 0 ? 1 : 2;
  }

 private:
  Off off_;
  int32_t n_rows_ = 0;
};

struct Compared {
  std::optional<std::vector<int32_t>> widths;
  size_t n_left = 0;  // tokens in the memory
};

/// Plain decoding against a verifier whose rows are off; so many decodes of each at most.
Compared compare_rows(const ProbeText& text, const Off& logits, const Off& memory,
                      Memory kind = Memory::any_part, int32_t n_decodes = 1000,
                      const Off& on_the_way = kExact) {
  Law law;
  Calls calls;
  FakeVerifier::Size size;
  FakeVerifier plain(law, calls, size);
  plain.write(prompt(3));  // what others left
  size.memory = kind;
  FakeVerifier verifier(law, calls, size);
  verifier.logits_off = logits;
  verifier.memory_off = memory;
  FakeWitness sees_nothing;
  FakeWitness witness(on_the_way);
  int32_t n = 0;
  const auto keep_on = [&] { return n++ < n_decodes; };
  const auto rows = PlainRows::of({plain, sees_nothing}, text, keep_on);
  if (!rows) return {{}, plain.memory().size()};
  n = 0;
  const auto widths = rows->equal_widths({verifier, witness}, up_to(text.widest), keep_on);
  return {widths, plain.memory().size() + verifier.memory().size()};
}

const std::vector<Memory> kKinds = {Memory::any_part, Memory::last_rows};

/// All texts that are compared when a pair is loaded.
const std::vector<ProbeText> kTexts = {
    {16, 7, false, false}, {16, 7, true, true}, {257, 7, false, true}};

}  // namespace

TEST(widths_whose_rows_are_those_of_plain_decoding_are_exact) {
  for (const ProbeText& text : kTexts) {
    for (const Memory kind : kKinds) {
      const Compared found = compare_rows(text, kExact, kExact, kind);
      CHECK(found.widths.has_value());
      CHECK_EQUAL(found.widths.value_or(up_to(0)), up_to(7));
      CHECK_EQUAL(found.n_left, 0U);
    }
  }
}

TEST(a_width_is_not_exact_where_any_of_its_rows_is_off) {
  for (const ProbeText& text : kTexts) {
    for (const Memory kind : kKinds) {
      for (int32_t width = 1; width <= 7; ++width) {
        for (int32_t row = 0; row <= width; ++row) {
          const Compared found = compare_rows(text, off_at(width + 1, row), kExact, kind);
          CHECK_EQUAL(found.widths.value_or(up_to(0)), without(up_to(7), width));
          CHECK_EQUAL(found.n_left, 0U);
        }
      }
    }
  }
}

TEST(what_is_off_on_the_way_counts_even_where_the_logits_are_the_same) {
  for (const ProbeText& text : kTexts) {
    for (int32_t width = 1; width <= 7; ++width) {
      const Compared found =
          compare_rows(text, kExact, kExact, Memory::any_part, 1000, off_at(width + 1, width));
      CHECK_EQUAL(found.widths.value_or(up_to(0)), without(up_to(7), width));
    }
  }
}

TEST(what_rows_leave_in_the_memory_counts_too) {
  for (const ProbeText& text : kTexts) {
    for (int32_t width = 1; width <= 7; ++width) {
      // The first row's memory is read by the rows beside it, the last's by the row that follows.
      for (const int32_t row : {0, text.drops ? 0 : width}) {
        const Compared found = compare_rows(text, kExact, off_at(width + 1, row));
        CHECK_EQUAL(found.widths.value_or(up_to(0)), without(up_to(7), width));
      }
    }
  }
}

TEST(nothing_is_exact_where_a_row_by_itself_or_the_prompt_is_off) {
  const ProbeText text = {16, 7, false};
  for (const auto& found :
       {compare_rows(text, off_at(1, 0), kExact), compare_rows(text, kExact, off_at(16, 3))}) {
    CHECK(found.widths.has_value());
    CHECK_EQUAL(found.widths.value_or(up_to(0)), std::vector<int32_t>{});
  }
}

TEST(what_there_was_no_time_for_is_not_known) {
  for (const ProbeText& text : kTexts) {
    for (const Memory kind : kKinds) {
      for (const int32_t n_decodes : {0, 1, 9, 16}) {
        const Compared found = compare_rows(text, kExact, kExact, kind, n_decodes);
        CHECK(!found.widths.has_value());
        CHECK_EQUAL(found.n_left, 0U);
      }
    }
  }
}
