// What decodes cost: what is believed of it, and what a calibration tells.
#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <vector>

#include "checks.h"
#include "core/calibration.h"
#include "core/costs.h"

using namespace dflash;

TEST(a_cost_is_what_was_seen_whatever_disturbed_it) {
  Costs costs(2);
  for (int32_t i = 0; i < 400; ++i) costs.verified(1, i % 10 == 0 ? 1.0 : 0.010);
  CHECK(std::abs(costs.verify(1) - 0.010) < 0.0015);
}

TEST(widths_that_are_not_used_follow_the_speed_of_those_that_are) {
  Costs costs(3);
  for (int32_t i = 0; i < 10; ++i) {
    costs.verified(0, 0.010);
    costs.verified(3, 0.020);
    costs.drafted(3, 0.005);
  }
  for (int32_t i = 0; i < 200; ++i) costs.verified(0, 0.030);
  CHECK(std::abs(costs.verify(0) - 0.030) < 0.003);
  CHECK(costs.verify(3) / costs.verify(0) > 1.5);
  CHECK(costs.draft(3) / costs.verify(0) > 0.35);
}

TEST(widths_never_seen_lie_between_their_neighbours) {
  Costs costs(7);
  CHECK(costs.verify(3) == 0);
  costs.verified(0, 0.010);
  CHECK(costs.verify(3) > 0.010);
  costs.verified(6, 0.022);
  CHECK(costs.verify(3) > 0.012 && costs.verify(3) < 0.016);
  CHECK(costs.draft(0) == 0);
}

TEST(what_was_learned_can_be_given_back) {
  Costs first(2);
  for (int32_t i = 0; i < 20; ++i) {
    first.verified(0, 0.010);
    first.verified(2, 0.030);
    first.drafted(2, 0.004);
  }
  Costs second(2);
  second.restore({first.known()});
  CHECK(std::abs(second.verify(0) - first.verify(0)) < 1e-9);
  CHECK(std::abs(second.verify(1) - first.verify(1)) < 1e-9);
  CHECK(std::abs(second.draft(2) - first.draft(2)) < 1e-9);
  CHECK_THROWS(std::invalid_argument, Costs(3).restore({first.known()}));
}

TEST(one_look_that_is_far_too_long_moves_nothing_and_a_second_does) {
  Costs costs(3);
  for (int32_t i = 0; i < 20; ++i) {
    costs.verified(0, 0.010);
    costs.verified(3, 0.020);
  }
  costs.verified(3, 0.200);
  CHECK(std::abs(costs.verify(3) - 0.020) < 1e-3);
  CHECK(std::abs(costs.verify(0) - 0.010) < 1e-3);
  for (int32_t i = 0; i < 4; ++i) costs.verified(3, 0.035);
  CHECK(costs.verify(3) > 0.030);
}

// What happened to one width alone is found out by a plain step.
TEST(a_width_that_became_dearer_does_not_make_plain_decoding_dearer) {
  Costs costs(3);
  for (int32_t i = 0; i < 40; ++i) costs.verified(i % 2 == 0 ? 0 : 3, i % 2 == 0 ? 0.010 : 0.012);
  for (int32_t i = 0; i < 30; ++i) costs.verified(3, 0.030);
  CHECK(costs.verify_doubt(3) > 0.1);
  costs.verified(0, 0.010);
  CHECK(costs.verify(0) < 0.0115);
  for (int32_t i = 0; i < 4; ++i) {
    costs.verified(3, 0.030);
    costs.verified(0, 0.010);
  }
  CHECK(std::abs(costs.verify(0) - 0.010) < 0.001);
  CHECK(std::abs(costs.verify(3) - 0.030) < 0.003);
  CHECK(costs.verify_doubt(3) < 0.1);
}

TEST(no_rows_cost_less_than_one_or_more_than_each_by_itself) {
  Costs costs(3);
  costs.verified(0, 0.010);
  for (int32_t i = 0; i < 20; ++i) {
    costs.verified(1, 0.0046);
    costs.verified(3, 14.9);
    costs.verified(0, 0.010);
  }
  CHECK_EQUAL(costs.verify(1), costs.verify(0));
  CHECK(costs.verify(3) <= 5.001 * costs.verify(0));
}

TEST(what_a_change_of_width_takes_is_no_part_of_what_widths_cost) {
  Costs costs(3);
  auto decode = [&, before = 0](int32_t width) mutable {
    const double seconds = width == 0 ? 0.010 : 0.015;
    costs.verified(width, width == before ? seconds : 1.2 * seconds);
    before = width;
  };
  for (int32_t i = 0; i < 300; ++i) decode(i % 6 < 3 ? 0 : 3);
  CHECK(std::abs(costs.change() - 0.2) < 0.05);
  CHECK(std::abs(costs.verify(0) - 0.010) < 0.0005);
  CHECK(std::abs(costs.verify(3) - 0.015) < 0.0008);
}

TEST(costs_of_a_long_context_are_kept_apart_from_those_of_a_short_one) {
  Costs costs(3);
  const auto decode = [&](int64_t n_past, double rows) {
    costs.enter(n_past);
    for (int32_t i = 0; i < 20; ++i) {
      costs.verified(0, 0.010);
      costs.verified(3, rows);
    }
  };
  decode(100, 0.013);
  costs.enter(6000);
  CHECK(!costs.knows_plain());
  CHECK(costs.verify_doubt(3) > 0.2);
  CHECK(std::abs(costs.verify(3) - 0.013) < 0.001);  // until something else is seen
  decode(6000, 0.046);
  CHECK(std::abs(costs.verify(3) - 0.046) < 0.003);
  costs.enter(100);
  CHECK(std::abs(costs.verify(3) / costs.verify(0) - 1.3) < 0.1);
  costs.enter(6000);
  CHECK(std::abs(costs.verify(3) / costs.verify(0) - 4.6) < 0.3);
}

TEST(what_was_learned_of_a_long_context_is_given_back_beside_that_of_a_short_one) {
  const auto ratio = [](const Costs& costs) { return costs.verify(3) / costs.verify(0); };
  Costs first(3);
  for (const int64_t n_past : {100, 6000}) {
    first.enter(n_past);
    for (int32_t i = 0; i < 20; ++i) {
      first.verified(0, 0.010);
      first.verified(3, n_past < 1000 ? 0.013 : 0.046);
    }
  }
  Costs second(3);
  second.restore(first.all_known());
  CHECK(std::abs(ratio(second) - 1.3) < 0.1);
  second.enter(6000);
  CHECK(second.knows_plain());
  CHECK(std::abs(ratio(second) - 4.6) < 0.3);
  CHECK(second.verify_doubt(3) > 0.3);
  second.enter(3000);  // begins with the nearest, and more doubt
  CHECK(!second.knows_plain());
  CHECK(std::abs(ratio(second) - 4.6) < 0.3);
  second.enter(100);
  CHECK(std::abs(ratio(second) - 1.3) < 0.1);
}

TEST(what_is_kept_has_no_context_of_which_nothing_was_seen) {
  Costs costs(3);
  CHECK(costs.all_known().empty());
  costs.verified(0, 0.010);
  costs.enter(2000);
  costs.enter(9000);
  costs.verified(0, 0.010);
  const std::vector<KnownCosts> all = costs.all_known();
  CHECK_EQUAL(all.size(), 2U);
  CHECK_EQUAL(all.front().n_context, 0);
  CHECK_EQUAL(all.back().n_context, 8192);
  // One that began in a long context knows nothing of short ones but what that says.
  Costs later(3);
  later.restore({all.back()});
  CHECK(later.knows_plain());
  later.enter(0);
  CHECK(!later.knows_plain());
  CHECK(std::abs(later.verify(0) - 0.010) < 1e-3);
}

TEST(what_is_given_back_comes_with_doubt) {
  Costs first(3);
  for (int32_t i = 0; i < 100; ++i) {
    for (const int32_t width : {0, 1, 2, 3}) first.verified(width, 0.010 + 0.004 * width);
  }
  CHECK(first.verify_doubt(3) < 0.1);
  Costs second(3);
  second.restore({first.known()});
  CHECK(second.verify_doubt(3) > 0.3);
  // The machine may be another: what is seen of one width is seen of all.
  second.verified(0, 0.030);
  CHECK(std::abs(second.verify(3) / second.verify(0) - 2.2) < 0.1);
}

TEST(rows_that_the_drafter_has_to_take_in_cost_what_others_did) {
  Costs costs(3);
  costs.verified(0, 0.010);
  costs.caught_up(100, 0.020);
  CHECK(std::abs(costs.catch_up(50) - 0.010) < 0.001);
  costs.caught_up(100, 2.0);  // it was held up
  CHECK(costs.catch_up(50) < 0.015);
}

// ---- calibration ---------------------------------------------------------------------------

namespace {

/// Decodes of widths 0 to 3 as long as there is time; gives the widths in their order.
std::vector<int32_t> calibrated(Calibration& calibration,
                                const std::function<double(size_t, int32_t)>& seconds) {
  std::vector<int32_t> widths;
  while (const std::optional<int32_t> width = calibration.next()) {
    calibration.took(seconds(widths.size(), *width), 0.002);
    widths.push_back(*width);
  }
  return widths;
}

}  // namespace

TEST(one_slow_decode_does_not_eat_the_time_of_a_calibration) {
  Calibration calibration(3, 1.0);
  const auto widths =
      calibrated(calibration, [](size_t i, int32_t) { return i == 0 ? 2.0 : 0.02; });
  for (const int32_t width : {0, 1, 2, 3})
    CHECK(std::count(widths.begin(), widths.end(), width) > 2);
  Calibration slow(3, 1.0);
  CHECK(calibrated(slow, [](size_t, int32_t) { return 1.0; }).size() <= 4);
}

TEST(a_calibration_looks_at_each_width_several_times_in_mixed_order) {
  Calibration calibration(7, 10.0);
  const auto widths = calibrated(calibration, [](size_t, int32_t) { return 0.01; });
  const size_t a_round = widths.size() / 3;
  const std::vector<int32_t> first(widths.begin(), widths.begin() + static_cast<int64_t>(a_round));
  CHECK(!std::equal(first.begin(), first.end(), widths.begin() + static_cast<int64_t>(a_round)));
  CHECK(std::is_permutation(first.begin(), first.end(),
                            widths.begin() + static_cast<int64_t>(a_round)));
}

TEST(of_the_looks_of_a_calibration_the_quickest_counts_and_the_spread_is_doubt) {
  const auto costs_of = [](const std::function<double(size_t, int32_t)>& seconds) {
    Calibration calibration(3, 100.0);
    calibrated(calibration, seconds);
    Costs costs(3);
    calibration.tell(costs);
    return costs;
  };
  const auto quiet = [](size_t, int32_t width) { return 0.01 + 0.003 * width; };
  const auto busy = [&](size_t i, int32_t width) { return quiet(i, width) * (i % 2 == 0 ? 1 : 9); };
  const Costs sure = costs_of(quiet);
  CHECK(std::abs(sure.verify(3) / sure.verify(0) - 1.9) < 0.1);
  CHECK(costs_of(busy).verify_doubt(2) > 2 * sure.verify_doubt(2));
}
