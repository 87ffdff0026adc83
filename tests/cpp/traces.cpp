#include "traces.h"

#include <algorithm>
#include <cmath>

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

/// A text whose token at each position is the position itself.
class Seeded : public Text {
 public:
  Seeded(const World& world, uint64_t seed) : world_(world), seed_(seed) {}

  Token token(int64_t position) const override { return static_cast<Token>(position); }
  int64_t n_context() const override { return world_.n_context; }

  void draft(int64_t anchor, int32_t block, Draft& out) const override {
    out.clear();
    for (int32_t place = 0; place < block; ++place) {
      const int64_t position = anchor + 1 + place;
      const double odds = odds_of(position, place, block);
      const bool right = uniform(seed_, position, 1000 + place) < chance_of(odds);
      out.tokens.push_back(right ? token(position) : -1);
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

}  // namespace

Outcome run(const World& world, uint64_t seed, Span span, const Strategy& strategy) {
  Machine machine(seed, world.noise);
  return replay(Seeded(world, seed), span, world.pair, machine, strategy,
                [&](double share) { machine.slowness = world.slowness(share); });
}

Outcome run(const World& world, uint64_t seed, Span span, Controller& controller) {
  return run(world, seed, span, adaptive(controller));
}

void calibrated(const World& world, uint64_t seed, Costs& costs) {
  Machine machine(seed, world.noise);
  machine.slowness = world.slowness(0);
  calibrate(world.pair, machine, costs);
}

void from_nothing(const World& /*world*/, uint64_t /*seed*/, Costs& /*costs*/) {}

double seconds_a_token(const World& world, uint64_t seed, Span span, int32_t width,
                       const Begin& begin) {
  if (width != kAdaptive) return run(world, seed, span, fixed(width)).seconds_a_token();
  Terms terms(world.pair.widest);
  Controller controller(terms);
  begin(world, seed, controller.costs());
  return run(world, seed, span, controller).seconds_a_token();
}

Comparison compare(const World& world, Span span, int32_t n_seeds, const Begin& begin) {
  const auto seconds = [&](int32_t width, uint64_t seed) {
    return seconds_a_token(world, seed, span, width, begin);
  };
  return compare(seconds, n_seeds, world.pair.widest);
}

}  // namespace dflash::traces
