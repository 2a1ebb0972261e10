// Forward pass of bi-level routing attention with LePE: see cpu.py for what is computed.
//
// Per head of an image: keys transposed in region order, values in a bordered map. Then, row of regions by
// row of regions: LePE of its tokens, the attention of each of its regions, and their sum to the output.
// Softmax is online where a region is routed to more than kKeys keys, so memory does not grow with topk.
#include <cmath>
#include <limits>

#include "cpu_lepe.h"

namespace {

// Where a thread keeps what.
struct Workspace {
  int64_t size;
  float *columns, *values, *local, *taps, *bias, *panel, *query, *sums, *weights;

  Workspace(const Problem& p, const Geometry& g, float* memory) {
    const int dk = p.qk_dim / p.heads, dv = p.dim / p.heads, wk = round_up(dk, kLanes), wv = round_up(dv, kLanes);
    Parts parts{memory};
    columns = parts.take(int64_t(g.tokens()) * dk);
    values = parts.take(int64_t(g.bordered()) * wv);
    local = parts.take(p.region_height * g.width * wv);
    taps = parts.take(p.kernel * p.kernel * wv);
    bias = parts.take(wv);
    panel = parts.take(int64_t(kKeys) * dk);
    query = parts.take(kRegionRows * wk);
    sums = parts.take(kRegionRows * wv);
    weights = parts.take(kQueries * kKeys);
    size = parts.size;
  }
};

// One step of the online softmax of a query's logits: they become weights relative to `top`, the largest
// so far. Returns by what earlier sums must shrink.
inline float softmax_step(float* logits, int count, int stride, float& top, float& total) {
  std::fill(logits + count, logits + stride, -std::numeric_limits<float>::infinity());
  Vec largest = splat(top);
  for (int i = 0; i < stride; i += kLanes) largest = maximum(largest, load(logits + i));
  const float before = top;
  top = largest_lane(largest);
  Vec sum = {};
  for (int i = 0; i < stride; i += kLanes) {
    const Vec weight = exp_negative(load(logits + i) - top);
    store(logits + i, weight);
    sum += weight;
  }
  const float shrink = before == -std::numeric_limits<float>::infinity() ? 0.0f : std::exp(before - top);
  total = total * shrink + sum_of_lanes(sum);
  return shrink;
}

// The head of one image that a task stands for.
template <class T, int D>
class Task {
 public:
  Task(const Problem& p, const Geometry& g, int64_t task, float* memory)
      : p_(p), g_(g), task_(task), w_(p, g, memory), map_(p, static_cast<const T*>(p.qkv), task),
        out_(head_of<D>(p, static_cast<T*>(p.out), task)) {}

  void run() {
    pack_regions(g_, map_.k, nullptr, w_.columns);
    pack_bordered(g_, map_.v, w_.values);
    if (p_.lepe_weight) pack_lepe();
    for (int band = 0; band < g_.region_rows; ++band) {
      const int top = band * p_.region_height, bottom = std::min<int>(top + p_.region_height, g_.height);
      if (p_.lepe_weight) convolve(g_, w_.values, w_.taps, w_.bias, p_.kernel, out_.width(), top, bottom, w_.local);
      for (int column = 0; column < g_.region_columns; ++column) attend(band * g_.region_columns + column, top);
    }
  }

 private:
  const Problem& p_;
  const Geometry& g_;
  int64_t task_;
  Workspace w_;
  Operands<const T, D> map_;
  Channels<T, D> out_;
  Panel panel_;

  void pack_lepe() {
    const int64_t head = task_ % p_.heads;
    pack_taps(p_, head, out_.width(), false, w_.taps);
    std::fill(w_.bias, w_.bias + out_.width(), 0.0f);
    if (p_.lepe_bias) read_row(p_.lepe_bias + head * out_.count(), out_.count(), w_.bias);
  }

  void attend(int region, int top) {
    const int64_t image = task_ / p_.heads;
    Routed routed(g_, p_.routes + (image * g_.regions + region) * p_.topk, p_.topk);
    for (int begin = 0; begin < g_.real[region]; begin += kRegionRows) {
      const int queries = std::min(kRegionRows, g_.real[region] - begin);
      const int* place = g_.place.data() + g_.first[region] + begin;
      read_rows(map_.q, place, queries, w_.query, p_.scale);
      for (int q = 0; q < queries; ++q) out_.will_write(place[q]);
      float largest[kRegionRows], total[kRegionRows] = {};
      std::fill(largest, largest + kRegionRows, -std::numeric_limits<float>::infinity());
      std::fill(w_.sums, w_.sums + round_up(queries, kQueries) * out_.width(), 0.0f);
      for (int64_t key = 0; key < routed.total; key += kKeys) {
        if (begin == 0 || routed.total > kKeys) {
          routed.take(key);
          routed.gather(w_.columns, map_.k.count(), w_.panel, panel_);
        }
        for (int q = 0; q < queries; q += kQueries) attend_block(routed, q, largest + q, total + q);
      }
      for (int q = 0; q < queries; ++q) {
        const float* local = p_.lepe_weight ? w_.local + int64_t(place[q] - top * g_.width) * out_.width() : nullptr;
        write_row(out_.at(place[q]), out_.count(), w_.sums + q * out_.width(), 1.0f / total[q], local);
      }
    }
  }

  void attend_block(const Routed& routed, int q, float* largest, float* total) {
    const int stride = routed.stride;
    scores_of(w_.query + q * map_.q.width(), map_.q.width(), panel_, map_.q.count(), w_.weights);
    float shrink[kQueries];
    for (int i = 0; i < kQueries; ++i)
      shrink[i] = softmax_step(w_.weights + i * stride, routed.count, stride, largest[i], total[i]);
    add_values(w_.weights, stride, routed.bordered, routed.count, w_.values, out_.width(), shrink,
               w_.sums + q * out_.width());
  }
};

template <class T, int D>
void forward(const Problem& p, const Geometry& g, int64_t workspace) {
  for_each_task(p, p.batch * p.heads, workspace,
                [&](int64_t task, float* memory) { Task<T, D>(p, g, task, memory).run(); });
}

}  // namespace

// Floats of workspace that each thread needs.
EXPORT int64_t bra_forward_workspace(const Problem* p) { return Workspace(*p, Geometry(*p), nullptr).size; }

// Returns 0, or 1 if a route is not the number of a region.
EXPORT int bra_forward(const Problem* p) {
  const Geometry geometry(*p);
  if (!routes_exist(*p, geometry)) return 1;
  const int64_t workspace = Workspace(*p, geometry, nullptr).size;
  const bool common = p->qk_dim == 32 * p->heads && p->dim == 32 * p->heads;
  const auto run = p->bf16 ? common ? forward<bfloat16, 32> : forward<bfloat16, 0>
                           : common ? forward<float, 32> : forward<float, 0>;
  run(*p, geometry, workspace);
  return 0;
}
