#include "group_norm_silu.h"
#include "math_functions.h"

namespace rsd::RSD_ISA {
namespace {

// A unit's channels are walked through in tiles, and a tile in rows of `lanes` elements: consecutive channels of a
// pixel, or of several pixels where they are few. What depends only on the channel is an array of one number a lane.
constexpr int64_t kLanes = 256;

template <class A>
using Lanes = A[kLanes];

struct Tile {
  int64_t sample, channel, width, repeat;  // the channels, and how often they recur in a row
  int64_t start, stride, rows, tail;       // elements: of the first row, between rows; of the row that is not whole

  int64_t lanes() const { return width * repeat; }
  Tile every_16th_row() const { return {sample, channel, width, repeat, start, 16 * stride, (rows + 15) / 16, 0}; }
};

struct Unit {
  int64_t sample, channel, channels, group, groups;
};

Unit unit(const GroupNormSiluArgs& a, int64_t i) {
  const int64_t per_sample = a.units_per_sample(), groups = a.groups / per_sample;
  const int64_t channels = a.channels / per_sample, part = i % per_sample;
  return {i / per_sample, part * channels, channels, part * groups, groups};
}

// Calls f(tile) for the tiles of a unit.
template <class F>
RSD_HD void for_tiles(const GroupNormSiluArgs& a, const Unit& u, const F& f) {
  const int64_t innermost = a.channels_last ? a.channels : 1;
  const int64_t step = innermost < kLanes ? innermost : kLanes;
  for (int64_t c = 0; c < u.channels; c += step) {
    const int64_t width = u.channels - c < step ? u.channels - c : step;
    const int64_t fitting = width == innermost ? kLanes / width : 1;
    const int64_t repeat = fitting < a.pixels ? fitting : a.pixels;
    const int64_t start = u.sample * a.channels * a.pixels + (u.channel + c) * (a.channels_last ? 1 : a.pixels);
    f(Tile{u.sample, u.channel + c, width, repeat, start, repeat * innermost, a.pixels / repeat,
           a.pixels % repeat * width});
  }
}

// lanes[j] = value(the channel of lane j, its group); of a NaN's bits, only the first are kept.
template <class A, class F>
RSD_HD void fill(const GroupNormSiluArgs& a, const Tile& t, Lanes<A>& lanes, const F& value) {
  const int64_t size = a.channels / a.groups;
  int64_t group = t.channel / size;
  for (int64_t j = 0; j < t.width; ++group) {
    const int64_t left = (group + 1) * size - t.channel, end = left < t.width ? left : t.width;
    for (; j < end; ++j) {
      const A x = value(t.channel + j, group);
      lanes[j] = x == x ? x : A(NAN);
    }
  }
  if (t.width == 1) {
    for (int64_t j = 1; j < t.repeat; ++j) lanes[j] = lanes[0];
  } else {
    for (int64_t j = t.width; j < t.lanes(); ++j) lanes[j] = lanes[j - t.width];
  }
}

template <class A>
struct Pair {
  A first, second;
  Pair operator+(Pair other) const { return {first + other.first, second + other.second}; }
};

// Sum of f(0), ..., f(rows - 1), by halves.
template <int rows, class F>
RSD_HD auto sum_rows(const F& f, int first = 0) {
  if constexpr (rows == 1) {
    return f(first);
  } else {
    return sum_rows<rows / 2>(f, first) + sum_rows<rows / 2>(f, first + rows / 2);
  }
}

// sums[0][c], sums[1][c] = sum over the tile's pixels of term(element, lane), a Pair<A>: of 16 rows in A, kRows of them
// at a time, then in double. The more at a time, the fewer stores, but the longer a term the fewer fit the registers.
template <int kRows, class Term>
RSD_HD void add_up(const GroupNormSiluArgs& a, const Tile& t, const Term& term) {
  using A = decltype(term(0, 0).first);
  alignas(64) Lanes<double> first, second;
  alignas(64) Lanes<A> first_part, second_part;
  const int64_t lanes = t.lanes();
  for (int64_t j = 0; j < lanes; ++j) first[j] = second[j] = 0;
  int64_t row = 0, at = t.start;
  while (row + kRows <= t.rows) {
    for (int64_t j = 0; j < lanes; ++j) first_part[j] = second_part[j] = 0;
    for (int i = 0; i < 16 && row + kRows <= t.rows; i += kRows, row += kRows, at += kRows * t.stride) {
      for (int64_t j = 0; j < lanes; ++j) {
        const auto sum = sum_rows<kRows>([&](int k) { return term(at + k * t.stride + j, j); });
        first_part[j] += sum.first;
        second_part[j] += sum.second;
      }
    }
    for (int64_t j = 0; j < lanes; ++j) {
      first[j] += double(first_part[j]);
      second[j] += double(second_part[j]);
    }
  }
  for (; row <= t.rows; ++row, at += t.stride) {
    const int64_t end = row < t.rows ? lanes : t.tail;
    for (int64_t j = 0; j < end; ++j) {
      const auto sum = term(at + j, j);
      first[j] += double(sum.first);
      second[j] += double(sum.second);
    }
  }
  double* sums = a.sums + t.sample * 2 * a.channels + t.channel;
  for (int64_t c = 0; c < t.width; ++c) {
    double total0 = 0, total1 = 0;
    for (int64_t j = c; j < lanes; j += t.width) total0 += first[j], total1 += second[j];
    sums[c] = total0;
    sums[a.channels + c] = total1;
  }
}

template <class F>
RSD_HD void for_elements(const Tile& t, const F& f) {
  int64_t at = t.start;
  for (int64_t row = 0; row <= t.rows; ++row, at += t.stride) {
    const int64_t end = row < t.rows ? t.lanes() : t.tail;
    for (int64_t j = 0; j < end; ++j) f(at + j, j);
  }
}

// The sums of a sample over a group's channels, each channel's times weight(channel).
template <class F>
RSD_HD Pair<double> group_sums(const GroupNormSiluArgs& a, int64_t sample, int64_t group, const F& weight) {
  const int64_t size = a.channels / a.groups;
  const double* sums = a.sums + sample * 2 * a.channels;
  Pair<double> total{0, 0};
  for (int64_t c = group * size; c < (group + 1) * size; ++c)
    total = total + Pair<double>{weight(c) * sums[c], weight(c) * sums[a.channels + c]};
  return total;
}

// x in T, rounded to the nearest. Of bfloat16 by two instructions, not narrow's eight: ties go away from zero, and NaN
// needs no care, for the bits that are dropped are 0 in any that comes from arithmetic on bfloat16 and what fill gives.
template <class T, class A>
RSD_HD T rounded(A x) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return {uint16_t((bit_cast<uint32_t>(x) + 0x8000u) >> 16)};
  } else {
    return narrow<T>(x);
  }
}

template <bool silu, class T>
void forward(const GroupNormSiluArgs& a, const Unit& u) {
  using A = Acc<T>;
  const T* __restrict x = static_cast<const T*>(a.x);
  T* __restrict y = static_cast<T*>(a.y);
  const A* gain = static_cast<const A*>(a.gain) + u.sample * a.gain_stride;
  const A* offset = static_cast<const A*>(a.offset) + u.sample * a.offset_stride;
  A* mean = static_cast<A*>(a.mean) + u.sample * a.groups;
  A* rstd = static_cast<A*>(a.rstd) + u.sample * a.groups;
  const int64_t size = a.channels / a.groups;
  const double count = double(size) * double(a.pixels);
  const auto one = [](int64_t) { return 1.0; };

  // Deviations from the mean of n of the N pixels, which their sum corrects: nothing is lost where the mean is large.
  // It is within sqrt(N / n) standard deviations of the mean of all, whatever the numbers, so that the error of the
  // variance is at most 1 + N / n < 18 times that of rounding the squares of deviations from the mean itself.
  int64_t some = 0;
  for_tiles(a, u, [&](const Tile& t) {
    const Tile rows = t.every_16th_row();
    some = rows.rows * rows.repeat;
    add_up<8>(a, rows, [&](int64_t i, int64_t) { return Pair<A>{widen(x[i]), 0}; });
  });
  for (int64_t g = u.group; g < u.group + u.groups; ++g) {
    mean[g] = A(group_sums(a, u.sample, g, one).first / (double(size) * double(some)));
  }
  for_tiles(a, u, [&](const Tile& t) {
    alignas(64) Lanes<A> centre;
    fill(a, t, centre, [&](int64_t, int64_t g) { return mean[g]; });
    add_up<8>(a, t, [&](int64_t i, int64_t j) {
      const A d = widen(x[i]) - centre[j];
      return Pair<A>{d, d * d};
    });
  });
  for (int64_t g = u.group; g < u.group + u.groups; ++g) {
    const Pair<double> sums = group_sums(a, u.sample, g, one);
    const double shift = sums.first / count, variance = sums.second / count - shift * shift;
    mean[g] = A(mean[g] + shift);
    rstd[g] = A(1 / std::sqrt((variance < 0 ? 0 : variance) + a.eps));
  }
  for_tiles(a, u, [&](const Tile& t) {
    alignas(64) Lanes<A> centre, slope, constant;
    fill(a, t, centre, [&](int64_t, int64_t g) { return mean[g]; });
    fill(a, t, slope, [&](int64_t c, int64_t g) { return rstd[g] * gain[c]; });
    fill(a, t, constant, [&](int64_t c, int64_t) { return offset[c]; });
    for_elements(t, [&](int64_t i, int64_t j) {
      const A z = (widen(x[i]) - centre[j]) * slope[j] + constant[j];
      y[i] = rounded<T>(silu ? -z / (-1 - rsd::exp(-z)) : z);  // only -z: one instruction
    });
  });
}

template <bool silu, class T>
void backward(const GroupNormSiluArgs& a, const Unit& u) {
  using A = Acc<T>;
  const T* __restrict x = static_cast<const T*>(a.x);
  const T* __restrict grad = static_cast<const T*>(a.grad);
  T* __restrict dx = static_cast<T*>(a.dx);
  const A* gain = static_cast<const A*>(a.gain) + u.sample * a.gain_stride;
  const A* offset = static_cast<const A*>(a.offset) + u.sample * a.offset_stride;
  const A* mean = static_cast<const A*>(a.mean) + u.sample * a.groups;
  const A* rstd = static_cast<const A*>(a.rstd) + u.sample * a.groups;
  const int64_t size = a.channels / a.groups;
  const double count = double(size) * double(a.pixels);
  const auto dz = [&](A dy, A z) {
    if (!silu) return dy;
    const A e = rsd::exp(std::is_same_v<A, double> && z > 80 ? A(80) : z);  // finite: float's is clamped there
    const A r = 1 / (1 + e);                                                // sigmoid(-z); that of z is e r
    return dy * (e * r * (1 + z * r));
  };

  // Where dx is asked for, its memory keeps dz from here to there, in T: rounded, as between separate operations.
  const auto add_up_dz = [&](auto keep) {
    for_tiles(a, u, [&](const Tile& t) {
      alignas(64) Lanes<A> centre, slope, constant;
      fill(a, t, centre, [&](int64_t, int64_t g) { return mean[g]; });
      fill(a, t, slope, [&](int64_t c, int64_t g) { return rstd[g] * gain[c]; });
      fill(a, t, constant, [&](int64_t c, int64_t) { return offset[c]; });
      add_up<1>(a, t, [&](int64_t i, int64_t j) {
        const A d = widen(x[i]) - centre[j], g = dz(widen(grad[i]), d * slope[j] + constant[j]);
        if constexpr (decltype(keep)::value) dx[i] = rounded<T>(g);
        return Pair<A>{g, g * d};
      });
    });
  };
  if (dx == nullptr) {
    add_up_dz(std::false_type{});
  } else {
    add_up_dz(std::true_type{});
  }
  double* sums = a.sums + u.sample * 2 * a.channels + a.channels;
  for (int64_t c = u.channel; c < u.channel + u.channels; ++c) sums[c] *= double(rstd[c / size]);
  if (dx == nullptr) return;
  for_tiles(a, u, [&](const Tile& t) {
    alignas(64) Lanes<A> centre, slope, pull0, pull1;
    fill(a, t, centre, [&](int64_t, int64_t g) { return mean[g]; });
    fill(a, t, slope, [&](int64_t c, int64_t g) { return rstd[g] * gain[c]; });
    Pair<double> total{};
    int64_t totalled = -1;
    const auto pull = [&](int64_t g) {
      if (g != totalled) total = group_sums(a, u.sample, g, [&](int64_t c) { return double(gain[c]); });
      totalled = g;
      return total;
    };
    fill(a, t, pull0, [&](int64_t, int64_t g) { return A(double(rstd[g]) * pull(g).first / count); });
    fill(a, t, pull1,
         [&](int64_t, int64_t g) { return A(double(rstd[g]) * double(rstd[g]) * pull(g).second / count); });
    for_elements(t, [&](int64_t i, int64_t j) {
      dx[i] = rounded<T>(widen(dx[i]) * slope[j] - pull0[j] - (widen(x[i]) - centre[j]) * pull1[j]);
    });
  });
}

}  // namespace

void group_norm_silu(const GroupNormSiluArgs& a, int64_t begin, int64_t end) {
  with_dtype(a.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t i = begin; i < end; ++i) a.silu ? forward<true, T>(a, unit(a, i)) : forward<false, T>(a, unit(a, i));
  });
}

void group_norm_silu_backward(const GroupNormSiluArgs& a, int64_t begin, int64_t end) {
  with_dtype(a.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t i = begin; i < end; ++i) a.silu ? backward<true, T>(a, unit(a, i)) : backward<false, T>(a, unit(a, i));
  });
}

}  // namespace rsd::RSD_ISA
