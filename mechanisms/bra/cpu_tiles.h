// The small matrix products that bi-level routing attention is made of, on tiles that lie in cache.
//
// Each keeps a block of sums in registers: 4 queries by kBlock vectors of keys, or by kRow vectors of channels. Rows are padded to whole vectors (stride `width`), queries to a multiple of 4.
#pragma once

#include <type_traits>

#include "cpu_vector.h"

constexpr int kQueries = 4;  // queries in a block of sums
constexpr int kKeys = 256;   // keys attended to at once; more are taken in turns

// A matrix of keys (or values) in columns, channel by channel. `quads` says that it was not copied together:
// each four keys lie elsewhere, as one block of (channels, 4).
struct Panel {
  const float* columns;  // (channels, stride)
  int stride;            // keys, rounded up to whole vectors
  bool quads;
  const float* quad[kKeys / 4];
};

// scores[q][key] = sum over c of rows[q][c] * panel[c][key], for 4 queries and N vectors of keys.
template <int N, bool Quads>
inline void scores_block(const float* rows, int width, const Panel& panel, int first, int channels, float* scores) {
  const float* columns = panel.columns + first;
  Vec sum[kQueries][N] = {};
  for (int c = 0; c < channels; ++c) {
    Vec key[N];
    UNROLL
    for (int j = 0; j < N; ++j) {
      if (Quads) key[j] = join(panel.quad + (first + j * kLanes) / 4, 4 * c);
      else key[j] = load(columns + int64_t(c) * panel.stride + j * kLanes);
    }
    UNROLL
    for (int q = 0; q < kQueries; ++q) {
      const Vec query = splat(rows[q * width + c]);
      UNROLL
      for (int j = 0; j < N; ++j) sum[q][j] += query * key[j];
    }
  }
  UNROLL
  for (int q = 0; q < kQueries; ++q) {
    UNROLL
    for (int j = 0; j < N; ++j) store(scores + q * panel.stride + first + j * kLanes, sum[q][j]);
  }
}

template <bool Quads>
inline void scores_all(const float* rows, int width, const Panel& panel, int channels, float* scores) {
  int key = 0;
  for (; key + kBlock * kLanes <= panel.stride; key += kBlock * kLanes)
    scores_block<kBlock, Quads>(rows, width, panel, key, channels, scores);
  for (; key < panel.stride; key += kLanes) scores_block<1, Quads>(rows, width, panel, key, channels, scores);
}

// The same for all keys of the panel; scores are (4, stride).
inline void scores_of(const float* rows, int width, const Panel& panel, int channels, float* scores) {
  if (panel.quads) scores_all<true>(rows, width, panel, channels, scores);
  else scores_all<false>(rows, width, panel, channels, scores);
}

// sums[q] = shrink[q] * sums[q] + sum over keys of weights[q][key] * values[row[key]]; 4 queries, N vectors.
template <int N>
inline void add_values_block(const float* weights, int stride, const int* row, int count, const float* values,
                             int width, const float* shrink, float* sums) {
  Vec sum[kQueries][N] = {};  // a sum of its own: long sums of floats lose digits
  for (int key = 0; key < count; ++key) {
    const float* from = values + (int64_t)row[key] * width;
    Vec value[N];
    UNROLL
    for (int j = 0; j < N; ++j) value[j] = load(from + j * kLanes);
    UNROLL
    for (int q = 0; q < kQueries; ++q) {
      const Vec weight = splat(weights[q * stride + key]);
      UNROLL
      for (int j = 0; j < N; ++j) sum[q][j] += weight * value[j];
    }
  }
  UNROLL
  for (int q = 0; q < kQueries; ++q) {
    UNROLL
    for (int j = 0; j < N; ++j) {
      float* to = sums + q * width + j * kLanes;
      store(to, load(to) * shrink[q] + sum[q][j]);
    }
  }
}

// sums[row[key]] += sum over 4 queries of weights[q][key] * rows[q]; N vectors. The queries stay in registers.
template <int N>
inline void scatter_block(const float* weights, int stride, const int* row, int count, const float* rows, int width,
                          float* sums) {
  Vec value[kQueries][N];
  UNROLL
  for (int q = 0; q < kQueries; ++q) {
    UNROLL
    for (int j = 0; j < N; ++j) value[q][j] = load(rows + q * width + j * kLanes);
  }
  for (int key = 0; key < count; ++key) {
    float* to = sums + int64_t(row[key]) * width;
    Vec sum[N];
    UNROLL
    for (int j = 0; j < N; ++j) sum[j] = load(to + j * kLanes);
    UNROLL
    for (int q = 0; q < kQueries; ++q) {
      const Vec weight = splat(weights[q * stride + key]);
      UNROLL
      for (int j = 0; j < N; ++j) sum[j] += weight * value[q][j];
    }
    UNROLL
    for (int j = 0; j < N; ++j) store(to + j * kLanes, sum[j]);
  }
}

// Both at once with the same weights, which is what the gradients of queries and keys are:
// sums[q] += sum over keys of weights[q][key] * values[row[key]], and
// scattered[row[key]] += sum over queries of weights[q][key] * rows[q].
template <int N>
inline void add_and_scatter_block(const float* weights, int stride, const int* row, int count, const float* values,
                                  const float* rows, int width, float* sums, float* scattered) {
  Vec sum[kQueries][N] = {}, query[kQueries][N];
  UNROLL
  for (int q = 0; q < kQueries; ++q) {
    UNROLL
    for (int j = 0; j < N; ++j) query[q][j] = load(rows + q * width + j * kLanes);
  }
  for (int key = 0; key < count; ++key) {
    const int64_t at = int64_t(row[key]) * width;
    Vec value[N], scatter[N];
    UNROLL
    for (int j = 0; j < N; ++j) {
      value[j] = load(values + at + j * kLanes);
      scatter[j] = load(scattered + at + j * kLanes);
    }
    UNROLL
    for (int q = 0; q < kQueries; ++q) {
      const Vec weight = splat(weights[q * stride + key]);
      UNROLL
      for (int j = 0; j < N; ++j) {
        sum[q][j] += weight * value[j];
        scatter[j] += weight * query[q][j];
      }
    }
    UNROLL
    for (int j = 0; j < N; ++j) store(scattered + at + j * kLanes, scatter[j]);
  }
  UNROLL
  for (int q = 0; q < kQueries; ++q) {
    UNROLL
    for (int j = 0; j < N; ++j) {
      float* to = sums + q * width + j * kLanes;
      store(to, load(to) + sum[q][j]);
    }
  }
}

// Calls `block` for all channels of rows that are `width` wide, kRow vectors at a time.
template <class Block>
inline void by_channels(int width, const Block& block) {
  int c = 0;
  for (; c + kRow * kLanes <= width; c += kRow * kLanes) block(std::integral_constant<int, kRow>(), c);
  for (; c < width; c += kLanes) block(std::integral_constant<int, 1>(), c);
}

inline void add_values(const float* weights, int stride, const int* row, int count, const float* values, int width,
                       const float* shrink, float* sums) {
  by_channels(width, [&](auto n, int c) {
    add_values_block<n>(weights, stride, row, count, values + c, width, shrink, sums + c);
  });
}

inline void scatter_rows(const float* weights, int stride, const int* row, int count, const float* rows, int width,
                         float* sums) {
  by_channels(width, [&](auto n, int c) {
    scatter_block<n>(weights, stride, row, count, rows + c, width, sums + c);
  });
}

inline void add_and_scatter(const float* weights, int stride, const int* row, int count, const float* values,
                            const float* rows, int width, float* sums, float* scattered) {
  by_channels(width, [&](auto n, int c) {
    add_and_scatter_block<n>(weights, stride, row, count, values + c, rows + c, width, sums + c, scattered + c);
  });
}

// Rows of tokens to columns: to[c][t] = from[t][c].
inline void transpose(const float* from, int width, int tokens, int channels, float* to, int64_t stride) {
  int t = 0;
#if HAS_SHUFFLE
  for (; t + 4 <= tokens; t += 4)
    for (int c = 0; c < round_up(channels, 4); c += 4) {  // rows are padded to whole vectors
      Quad r[4], s[4], column[4];
      for (int i = 0; i < 4; ++i) std::memcpy(&r[i], from + (t + i) * width + c, sizeof(Quad));
      s[0] = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5);
      s[1] = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
      s[2] = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
      s[3] = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
      for (int i = 0; i < 4; i += 2) {
        column[i] = __builtin_shufflevector(s[i], s[i + 1], 0, 1, 4, 5);
        column[i + 1] = __builtin_shufflevector(s[i], s[i + 1], 2, 3, 6, 7);
      }
      for (int i = 0; i < 4 && c + i < channels; ++i)
        std::memcpy(to + (c + i) * stride + t, &column[i], sizeof(Quad));
    }
#endif
  for (; t < tokens; ++t)
    for (int c = 0; c < channels; ++c) to[c * stride + t] = from[t * width + c];
}
