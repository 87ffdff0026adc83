#include "traces.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace dflash::traces {

namespace {

/// Uniform in [0, 1), the same for the same arguments: a text does not depend on who reads it.
double uniform(uint64_t seed, int64_t position, int64_t what) {
  uint64_t x = seed * 0x9e3779b97f4a7c15ULL +
               static_cast<uint64_t>(position) * 0xd1b54a32d192ed03ULL +
               static_cast<uint64_t>(what) * 0x8cb92ba72f3d8dd7ULL;
  x ^= x >> 32;
  x *= 0xe9846af9b1a615dULL;
  x ^= x >> 32;
  x *= 0xe9846af9b1a615dULL;
  x ^= x >> 28;
  return static_cast<double>(x >> 11) / static_cast<double>(1ULL << 53);
}

/// Normal, by Box and Muller.
double normal(uint64_t seed, int64_t position, int64_t what) {
  constexpr double kTurn = 6.283185307179586;
  const double radius = std::sqrt(-2 * std::log(1 - uniform(seed, position, 2 * what)));
  return radius * std::cos(kTurn * uniform(seed, position, 2 * what + 1));
}

double log_odds(double chance) {
  const double c = std::clamp(chance, 1e-6, 1 - 1e-6);
  return std::log(c / (1 - c));
}

double chance_of(double odds) {
  return 1 / (1 + std::exp(-odds));
}

/// A text whose token at each position is the position itself; wrong drafts are -1.
class Text {
 public:
  Text(const World& world, uint64_t seed) : world_(world), seed_(seed) {}

  void draft(int64_t anchor, int32_t block, Draft& out) const {
    out.clear();
    for (int32_t place = 0; place < block; ++place) {
      const int64_t position = anchor + 1 + place;
      const double odds = odds_of(position, place, block);
      const bool right = uniform(seed_, position, 1000 + place) < chance_of(odds);
      out.tokens.push_back(right ? static_cast<Token>(position) : -1);
      if (world_.confidence == Confidence::none) continue;
      double said = odds + 0.5 * normal(seed_, position, 2000 + place);
      if (world_.confidence == Confidence::boasting) said = 1.5 * said + 1;
      out.confidence.push_back(static_cast<float>(chance_of(said)));
    }
  }

 private:
  double odds_of(int64_t position, int32_t place, int32_t block) const {
    const double usual =
        world_.predictability(position) * std::pow(world_.fading, place) * world_.shortening(block);
    return log_odds(usual) + world_.variety * normal(seed_, position, 1);
  }

  const World& world_;
  uint64_t seed_;
};

/// Times decodes: noise on all, and some that were disturbed.
class Machine {
 public:
  Machine(const World& world, uint64_t seed) : world_(world), random_(seed) {}

  double time(double seconds, double share_of_text) {
    constexpr double kDisturbed = 0.01;
    const double noise = std::exp(world_.noise * normal_(random_));
    const double disturbance = uniform_(random_) < kDisturbed ? 3 : 1;
    return seconds * world_.slowness(share_of_text) * noise * disturbance;
  }

 private:
  const World& world_;
  std::mt19937_64 random_;
  std::normal_distribution<double> normal_;
  std::uniform_real_distribution<double> uniform_;
};

void calibrate(const World& world, Machine& machine, Costs& costs) {
  for (int32_t round = 0; round < 3; ++round) {
    for (int32_t width = 0; width <= kWidest; ++width) {
      costs.verified(width, machine.time(world.verify(width), 0));
      if (width > 0) costs.drafted(width, machine.time(world.draft(width), 0));
    }
  }
}

/// What is chosen for a step, and learned from it.
struct Chooser {
  std::function<int32_t()> draft;
  std::function<int32_t(const Draft&)> verify;
  std::function<void(const StepSeen&)> stepped;
};

Outcome run(const World& world, uint64_t seed, int32_t n, const Chooser& choose) {
  const Text text(world, seed);
  Machine machine(world, seed);
  double seconds = 0;
  int64_t position = 0;
  while (position < n) {
    const double share = static_cast<double>(position) / n;
    const int32_t block = choose.draft();
    Draft draft;
    if (block > 0) text.draft(position, block, draft);
    const double drafting = block > 0 ? machine.time(world.draft(block), share) : 0;
    const int32_t verified = block > 0 ? choose.verify(draft) : 0;
    const double verifying = machine.time(world.verify(verified), share);
    std::vector<Token> emitted;
    for (int32_t i = 0; i < verified && draft.tokens[static_cast<size_t>(i)] >= 0; ++i) {
      emitted.push_back(draft.tokens[static_cast<size_t>(i)]);
    }
    emitted.push_back(static_cast<Token>(position + static_cast<int64_t>(emitted.size()) + 1));
    position += static_cast<int64_t>(emitted.size());
    seconds += drafting + verifying;
    choose.stepped({draft, verified, emitted, drafting, verifying});
  }
  return {seconds / static_cast<double>(position)};
}

}  // namespace

Outcome run(const World& world, uint64_t seed, int32_t n, Controller& controller) {
  return run(
      world, seed, n,
      Chooser{[&] { return controller.choose(kWidest).block; },
              [&](const Draft& draft) { return controller.choose_verify(draft, kWidest).width; },
              [&](const StepSeen& step) { controller.stepped(step); }});
}

Outcome run(const World& world, uint64_t seed, int32_t n, int32_t width) {
  return run(
      world, seed, n,
      Chooser{[=] { return width; }, [=](const Draft&) { return width; }, [](const StepSeen&) {}});
}

Comparison compare(const World& world, int32_t n, int32_t n_seeds, bool calibrated) {
  const auto mean = [&](const auto& seconds_of) {
    double sum = 0;
    for (int32_t seed = 1; seed <= n_seeds; ++seed) sum += seconds_of(static_cast<uint64_t>(seed));
    return sum / n_seeds;
  };
  const auto fixed = [&](int32_t width) {
    return mean([&](uint64_t seed) { return run(world, seed, n, width).seconds_a_token; });
  };
  Comparison result{fixed(0), 0, 0, 0};
  result.adaptive = mean([&](uint64_t seed) {
    Controller controller(kWidest);
    Machine machine(world, seed);
    if (calibrated) calibrate(world, machine, controller.costs());
    return run(world, seed, n, controller).seconds_a_token;
  });
  result.best = result.plain;
  for (int32_t width = 1; width <= kWidest; ++width) {
    const double seconds = fixed(width);
    if (seconds < result.best) {
      result.best = seconds;
      result.best_width = width;
    }
  }
  return result;
}

}  // namespace dflash::traces
