#include "core/belief.h"

#include <numeric>

namespace dflash {

namespace {

double product(const Belief::Direction& a, const Belief::Direction& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

}  // namespace

double Belief::mean(const Direction& sum) const {
  return product(sum, means_);
}

double Belief::variance(const Direction& sum) const {
  return product(sum, covariances(sum));
}

// Of each number with the sum, in which few count.
Belief::Direction Belief::covariances(const Direction& sum) const {
  Direction result(n_);
  for (size_t j = 0; j < n_; ++j) {
    if (sum[j] == 0) continue;
    for (size_t i = 0; i < n_; ++i) result[i] += sum[j] * together_[j * n_ + i];
  }
  return result;
}

void Belief::doubt(const std::vector<double>& covariances, double times) {
  for (size_t k = 0; k < together_.size(); ++k) together_[k] += times * times * covariances[k];
}

void Belief::doubt_along(const Direction& direction) {
  for (size_t i = 0; i < n_; ++i) {
    if (direction[i] == 0) continue;
    for (size_t j = 0; j < n_; ++j) together_[i * n_ + j] += direction[i] * direction[j];
  }
}

void Belief::learn(const Direction& sum, double off, double variance) {
  const Direction with_sum = covariances(sum);
  const double all = product(sum, with_sum) + variance;
  for (size_t i = 0; i < n_; ++i) {
    means_[i] += with_sum[i] / all * off;
    for (size_t j = 0; j < n_; ++j) together_[i * n_ + j] -= with_sum[i] * with_sum[j] / all;
  }
}

}  // namespace dflash
