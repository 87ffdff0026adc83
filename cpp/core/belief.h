#pragma once

#include <cstddef>
#include <vector>

namespace dflash {

/// What is believed of several numbers that hang together: their means, and how far off each two of
/// them may be together. What is seen of one says something of the others (a Kalman filter).
class Belief {
 public:
  using Direction = std::vector<double>;  ///< so much of each number

  /// All 0 and without a doubt.
  explicit Belief(size_t n) : n_(n), means_(n), together_(n * n) {}

  double mean(size_t i) const { return means_.at(i); }
  void set_mean(size_t i, double mean) { means_.at(i) = mean; }
  /// Of a sum of the numbers in which each counts so often.
  double mean(const Direction& sum) const;
  double variance(const Direction& sum) const;

  /// The numbers may have moved along a direction, about once its length.
  void doubt_along(const Direction& direction);
  /// They may have moved by `times` what such covariances [n, n] stand for.
  void doubt(const std::vector<double>& covariances, double times);

  /// A sum was seen to be `off` from its mean, by an eye of such a variance.
  void learn(const Direction& sum, double off, double variance);

 private:
  Direction covariances(const Direction& sum) const;

  size_t n_;
  std::vector<double> means_;
  std::vector<double> together_;  // [n, n] covariances
};

}  // namespace dflash
