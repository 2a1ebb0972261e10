// What Python hands over, where the tokens of a map lie, and the pieces that forward and backward share.
//
// One task is one head of one image. Its keys (and in the backward pass values) are brought into *region
// order*, where the tokens of a region follow each other; queries, outputs and gradients of queries are
// read and written where they lie in the map. Nothing is ever gathered but the keys of one region's routes,
// at most kKeys at a time.
#pragma once

#include <atomic>
#include <vector>

#include "cpu_tiles.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

constexpr int kRegionRows = 32;  // queries of a region that are worked on at once
constexpr int kAhead = 16;       // tokens from one that is read to one that the cache is asked for

extern "C" {

// As OpenMP's GOMP_parallel: calls `body(data)` once in each of `threads` threads.
typedef void (*Parallel)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

// The struct of the same name in cpu.py. Maps are contiguous (B, H, W, channels).
struct Problem {
  const void* qkv;             // 2·qk_dim + dim channels: q | k | v, channel = head · d + channel of it
  const int64_t* routes;       // (B, R, topk)
  const float* lepe_weight;    // (dim, kernel, kernel) or null
  const float* lepe_bias;      // (dim) or null
  void* out;                   // dim channels
  const void* grad_out;        // backward only, as all that follow
  void* grad_qkv;
  float* grad_weight;          // (B, dim, kernel, kernel): a sum per image, so that none depends on threads
  float* grad_bias;            // (B, dim)
  float* workspace;            // `threads` times what bra_..._workspace() says
  Parallel parallel;           // the caller's threads; null for none
  int64_t batch, height, width, qk_dim, dim, heads, region_height, region_width, topk, kernel;
  int64_t attend_padding, bf16, threads;
  float scale;
};
}

// Calls work(task, workspace of this thread) for each task, on as many threads as there are tasks for.
template <class Work>
void for_each_task(const Problem& p, int64_t tasks, int64_t workspace, const Work& work) {
  struct Shared {
    const Work& work;
    std::atomic<int64_t> next, thread;
    int64_t tasks, workspace;
    float* memory;
  } shared{work, {0}, {0}, tasks, workspace, p.workspace};
  const auto body = [](void* data) {
    Shared& s = *static_cast<Shared*>(data);
    float* memory = s.memory + s.thread++ * s.workspace;
    for (int64_t task; (task = s.next++) < s.tasks;) s.work(task, memory);
  };
  const int64_t threads = std::min(p.threads, tasks);
  if (p.parallel && threads > 1) p.parallel(body, &shared, threads, 0);
  else body(&shared);
}

// Cuts a thread's workspace into parts; without memory it only adds up their size.
struct Parts {
  float* memory;
  int64_t size = 0;

  float* take(int64_t floats) {
    float* part = memory ? memory + size : nullptr;
    size += (floats + 15) / 16 * 16;  // whole cache lines
    return part;
  }
};

// Where tokens are: in the map, in region order, and in the map with a border that LePE reads.
struct Geometry {
  int height, width, border, padded_width;
  int regions, region_rows, region_columns;
  std::vector<int> first;   // of a region's tokens in region order; one more than there are regions
  std::vector<int> real;    // tokens of a region on the map: these come first, padding after them
  std::vector<int> place;   // of a token in the map
  std::vector<int> padded;  // of a token in the map with a border
  int zero;                 // a row of the bordered map that is always zero

  explicit Geometry(const Problem& p)
      : height(p.height), width(p.width), border(p.kernel / 2), padded_width(width + 2 * border) {
    const int h = p.region_height, w = p.region_width;
    region_rows = (height + h - 1) / h;
    region_columns = (width + w - 1) / w;
    regions = region_rows * region_columns;
    zero = padded_width * (height + 2 * border);
    for (int r = 0; r < regions; ++r) add_region(r / region_columns * h, r % region_columns * w, h, w, p.attend_padding);
    first.push_back(place.size());
    place.resize(place.size() + kRegionRows + kAhead);  // for those who look ahead
  }

  int tokens() const { return first.back(); }

  // Rows of the bordered map: a zero row, and room for a strip of LePE to reach past the last column.
  int bordered() const { return zero + 1 + 16; }

 private:
  void add_region(int top, int left, int h, int w, bool attend_padding) {
    first.push_back(place.size());
    const int bottom = std::min(top + h, height), right = std::min(left + w, width);
    for (int y = top; y < bottom; ++y)
      for (int x = left; x < right; ++x) {
        place.push_back(y * width + x);
        padded.push_back((y + border) * padded_width + x + border);
      }
    real.push_back(place.size() - first.back());
    if (attend_padding) {
      place.resize(first.back() + h * w, 0);
      padded.resize(first.back() + h * w, zero);
    }
  }
};

// One operand of one head in a map: a base and the channels from one token to the next. D is the number of
// channels where it is known to the compiler, else 0.
template <class T, int D>
struct Channels {
  T* base;
  int64_t step;
  int channels;

  int count() const { return D ? D : channels; }
  int width() const { return round_up(count(), kLanes); }  // of a row of whole vectors

  T* at(int place) const { return base + place * step; }

  // Ask the cache for a token that is soon read, or written (its line is fetched even then). Tokens lie a page
  // apart in the last stages, where the processor does not foresee them.
  void will_read(int place) const {
    for (int c = 0; c < count(); c += kLine) __builtin_prefetch(at(place) + c, 0);
  }
  void will_write(int place) const {
    for (int c = 0; c < count(); c += kLine) __builtin_prefetch(at(place) + c, 1);
  }

 private:
  static constexpr int kLine = 64 / sizeof(T);
};

// The three operands of the task's head in a map of q | k | v.
template <class T, int D>
struct Operands {
  Channels<T, D> q, k, v;

  Operands(const Problem& p, T* map, int64_t task) {
    const int64_t image = task / p.heads, head = task % p.heads, step = 2 * p.qk_dim + p.dim;
    const int dk = p.qk_dim / p.heads, dv = p.dim / p.heads;
    T* base = map + image * p.height * p.width * step;
    q = {base + head * dk, step, dk};
    k = {q.base + p.qk_dim, step, dk};
    v = {base + 2 * p.qk_dim + head * dv, step, dv};
  }
};

// The task's head in a map of outputs.
template <int D, class T>
Channels<T, D> head_of(const Problem& p, T* map, int64_t task) {
  const int64_t image = task / p.heads, head = task % p.heads;
  const int d = p.dim / p.heads;
  return {map + image * p.height * p.width * p.dim + head * d, p.dim, d};
}

// Rows of tokens at `place`, times scale; those that fill up a block of queries are zero. Asks the cache for
// as many tokens that follow.
template <class T, int D>
void read_rows(const Channels<T, D>& from, const int* place, int rows, float* to, float scale = 1.0f) {
  for (int i = 0; i < rows; ++i) {
    from.will_read(place[rows + i]);
    read_row(from.at(place[i]), from.count(), to + i * from.width(), scale);
  }
  std::fill(to + rows * from.width(), to + round_up(rows, kQueries) * from.width(), 0.0f);
}

// True if every route is the number of a region.
inline bool routes_exist(const Problem& p, const Geometry& g) {
  const int64_t count = p.batch * g.regions * p.topk;
  return std::all_of(p.routes, p.routes + count, [&](int64_t r) { return r >= 0 && r < g.regions; });
}

// Rows in region order, and each region's transpose: columns[first · channels + channel · n + token].
// Either may be null.
template <class T, int D>
void pack_regions(const Geometry& g, const Channels<T, D>& from, float* rows, float* columns) {
  alignas(64) float local[kLanes * 512];
  const int step = std::max(1, std::min(kLanes, int(sizeof local / 4) / from.width()));
  for (int r = 0; r < g.regions; ++r) {
    const int n = g.first[r + 1] - g.first[r];
    for (int t = 0; t < n; t += step) {
      const int some = std::min(step, n - t), token = g.first[r] + t;
      float* block = rows ? rows + int64_t(token) * from.width() : local;
      for (int i = 0; i < some; ++i) {
        float* row = block + i * from.width();
        from.will_read(g.place[token + i + kAhead]);
        if (t + i < g.real[r]) read_row(from.at(g.place[token + i]), from.count(), row);
        else std::fill(row, row + from.width(), 0.0f);
      }
      if (columns) transpose(block, from.width(), some, from.count(), columns + int64_t(g.first[r]) * from.count() + t, n);
    }
  }
}

// The map with its border of zeros, one row of whole vectors for each token.
template <class T, int D>
void pack_bordered(const Geometry& g, const Channels<T, D>& from, float* to) {
  std::memset(to, 0, sizeof(float) * g.bordered() * from.width());
  for (int y = 0; y < g.height; ++y) {
    float* row = to + int64_t((y + g.border) * g.padded_width + g.border) * from.width();
    for (int x = 0; x < g.width; ++x) {
      from.will_read(y * g.width + x + kAhead);
      read_row(from.at(y * g.width + x), from.count(), row + int64_t(x) * from.width());
    }
  }
}

// The keys that a region is routed to, numbered through; at most kKeys of them are taken at once.
class Routed {
 public:
  int64_t total = 0;
  int count = 0;    // keys taken
  int stride = 0;   // the same rounded up to whole vectors
  int row[kKeys];       // of each, in region order
  int bordered[kKeys];  // of each, in the bordered map

  Routed(const Geometry& g, const int64_t* routes, int64_t topk) : g_(g), routes_(routes), topk_(topk) {
    for (int64_t j = 0; j < topk; ++j) total += tokens(routes[j]);
  }

  // Take keys begin, begin + 1, ...
  void take(int64_t begin) {
    count = runs_ = 0;
    for (int64_t j = 0; j < topk_ && count < kKeys; ++j) {
      const int region = routes_[j], n = tokens(region);
      if (begin < n) {
        const int length = std::min<int64_t>(n - begin, kKeys - count);
        run_[runs_++] = {region, int(begin), length};
        if (length == 4) number<4>(region, begin, 4);
        else number<0>(region, begin, length);
      }
      begin = std::max<int64_t>(begin - n, 0);
    }
    stride = round_up(count, kLanes);
  }

  // The keys taken, from what pack_regions() wrote to `columns`; copied to `memory` unless all come in fours,
  // as in regions of 2 × 2 tokens. Zero past the last key.
  void gather(const float* columns, int channels, float* memory, Panel& panel) const {
    panel.columns = memory;
    panel.stride = stride;
    panel.quads = count == stride && std::all_of(run_, run_ + runs_, [&](const Run& run) {
      return run.length == 4 && tokens(run.region) == 4;
    });
    for (int i = 0; i < runs_; ++i) {
      const Run& run = run_[i];
      const float* from = columns + int64_t(g_.first[run.region]) * channels + run.begin;
      if (panel.quads) panel.quad[i] = from;
      else memory = copy(from, tokens(run.region), run.length, channels, memory);
    }
    if (panel.quads || count == stride) return;
    for (int c = 0; c < channels; ++c) std::fill(memory + c * stride, memory + c * stride + stride - count, 0.0f);
  }

 private:
  struct Run {
    int region, begin, length;
  };
  const Geometry& g_;
  const int64_t* routes_;
  int64_t topk_;
  int runs_ = 0;
  Run run_[kKeys];

  int tokens(int64_t region) const { return g_.first[region + 1] - g_.first[region]; }

  float* copy(const float* from, int n, int length, int channels, float* to) const {
    for (int c = 0; c < channels; ++c) {
      if (length == 16) std::memcpy(to + c * stride, from + int64_t(c) * n, sizeof(float) * 16);
      else std::memcpy(to + c * stride, from + int64_t(c) * n, sizeof(float) * length);
    }
    return to + length;
  }

  template <int N>
  void number(int region, int64_t begin, int length) {
    const int from = g_.first[region] + begin;
    const int* padded = g_.padded.data() + from;
    for (int t = 0; t < (N ? N : length); ++t) {
      row[count + t] = from + t;
      bordered[count + t] = padded[t];
    }
    count += length;
  }
};
