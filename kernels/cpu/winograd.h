// Winograd's transforms between sums of products and products at points (Winograd 1980; Lavin and Gray 2015,
// "Fast Algorithms for Convolutional Neural Networks").
//
// m outputs of a filter of r taps are coefficients of a product of two polynomials. Both factors are evaluated
// at POINTS = m + r - 1 points and multiplied there: POINTS multiplications in place of m*r. In two dimensions
// the square of each. The points are 0, pairs of a number and its negative, and infinity.
#pragma once

#include "lanes.h"

namespace cconvnet::winograd {

// Of each pair, the point and the inverse of its weight in the interpolation; and that of 0.
template <int POINTS>
struct Points;

// 0, +-1 and infinity.
template <>
struct Points<4> {
  static constexpr float kPair[] = {1.0f}, kWeight[] = {0.5f}, kWeightOfZero = -1.0f;
};

// 0, +-2/3, +-3/2 and infinity. Reciprocal pairs keep rounding errors small: with 0, +-1, +-2 and infinity,
// the points of Lavin and Gray, they are twice as large.
template <>
struct Points<6> {
  static constexpr float kPair[] = {2.0f / 3, 3.0f / 2};
  static constexpr float kNearSquare = 4.0f / 9, kFarSquare = 9.0f / 4;
  static constexpr float kWeight[] = {0.5f / (kNearSquare * (kNearSquare - kFarSquare)),
                                      0.5f / (kFarSquare * (kFarSquare - kNearSquare))};
  static constexpr float kWeightOfZero = 1.0f;
};

// POINTS neighbouring values of an image at the points: the transpose of the interpolation of POINTS
// coefficients, so that it serves any m and r.
template <int POINTS>
struct Image;

template <>
struct Image<4> {
  static constexpr int kFrom = 4, kTo = 4;
  static inline __attribute__((always_inline)) void run(const Lanes* d, Lanes* to) {
    to[0] = d[2] - d[0];
    to[1] = d[2] + d[1];
    to[2] = d[2] - d[1];
    to[3] = d[3] - d[1];
  }
};

template <>
struct Image<6> {
  static constexpr int kFrom = 6, kTo = 6;
  static inline __attribute__((always_inline)) void run(const Lanes* d, Lanes* to) {
    using P = Points<6>;
    constexpr float kNear = P::kPair[0], kFar = P::kPair[1], kSum = P::kNearSquare + P::kFarSquare;
    const Lanes near_even = d[4] - P::kFarSquare * d[2], near_odd = kNear * d[3] - kFar * d[1];
    const Lanes far_even = d[4] - P::kNearSquare * d[2], far_odd = kFar * d[3] - kNear * d[1];
    to[0] = d[0] - kSum * d[2] + d[4];
    to[1] = near_even + near_odd;
    to[2] = near_even - near_odd;
    to[3] = far_even + far_odd;
    to[4] = far_even - far_odd;
    to[5] = d[1] - kSum * d[3] + d[5];
  }
};

// A polynomial of COUNT coefficients at the points, times the points' weights.
template <int POINTS, int COUNT>
struct Evaluation {
  static constexpr int kFrom = COUNT, kTo = POINTS;
  static inline __attribute__((always_inline)) void run(const Lanes* w, Lanes* to) {
    using P = Points<POINTS>;
    to[0] = P::kWeightOfZero * w[0];
    for (int pair = 0; pair < POINTS / 2 - 1; ++pair) {
      float power = P::kWeight[pair];
      Lanes even = power * w[0], odd = {};
      for (int i = 1; i < COUNT; ++i) {
        power *= P::kPair[pair];
        (i % 2 ? odd : even) += power * w[i];
      }
      to[1 + 2 * pair] = even + odd;
      to[2 + 2 * pair] = even - odd;
    }
    to[POINTS - 1] = w[COUNT - 1];
  }
};

// COUNT coefficients from their polynomial's values at the points.
template <int POINTS, int COUNT>
struct Interpolation {
  static constexpr int kFrom = POINTS, kTo = COUNT;
  static inline __attribute__((always_inline)) void run(const Lanes* at, Lanes* to) {
    for (int i = 0; i < COUNT; ++i) to[i] = Lanes{};
    for (int pair = 0; pair < POINTS / 2 - 1; ++pair) {
      const Lanes plus = at[1 + 2 * pair], minus = at[2 + 2 * pair];
      const Lanes even = plus + minus, odd = plus - minus;
      float power = 1;
      for (int i = 0; i < COUNT; ++i) {
        to[i] += power * (i % 2 ? odd : even);
        power *= Points<POINTS>::kPair[pair];
      }
    }
    to[0] += at[0];
    to[COUNT - 1] += at[POINTS - 1];
  }
};

// Applies a transform to the rows and the columns of a square: load(i, j) returns one of its elements, and
// store(i, j, value) receives one of the result's.
template <class Transform, class Load, class Store>
inline __attribute__((always_inline)) void transform(const Load& load, const Store& store) {
  Lanes rows[Transform::kFrom][Transform::kTo];
  for (int i = 0; i < Transform::kFrom; ++i) {
    Lanes row[Transform::kFrom];
    for (int j = 0; j < Transform::kFrom; ++j) row[j] = load(i, j);
    Transform::run(row, rows[i]);
  }
  for (int j = 0; j < Transform::kTo; ++j) {
    Lanes column[Transform::kFrom], result[Transform::kTo];
    for (int i = 0; i < Transform::kFrom; ++i) column[i] = rows[i][j];
    Transform::run(column, result);
    for (int i = 0; i < Transform::kTo; ++i) store(i, j, result[i]);
  }
}

}  // namespace cconvnet::winograd
