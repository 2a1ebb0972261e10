// Routing: which regions each region attends to. One task is one image, all heads together.
//
// Region means of q and k are taken in one pass over the map (q and k of a token lie side by side), then the
// scores are a matrix product, and each row of them is ranked.
#include <cmath>
#include <limits>

#include "cpu.h"

namespace {

// Where a thread keeps what.
struct Workspace {
  int64_t size;
  float *means, *keys, *scores;

  Workspace(const Problem& p, const Geometry& g, float* memory) {
    const int width = round_up(2 * p.qk_dim, kLanes), padded = round_up(g.regions, kLanes);
    Parts parts{memory};
    means = parts.take(int64_t(round_up(g.regions, kQueries)) * width);
    keys = parts.take(p.qk_dim * padded);
    scores = parts.take(int64_t(kQueries) * padded);
    size = parts.size;
  }
};

template <class T>
class Task {
 public:
  Task(const Problem& p, const Geometry& g, int64_t image, float* memory)
      : p_(p), g_(g), image_(image), w_(p, g, memory), width_(round_up(2 * p.qk_dim, kLanes)) {}

  void run() {
    take_means();
    Panel panel;
    panel.columns = w_.keys;
    panel.stride = round_up(g_.regions, kLanes);
    panel.quads = false;
    std::fill(w_.keys, w_.keys + p_.qk_dim * panel.stride, 0.0f);
    transpose(w_.means + p_.qk_dim, width_, g_.regions, p_.qk_dim, w_.keys, panel.stride);
    for (int r = 0; r < g_.regions; r += kQueries) {
      scores_of(w_.means + int64_t(r) * width_, width_, panel, p_.qk_dim, w_.scores);
      for (int i = 0; i < kQueries && r + i < g_.regions; ++i) choose(r + i, w_.scores + i * panel.stride);
    }
  }

 private:
  const Problem& p_;
  const Geometry& g_;
  int64_t image_;
  Workspace w_;
  int width_;

  // Means over the tokens on the map, q and k one after the other; rows that fill up a block are zero.
  void take_means() {
    const int64_t step = 2 * p_.qk_dim + p_.dim;
    const T* map = static_cast<const T*>(p_.qkv) + image_ * p_.height * p_.width * step;
    const int count = 2 * p_.qk_dim, whole = count / kLanes * kLanes;
    std::fill(w_.means, w_.means + int64_t(round_up(g_.regions, kQueries)) * width_, 0.0f);
    for (int r = 0; r < g_.regions; ++r) {
      float* mean = w_.means + int64_t(r) * width_;
      for (int t = 0; t < g_.real[r]; ++t) {
        const T* token = map + g_.place[g_.first[r] + t] * step;
        const T* ahead = map + g_.place[g_.first[r] + t + kAhead / 2] * step;  // whole tokens: more to ask for
        for (int c = 0; c < whole; c += kLanes) {
          __builtin_prefetch(ahead + c);
          store(mean + c, load(mean + c) + load(token + c));
        }
        if (whole < count) store(mean + whole, load(mean + whole) + load_part(token + whole, count - whole));
      }
      const float share = 1.0f / g_.real[r];
      for (int c = 0; c < width_; c += kLanes) store(mean + c, load(mean + c) * share);
    }
  }

  // The best regions first; of equals the one with the smaller number. A NaN counts as the best of all.
  // A region's place is the number of those before it: more comparisons than a sort, but many at once.
  void choose(int region, float* score) {
    for (int r = 0; r < g_.regions; ++r)
      if (std::isnan(score[r])) score[r] = std::numeric_limits<float>::infinity();
    int64_t* to = static_cast<int64_t*>(p_.out) + (image_ * g_.regions + region) * p_.topk;
    for (int first = 0; first < g_.regions; first += kLanes) {
      const Vec own = load(score + first);
      Ints before = {}, number;
      for (int i = 0; i < kLanes; ++i) number[i] = first + i;
      for (int other = 0; other < g_.regions; ++other) {
        const Vec x = splat(score[other]);
        before -= (x > own) | ((x == own) & (number > other));  // a comparison that holds is -1
      }
      for (int i = 0; i < kLanes && first + i < g_.regions; ++i)
        if (before[i] < p_.topk) to[before[i]] = first + i;
    }
  }
};

template <class T>
void route(const Problem& p, const Geometry& g, int64_t workspace) {
  for_each_task(p, p.batch, workspace, [&](int64_t image, float* memory) { Task<T>(p, g, image, memory).run(); });
}

}  // namespace

// Floats of workspace that each thread needs.
EXPORT int64_t bra_route_workspace(const Problem* p) { return Workspace(*p, Geometry(*p), nullptr).size; }

// Writes (B, R, topk) int64 to `out`. Returns 0.
EXPORT int bra_route(const Problem* p) {
  const Geometry geometry(*p);
  const int64_t workspace = Workspace(*p, geometry, nullptr).size;
  if (p->bf16) route<bfloat16>(*p, geometry, workspace);
  else route<float>(*p, geometry, workspace);
  return 0;
}
