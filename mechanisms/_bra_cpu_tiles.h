// The small matrix products that bi-level routing attention is made of, on tiles that lie in cache.
//
// Each keeps a block of sums in registers: 4 queries by kBlock vectors of keys, or 4 rows by 2 vectors of
// channels. Rows are padded to whole vectors (stride `width`), queries to a multiple of 4.
#pragma once

#include "_bra_cpu_vector.h"

constexpr int kQueries = 4;  // queries in a block of sums

// scores[q][key] = sum over c of rows[q][c] * panel[c][key], for 4 queries and N vectors of keys.
template <int N>
inline void scores_block(const float* rows, int width, const float* panel, int keys, int channels, float* scores) {
  Vec sum[kQueries][N] = {};
  for (int c = 0; c < channels; ++c) {
    Vec key[N];
    UNROLL
    for (int j = 0; j < N; ++j) key[j] = load(panel + (int64_t)c * keys + j * kLanes);
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
    for (int j = 0; j < N; ++j) store(scores + q * keys + j * kLanes, sum[q][j]);
  }
}

// The same for all keys; `keys` is a whole number of vectors.
inline void scores_of(const float* rows, int width, const float* panel, int keys, int channels, float* scores) {
  int key = 0;
  for (; key + kBlock * kLanes <= keys; key += kBlock * kLanes)
    scores_block<kBlock>(rows, width, panel + key, keys, channels, scores + key);
  for (; key < keys; key += kLanes) scores_block<1>(rows, width, panel + key, keys, channels, scores + key);
}

// sums[q] = shrink[q] * sums[q] + sum over keys of weights[q][key] * values[row[key]]; 4 queries, N vectors.
template <int N>
inline void add_values_block(const float* weights, int stride, const int* row, int count, const float* values,
                             int width, const float* shrink, float* sums) {
  Vec sum[kQueries][N];
  UNROLL
  for (int q = 0; q < kQueries; ++q) {
    UNROLL
    for (int j = 0; j < N; ++j) sum[q][j] = load(sums + q * width + j * kLanes) * shrink[q];
  }
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
    for (int j = 0; j < N; ++j) store(sums + q * width + j * kLanes, sum[q][j]);
  }
}

inline void add_values(const float* weights, int stride, const int* row, int count, const float* values, int width,
                       const float* shrink, float* sums) {
  int c = 0;
  for (; c + 2 * kLanes <= width; c += 2 * kLanes)
    add_values_block<2>(weights, stride, row, count, values + c, width, shrink, sums + c);
  if (c < width) add_values_block<1>(weights, stride, row, count, values + c, width, shrink, sums + c);
}

// sums[row[key]] += sum over queries of weights[q][key] * rows[q]; K keys, N vectors.
template <int K, int N>
inline void scatter_block(const float* weights, int stride, const int* row, int queries, const float* rows, int width,
                          float* sums) {
  Vec sum[K][N];
  UNROLL
  for (int key = 0; key < K; ++key) {
    UNROLL
    for (int j = 0; j < N; ++j) sum[key][j] = load(sums + (int64_t)row[key] * width + j * kLanes);
  }
  for (int q = 0; q < queries; ++q) {
    Vec value[N];
    UNROLL
    for (int j = 0; j < N; ++j) value[j] = load(rows + q * width + j * kLanes);
    UNROLL
    for (int key = 0; key < K; ++key) {
      const Vec weight = splat(weights[q * stride + key]);
      UNROLL
      for (int j = 0; j < N; ++j) sum[key][j] += weight * value[j];
    }
  }
  UNROLL
  for (int key = 0; key < K; ++key) {
    UNROLL
    for (int j = 0; j < N; ++j) store(sums + (int64_t)row[key] * width + j * kLanes, sum[key][j]);
  }
}

template <int N>
inline void scatter_columns(const float* weights, int stride, const int* row, int count, int queries,
                            const float* rows, int width, float* sums) {
  for (int key = 0; key < count;) {
    // Rows of one region follow each other. A block across two might hold a row twice, and lose a sum.
    const bool together = key + 4 <= count && row[key + 3] - row[key] == 3;
    if (together) scatter_block<4, N>(weights + key, stride, row + key, queries, rows, width, sums);
    else scatter_block<1, N>(weights + key, stride, row + key, queries, rows, width, sums);
    key += together ? 4 : 1;
  }
}

inline void scatter_rows(const float* weights, int stride, const int* row, int count, int queries, const float* rows,
                         int width, float* sums) {
  int c = 0;
  for (; c + 2 * kLanes <= width; c += 2 * kLanes)
    scatter_columns<2>(weights, stride, row, count, queries, rows + c, width, sums + c);
  if (c < width) scatter_columns<1>(weights, stride, row, count, queries, rows + c, width, sums + c);
}

// Rows of tokens to columns: to[c][t] = from[t][c].
inline void transpose(const float* from, int width, int tokens, int channels, float* to, int64_t stride) {
  for (int c = 0; c < channels; ++c)
    for (int t = 0; t < tokens; ++t) to[c * stride + t] = from[t * width + c];
}
