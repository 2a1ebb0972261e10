// Vectors of the machine this is compiled for, in the language extension that GCC and Clang share.
//
// No instruction set is assumed: the compiler says which one it targets, and that only sets the width.
// Whatever is computed is computed in float; maps are float or bfloat16.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kBlock = 4;  // vectors of keys side by side: 4 x 4 sums, of 32 registers
constexpr int kRow = 2;    // vectors of channels side by side
#elif defined(__AVX__)
constexpr int kLanes = 8;
constexpr int kBlock = 2;  // 4 x 2 sums, of 16 registers
constexpr int kRow = 1;
#else
constexpr int kLanes = 4;
constexpr int kBlock = 4;
constexpr int kRow = 2;
#endif

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)  // Clang, and GCC from 12 on
#define HAS_SHUFFLE 1
#endif
#endif

typedef float Quad __attribute__((vector_size(16)));
typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef uint32_t Bits __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef uint16_t HalfBits __attribute__((vector_size(kLanes * 2)));

struct bfloat16 {
  uint16_t bits;
};

constexpr int round_up(int n, int step) { return (n + step - 1) / step * step; }

inline Vec splat(float x) { return Vec{} + x; }

inline Vec load(const float* from) {
  Vec v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline Vec load(const bfloat16* from) {
  HalfBits half;
  std::memcpy(&half, from, sizeof half);
  return reinterpret_cast<Vec>(__builtin_convertvector(half, Bits) << 16);
}

inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }

// Rounds to nearest, ties to even; a NaN stays one.
inline void store(bfloat16* to, Vec v) {
  const Bits bits = reinterpret_cast<Bits>(v);
  const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Bits kept = v == v ? rounded : Bits{} + 0x7fc0;
  const HalfBits half = __builtin_convertvector(kept, HalfBits);
  std::memcpy(to, &half, sizeof half);
}

// `count` < kLanes elements; the other lanes are zero.
template <class T>
inline Vec load_part(const T* from, int count) {
  T full[kLanes] = {};
  for (int i = 0; i < count; ++i) full[i] = from[i];
  return load(full);
}

// One vector of quads that lie apart.
inline Vec join(const float* const* quads, int64_t offset) {
#if HAS_SHUFFLE && defined(__AVX512F__)
  Quad q[4];
  for (int i = 0; i < 4; ++i) std::memcpy(&q[i], quads[i] + offset, sizeof(Quad));
  const auto low = __builtin_shufflevector(q[0], q[1], 0, 1, 2, 3, 4, 5, 6, 7);
  const auto high = __builtin_shufflevector(q[2], q[3], 0, 1, 2, 3, 4, 5, 6, 7);
  return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  float lane[kLanes];
  for (int i = 0; i < kLanes / 4; ++i) std::memcpy(lane + 4 * i, quads[i] + offset, sizeof(Quad));
  return load(lane);
#endif
}

template <class T>
inline void store_part(T* to, Vec v, int count) {
  T full[kLanes];
  store(full, v);
  for (int i = 0; i < count; ++i) to[i] = full[i];
}

// One token's channels of one head, times `scale`, to a row of whole vectors.
template <class T>
inline void read_row(const T* from, int channels, float* to, float scale = 1.0f) {
  int c = 0;
  for (; c + kLanes <= channels; c += kLanes) store(to + c, load(from + c) * scale);
  if (c < channels) store(to + c, load_part(from + c, channels - c) * scale);
}

// scale * row + other, to one token's channels of one head; `other` may be null.
template <class T>
inline void write_row(T* to, int channels, const float* row, float scale, const float* other) {
  for (int c = 0; c < channels; c += kLanes) {
    Vec v = load(row + c) * scale;
    if (other) v += load(other + c);
    if (c + kLanes <= channels) store(to + c, v);
    else store_part(to + c, v, channels - c);
  }
}

// e^x for x <= 0, to 2 ulp: x = n ln 2 + r, and a polynomial in r (Cephes' coefficients). Below -87 it
// stays at 1e-38, which no sum that holds a one can see. A NaN stays a NaN.
inline Vec exp_negative(Vec x) {
  const Vec lowest = splat(-87.0f), magic = splat(12582912.0f);  // 1.5 * 2^23 rounds what is added to it
  x = x < lowest ? lowest : x;
  const Vec shifted = x * 1.44269504f + magic;
  const Vec n = shifted - magic;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  const Bits power = (reinterpret_cast<Bits>(shifted) << 23) + 0x3f800000u;  // 2^n
  return p * reinterpret_cast<Vec>(power);
}

// combine(a, b) over all lanes of a vector, in halves.
template <class Combine>
inline float fold(Vec v, const Combine& combine) {
#if HAS_SHUFFLE && defined(__AVX512F__)
  v = combine(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  v = combine(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  v = combine(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  v = combine(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
  return v[0];
#else
  float lane[kLanes];
  store(lane, v);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] = combine(lane[i], lane[i + half]);
  return lane[0];
#endif
}

template <class V>
inline V maximum(V a, V b) {
  return a < b ? b : a;
}

inline float largest_lane(Vec v) {
  return fold(v, [](auto a, auto b) { return maximum(a, b); });
}

inline float sum_of_lanes(Vec v) {
  return fold(v, [](auto a, auto b) { return a + b; });
}
