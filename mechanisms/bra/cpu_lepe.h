// LePE, the depth-wise convolution of v: forward, gradient of its input and of its weights.
//
// Works on one head of a bordered map (see pack_bordered), so that no tap needs a test.
#pragma once

#include "cpu.h"

// Strips of 14 and 7 columns: they divide every map of a 224 px pyramid, and 14 sums fit 16 registers.
constexpr int kStrip = 14;

// The taps of one head as rows of whole vectors: taps[ky · kernel + kx][channel]. `flip` turns them by 180°.
inline void pack_taps(const Problem& p, int64_t head, int width, bool flip, float* taps) {
  const int d = p.dim / p.heads, count = p.kernel * p.kernel;
  const float* weight = p.lepe_weight + head * d * count;
  std::fill(taps, taps + count * width, 0.0f);
  for (int c = 0; c < d; ++c)
    for (int t = 0; t < count; ++t) taps[(flip ? count - 1 - t : t) * width + c] = weight[c * count + t];
}

// N columns by one vector of channels; `from` is the top left of what the first one sees.
template <int N>
inline void convolve_strip(const float* from, const float* taps, Vec bias, int kernel, int row, int width, int columns,
                           float* to) {
  Vec sum[N];
  UNROLL
  for (int x = 0; x < N; ++x) sum[x] = bias;
  for (int ky = 0; ky < kernel; ++ky)
    for (int kx = 0; kx < kernel; ++kx) {
      const Vec tap = load(taps + (ky * kernel + kx) * width);
      const float* at = from + int64_t(ky * row + kx) * width;
      UNROLL
      for (int x = 0; x < N; ++x) sum[x] += tap * load(at + x * width);
    }
  if (columns >= N) {
    UNROLL
    for (int x = 0; x < N; ++x) store(to + x * width, sum[x]);
  } else {
    for (int x = 0; x < columns; ++x) store(to + x * width, sum[x]);
  }
}

// Rows top to bottom - 1 of the convolution of a bordered map, to (bottom - top, map width, width).
// `bias` may be null.
inline void convolve(const Geometry& g, const float* bordered, const float* taps, const float* bias, int kernel,
                     int width, int top, int bottom, float* to) {
  for (int y = top; y < bottom; ++y)
    for (int x = 0; x < g.width;) {
      const int left = g.width - x;
      for (int c = 0; c < width; c += kLanes) {
        const float* from = bordered + int64_t(y * g.padded_width + x) * width + c;
        float* strip = to + int64_t((y - top) * g.width + x) * width + c;
        const Vec start = bias ? load(bias + c) : Vec{};
        if (left > kStrip / 2) convolve_strip<kStrip>(from, taps + c, start, kernel, g.padded_width, width, left, strip);
        else convolve_strip<kStrip / 2>(from, taps + c, start, kernel, g.padded_width, width, left, strip);
      }
      x += left > kStrip / 2 ? kStrip : kStrip / 2;
    }
}

// sums[i] += sum over one row of the map of grad[x] * seen[x + i]: the gradient of N taps that lie side by
// side, two vectors of channels (V of them).
template <int N, int V>
inline void correlate_row(const float* grad, const float* seen, int columns, int width, Vec (&sum)[N][V]) {
  for (int x = 0; x < columns; ++x) {
    Vec g[V];
    UNROLL
    for (int j = 0; j < V; ++j) g[j] = load(grad + x * width + j * kLanes);
    UNROLL
    for (int i = 0; i < N; ++i) {
      UNROLL
      for (int j = 0; j < V; ++j) sum[i][j] += g[j] * load(seen + (x + i) * width + j * kLanes);
    }
  }
}

// The gradients of taps (ky, kx) to (ky, kx + N - 1), V vectors of channels from c on, to to[tap][channel].
template <int N, int V>
inline void correlate(const Geometry& g, const float* grad, const float* values, int ky, int kx, int kernel, int width,
                      int c, float* to) {
  Vec sum[N][V] = {};
  for (int y = 0; y < g.height; ++y) {
    const int64_t centre = int64_t(y + g.border) * g.padded_width + g.border;
    const int64_t corner = int64_t(y + ky) * g.padded_width + kx;
    Vec row[N][V] = {};  // a sum of its own: long sums of floats lose digits
    correlate_row<N, V>(grad + centre * width + c, values + corner * width + c, g.width, width, row);
    for (int i = 0; i < N; ++i)
      for (int j = 0; j < V; ++j) sum[i][j] += row[i][j];
  }
  for (int i = 0; i < N; ++i)
    for (int j = 0; j < V; ++j) store(to + (ky * kernel + kx + i) * width + c + j * kLanes, sum[i][j]);
}

template <int V>
inline void correlate_all(const Geometry& g, const float* grad, const float* values, int kernel, int width, int c,
                          float* to) {
  for (int ky = 0; ky < kernel; ++ky) {
    int kx = 0;
    for (; kx + 5 <= kernel; kx += 5) correlate<5, V>(g, grad, values, ky, kx, kernel, width, c, to);
    for (; kx + 3 <= kernel; kx += 3) correlate<3, V>(g, grad, values, ky, kx, kernel, width, c, to);
    for (; kx < kernel; ++kx) correlate<1, V>(g, grad, values, ky, kx, kernel, width, c, to);
  }
}

// The gradient of a head's taps, to[tap][channel], from bordered maps of the output's gradient and of v.
inline void gradient_of_taps(const Geometry& g, const float* grad, const float* values, int kernel, int width,
                             float* to) {
  int c = 0;
  for (; c + 2 * kLanes <= width; c += 2 * kLanes) correlate_all<2>(g, grad, values, kernel, width, c, to);
  if (c < width) correlate_all<1>(g, grad, values, kernel, width, c, to);
}

// The gradient of a head's bias: the sum over the map.
inline void gradient_of_bias(const Geometry& g, const float* grad, int width, float* to) {
  std::fill(to, to + width, 0.0f);
  for (int y = 0; y < g.height; ++y) {
    const float* row = grad + (int64_t(y + g.border) * g.padded_width + g.border) * width;
    for (int c = 0; c < width; c += kLanes) {
      Vec sum = {};
      for (int x = 0; x < g.width; ++x) sum += load(row + x * width + c);
      store(to + c, load(to + c) + sum);
    }
  }
}
