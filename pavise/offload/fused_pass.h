#ifndef PAVISE_OFFLOAD_FUSED_PASS_H_
#define PAVISE_OFFLOAD_FUSED_PASS_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "pavise/offload/scheme.h"
#include "pavise/offload/tensor.h"

#include "absl/status/status.h"

namespace pavise::offload {

enum class Activation { kNone, kRelu, kGelu };  // kGelu: x Phi(x), with the error function

// What the coordinator does between two offloaded layers, reading and writing memory once:
//
//   forward   v = decode(in) + bias + residual;  sum = v;  v = activation(v) or layer_norm(v)
//   backward  v = decode(in);  v = v activation'(saved), or layer_norm's gradient at saved;
//             v = v + residual;  bias_gradient += column sums of v
//   then      plain = v;  out = encode(v)
//
// Everything but in and out is optional and plain: rows in the samples' order. Views must not
// overlap.
struct FusedPass {
  size_t rows = 0;
  size_t columns = 0;

  // As it came; one of the two.
  MatrixView in;
  ViewOf<const uint16_t> in_bf16;
  WireKeys decode;  // no keys: `in` is plain
  std::span<const float> bias;
  MatrixView residual;
  MutableMatrixView sum;
  Activation activation = Activation::kNone;
  std::span<const float> gamma;  // layer norm, where it is not empty; with Activation::kNone
  std::span<const float> beta;   // as long as gamma
  float epsilon = 1e-5f;

  bool is_backward = false;
  MatrixView saved;  // the forward pass' sum
  std::span<float> bias_gradient;
  std::span<float> gamma_gradient;  // both or none, and only with gamma
  std::span<float> beta_gradient;

  MutableMatrixView plain;
  WireKeys encode;  // no keys: `out` is plain
  // One of the two, or none.
  MutableMatrixView out;
  ViewOf<uint16_t> out_bf16;  // to nearest, ties to even
};

// Memory that passes work in, kept from one to the next. One for each thread.
struct FusedWorkspace {
  std::vector<float> values;
};

// Usage errors: shapes that do not fit, keys of other dimensions, members that contradict each
// other.
absl::Status CheckFusedPass(const FusedPass& pass);

// The plain implementation, for every scheme in floats: over memory once for each operation, with
// activations and norms in float64. What the kernels are tested against.
absl::Status RunPlainPass(const FusedPass& pass);

// Whether there is a kernel: for `none`, `tempo`, and `orthogonal` of 64 rows and columns or more,
// whose steps share their grouping and positions where the pass decodes and encodes. All else is
// RunPlainPass's.
bool KernelSupports(const FusedPass& pass);
// Parts of the pass that any threads may do in any order: 64 rows (of one position), or fewer. What
// sums over rows (bias_gradient, ...) needs a span for each thread.
size_t PartsOf(const FusedPass& pass);
// Parts [first, last), with denormal numbers taken for zero: they cost ten times the others. A
// usage error where there is no kernel.
absl::Status RunFusedPass(const FusedPass& pass, size_t first, size_t last,
                          FusedWorkspace& workspace);

// All parts, by the kernel where there is one and in plain code where there is none.
absl::Status RunPass(const FusedPass& pass, FusedWorkspace& workspace);

// "AVX3", ...: what the kernels were compiled for that this CPU runs. The tests run all of them.
std::string_view FusedPassTarget();
std::vector<std::string_view> FusedPassTargets();
// For tests and benchmarks; an empty name chooses the best again. Not thread-safe. False: no such.
bool ForceFusedPassTarget(std::string_view target);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_FUSED_PASS_H_
