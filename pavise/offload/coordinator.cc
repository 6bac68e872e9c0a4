#include "pavise/offload/coordinator.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "pavise/base/bytes.h"
#include "pavise/base/random.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/checks/freivalds.h"
#include "pavise/offload/cpu/host_products.h"
#include "pavise/offload/internal/coordinator_state.h"
#include "pavise/offload/internal/frames.h"

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"

namespace pavise::offload {
namespace internal {
namespace {

double ThreadCpuSeconds() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

CpuTimer::CpuTimer(double& seconds) : seconds_(seconds), begin_(ThreadCpuSeconds()) {}
CpuTimer::~CpuTimer() { seconds_ += ThreadCpuSeconds() - begin_; }

std::string SoundnessLine(const CoordinatorOptions& options, std::span<const int> moduli,
                          size_t inner) {
  if (!moduli.empty()) {
    return absl::StrFormat("exact; a wrong result passes with at most %d^-%d", moduli.back(),
                           kModularVectors);
  }
  const FloatCheck check = FloatCheck::For(options.type);
  double error = 1;
  while (check.PassProbability(error) > 1e-3) error *= 1.01;
  const double sigma =
      check.Sigma(options.type, inner, 1, 1, std::sqrt(static_cast<double>(inner))) +
      (options.operand_type == DType::kFp32 ? 0 : UnitRoundoff(options.operand_type));
  return absl::StrFormat("%d vectors: a row off by %.2g of its norm is found in 999 of 1000 cases",
                         check.vectors, error * sigma);
}

}  // namespace internal

namespace {

using internal::CpuTimer;
using internal::FramesOf;
using internal::ShareOf;

absl::Status CheckOptions(const CoordinatorOptions& options) {
  if (options.type == DType::kInt8 || options.operand_type == DType::kInt8) {
    return UsageError("floats travel as fp32, bf16 or fp16");
  }
  if (UnitRoundoff(options.operand_type) > UnitRoundoff(options.type)) {
    return UsageError("operands are rounded to a narrower type than they travel in");
  }
  if (options.micro_batches < 1 || options.updates_per_checkpoint < 1 || options.row_blocks < 1 ||
      !(options.seconds_per_block_weight >= 0) || options.reply_timeout <= absl::ZeroDuration() ||
      !(options.drift_budget > 0)) {
    return UsageError(
        "micro-batches, row blocks, updates before a checkpoint, the time for an answer and the "
        "drift budget are more than 0");
  }
  return absl::OkStatus();
}

// One certificate is one operator's, whatever names were given.
absl::Status CheckOperator(const WorkerSeat& added, const WorkerSeat& known) {
  const std::string certificate = added.connection->certificate();
  if (certificate.empty() || certificate != known.connection->certificate() ||
      added.operated_by == known.operated_by) {
    return absl::OkStatus();
  }
  return Refuse(
      Reason::kPolicyDenied, StrCat("operator ", Printable(added.operated_by)),
      StrCat("its worker shows the certificate of one of operator ", Printable(known.operated_by)),
      "name one operator for both, and workers of others");
}

}  // namespace

Coordinator::Coordinator(std::unique_ptr<State> state) : state_(std::move(state)) {}
Coordinator::~Coordinator() = default;

absl::StatusOr<std::unique_ptr<Coordinator>> Coordinator::Create(
    std::shared_ptr<const Scheme> scheme, std::vector<WorkerSeat> workers, SecretStream stream,
    const CoordinatorOptions& options) {
  PAVISE_RETURN_IF_ERROR(CheckOptions(options));
  if (scheme->workers() > 1) {
    std::set<std::string> operators;
    for (const WorkerSeat& seat : workers) operators.insert(seat.operated_by);
    operators.erase("");
    if (operators.size() < scheme->workers()) {
      return Refuse(Reason::kPolicyDenied, scheme->name(),
                    StrCat("its workers have ", operators.size(), " distinct operators, not ",
                           scheme->workers()),
                    "name the operator of each worker; they must not collude");
    }
    for (const WorkerSeat& seat : workers) {
      for (const WorkerSeat& other : workers) {
        PAVISE_RETURN_IF_ERROR(CheckOperator(seat, other));
      }
    }
  }
  // Which kind of numbers the scheme sends, its layers know.
  PAVISE_ASSIGN_OR_RETURN(SecretStream sample, stream.Derive("sample"));
  PAVISE_ASSIGN_OR_RETURN(const auto layer,
                          scheme->NewLayer("sample", {1, 1, 1, 1}, std::move(sample)));
  Bytes nonce(SecretStream::kKeyBytes);
  RandomSource& random = options.random == nullptr ? SystemRandom() : *options.random;
  PAVISE_RETURN_IF_ERROR(random.Fill(nonce));
  PAVISE_ASSIGN_OR_RETURN(SecretStream fresh, stream.Derive(StrCat("fresh ", ToHex(nonce))));
  PAVISE_ASSIGN_OR_RETURN(SecretStream probes, fresh.Derive("probes"));
  internal::WorkerPool pool(
      {options.type, options.operand_type, !layer->moduli().empty(), options.reply_timeout},
      std::move(probes));
  for (WorkerSeat& seat : workers) pool.Join(std::move(seat));
  size_t at_work = 0;
  for (size_t i = 0; i < pool.size(); ++i) at_work += pool.is_at_work(i) ? 1 : 0;
  if (at_work < scheme->workers()) return pool.NoneLeft(scheme->name());
  auto state = std::make_unique<State>(std::move(scheme), options, std::move(stream),
                                       std::move(fresh), std::move(pool));
  return std::unique_ptr<Coordinator>(new Coordinator(std::move(state)));
}

absl::Status Coordinator::AddWorker(WorkerSeat worker) {
  internal::WorkerPool& pool = state_->pool;
  for (size_t i = 0; i < pool.size() && state_->scheme->workers() > 1; ++i) {
    PAVISE_RETURN_IF_ERROR(CheckOperator(worker, pool.worker(i).seat));
  }
  const size_t added = pool.Join(std::move(worker));
  if (!pool.is_at_work(added)) return pool.worker(added).verdict;
  // Shares stay where they are; the worker is there when another fails.
  if (state_->scheme->workers() > 1) return absl::OkStatus();
  // Layers that leave the worker which needs longest, while it still needs longer than the new one
  // would with the layer.
  double load = pool.worker(added).load;
  std::vector<double> left;
  for (size_t i = 0; i < pool.size(); ++i) left.push_back(pool.worker(i).load);
  for (auto& [item, layer] : state_->layers) {
    OffloadedLayer::Impl& impl = *layer->impl_;
    if (!impl.slots[0].worker.has_value() || impl.blocks != nullptr) continue;
    const size_t from = *impl.slots[0].worker;
    const double seconds = left[from] / pool.worker(from).products_per_second;
    const double here = (load + impl.work()) / pool.worker(added).products_per_second;
    if (here >= seconds) continue;
    left[from] -= impl.work();
    load += impl.work();
    impl.wants_move = true;
  }
  return absl::OkStatus();
}

absl::StatusOr<OffloadedLayer*> Coordinator::AddLayer(LayerSpec spec, LayerState initial) {
  if (state_->layers.contains(spec.item)) {
    return UsageError(StrCat(spec.item, ": there is such a layer"));
  }
  // A layer whose making failed may have sent shares to workers that are given others next time.
  const std::string made = StrCat("layer ", ++state_->layers_made);
  const bool in_floats = !state_->pool.needs_residues();
  PAVISE_ASSIGN_OR_RETURN(SecretStream stream,
                          in_floats ? state_->stream.Derive(StrCat("layer ", spec.item))
                                    : state_->fresh.Derive(StrCat(made, ", keys")));
  PAVISE_ASSIGN_OR_RETURN(SecretStream checks, state_->fresh.Derive(StrCat(made, ", checks")));
  auto impl = std::make_unique<OffloadedLayer::Impl>(*state_, std::move(spec), std::move(stream),
                                                     std::move(checks));
  absl::Status status;
  {
    const CpuTimer timer(impl->report.coordinator_cpu_seconds);
    status = impl->Make(std::move(initial));
  }
  if (!status.ok()) {
    impl->Reset();
    for (OffloadedLayer::Impl::Slot& slot : impl->slots) impl->LeaveWorker(slot);
    return status;
  }
  std::string item = impl->spec.item;
  auto& layer = state_->layers[std::move(item)];
  layer.reset(new OffloadedLayer(std::move(impl)));
  return layer.get();
}

absl::StatusOr<Matrix> Coordinator::State::MultiplyHere(Operation operation, MatrixView a,
                                                        MatrixView b) const {
  if (options.local_product) return options.local_product(operation, a, b);
  const bool left = operation == Operation::kTransposeLeft;
  const bool right = operation == Operation::kTransposeRight;
  PAVISE_ASSIGN_OR_RETURN(
      Matrix out, Matrix::Create(left ? a.columns : a.rows, right ? b.rows : b.columns, "product"));
  PAVISE_RETURN_IF_ERROR(NewPlainProducts()->Floats(operation, a, b, false, out.view()));
  return out;
}

// ---- Products of two secrets ----

namespace {

// A product under way.
struct Job {
  std::unique_ptr<Layer> layer;
  std::unique_ptr<Step> step;
  std::vector<int> moduli;
  size_t rows = 0;  // of the result
  size_t columns = 0;
  double work = 0;
  // As they travelled.
  Encoding a;
  Encoding b;
  std::vector<size_t> workers;
  std::vector<Request> requests;  // without frames
  std::vector<std::unique_ptr<PendingReply>> pending;
};

}  // namespace

absl::StatusOr<std::vector<Matrix>> Coordinator::Products(Operation operation,
                                                          std::span<const Operands> operands) {
  State& state = *state_;
  LayerReport& report = state.product_report;
  const CpuTimer timer(report.coordinator_cpu_seconds);
  internal::WorkerPool& pool = state.pool;
  const DType type = state.options.type;
  if (!state.scheme->supports(Use::kTraining)) {
    return Refuse(Reason::kUnsupported, state.scheme->name(),
                  "its second operand is no secret, and that of a product is",
                  "use tempo, orthogonal or shared");
  }
  const bool left = operation == Operation::kTransposeLeft;
  const bool right = operation == Operation::kTransposeRight;

  const auto send_share = [&](Encoding& encoding, size_t worker, const std::vector<int>& moduli,
                              Frames& frames) -> absl::Status {
    Share& share = encoding[worker];
    PAVISE_ASSIGN_OR_RETURN(Frames sent, FramesOf(share, type, moduli, "product"));
    if (moduli.empty() && type != DType::kFp32) {
      PAVISE_ASSIGN_OR_RETURN(share, ShareOf(sent, type, moduli, share.values.rows(),
                                             share.values.columns(), "product"));
    }
    for (Frame& frame : sent) frames.push_back(std::move(frame));
    return absl::OkStatus();
  };
  // Under a key of its own each time.
  const auto start = [&](const Operands& pair) -> absl::StatusOr<Job> {
    const MatrixView a = pair.a;
    const MatrixView b = pair.b;
    Job job;
    // A product a b is a layer's output, a b^T an input's gradient, a^T b a weight's.
    const LayerShape shape = {left ? a.columns : b.rows, b.columns, 1, a.rows};
    job.rows = left ? a.columns : a.rows;
    job.columns = right ? b.rows : b.columns;
    job.work = 2.0 * static_cast<double>(a.rows) * static_cast<double>(a.columns) *
               static_cast<double>(left || !right ? b.columns : b.rows);
    const std::string item = StrCat("product ", ++state.products);
    if ((left ? a.rows : a.columns) != (right ? b.columns : b.rows)) {
      return UsageError(StrCat(item, ": the shapes do not fit"));
    }
    PAVISE_ASSIGN_OR_RETURN(SecretStream key, state.fresh.Derive(item));
    PAVISE_ASSIGN_OR_RETURN(job.layer, state.scheme->NewLayer(item, shape, std::move(key)));
    job.moduli = job.layer->moduli();
    if (!left) {
      PAVISE_ASSIGN_OR_RETURN(job.b, job.layer->EncodeWeights(b));
    }
    StepShape step_shape;
    step_shape.samples = a.rows;
    PAVISE_ASSIGN_OR_RETURN(job.step, job.layer->NewStep(step_shape, Use::kTraining));
    PAVISE_ASSIGN_OR_RETURN(job.a,
                            right ? job.step->EncodeOutputGradients(a) : job.step->EncodeInputs(a));
    if (left) {
      PAVISE_ASSIGN_OR_RETURN(job.b, job.step->EncodeOutputGradients(b));
    }
    std::set<std::string> operators;
    for (size_t share = 0; share < state.scheme->workers(); ++share) {
      const auto chosen = pool.Choose(job.work, [&](size_t i) {
        return state.scheme->workers() == 1 ||
               (!pool.worker(i).seat.operated_by.empty() &&
                !operators.contains(pool.worker(i).seat.operated_by));
      });
      if (!chosen.has_value()) {
        for (const size_t worker : job.workers) pool.worker(worker).load -= job.work;
        return pool.NoneLeft(item);
      }
      operators.insert(pool.worker(*chosen).seat.operated_by);
      job.workers.push_back(*chosen);
      pool.worker(*chosen).load += job.work;
    }
    for (size_t share = 0; share < job.workers.size(); ++share) {
      Request request;
      request.command = Command::kProduct;
      request.operation = operation;
      request.step = state.products;
      request.reply_type = type;
      request.operand_type = state.options.operand_type;
      job.requests.push_back(request);
      PAVISE_RETURN_IF_ERROR(send_share(job.a, share, job.moduli, request.frames));
      PAVISE_RETURN_IF_ERROR(send_share(job.b, share, job.moduli, request.frames));
      report.sent_bytes += internal::SizeBytes(request.frames);
      job.pending.push_back(
          pool.worker(job.workers[share]).seat.connection->Send(std::move(request)));
    }
    return job;
  };
  const auto check = [&](const Job& job, size_t share, const Reply& reply,
                         Share& result) -> absl::Status {
    PAVISE_RETURN_IF_ERROR(internal::CheckEcho(job.requests[share], reply));
    PAVISE_ASSIGN_OR_RETURN(
        result, ShareOf(reply.frames, type, job.moduli, job.rows, job.columns, "product"));
    PAVISE_ASSIGN_OR_RETURN(
        SecretStream vectors,
        state.fresh.Derive(StrCat("product ", job.requests[share].step, ", vectors ", share)));
    if (job.moduli.empty()) {
      return CheckProduct(FloatCheck::For(type), operation, job.a[share].values,
                          job.b[share].values, result.values, type, vectors, "product");
    }
    for (size_t p = 0; p < job.moduli.size(); ++p) {
      PAVISE_RETURN_IF_ERROR(CheckModularProduct(
          operation, job.a[share].residues[p].view(), job.b[share].residues[p].view(),
          result.residues[p].view(), job.moduli[p], kModularVectors, vectors, "product"));
    }
    return absl::OkStatus();
  };
  // The shares, or none where a worker failed; it is evicted then.
  const auto finish = [&](Job& job) {
    std::optional<Encoding> results(std::in_place, job.workers.size());
    for (size_t share = 0; share < job.workers.size(); ++share) {
      const size_t worker = job.workers[share];
      pool.worker(worker).load -= job.work;
      const auto reply = job.pending[share]->Wait(absl::Now() + state.options.reply_timeout);
      absl::Status status = reply.status();
      if (status.ok()) {
        report.received_bytes += internal::SizeBytes(reply->frames);
        status =
            results.has_value() ? check(job, share, *reply, (*results)[share]) : absl::OkStatus();
      }
      if (status.ok()) {
        report.checks += results.has_value() ? 1 : 0;
        continue;
      }
      pool.Evict(worker, "product", status);
      results.reset();
    }
    return results;
  };
  const auto decode = [&](const Job& job, Encoding results) -> absl::StatusOr<Matrix> {
    if (right) return job.step->DecodeInputGradients(results);
    if (!left) return job.step->DecodeOutputs(results);
    const KeyShift& shift = job.layer->key_shift();
    for (size_t i = 0; i < job.rows && !shift.rows.empty(); ++i) {
      for (size_t j = 0; j < job.columns; ++j) {
        results[0].values(i, j) *= shift.rows[i] * shift.columns[j];
      }
    }
    return job.step->DecodeWeightGradients(results);
  };

  std::vector<Job> jobs;
  absl::Status failed;
  for (const Operands& pair : operands) {
    auto job = start(pair);
    if (!job.ok()) {
      failed = job.status();
      break;
    }
    jobs.push_back(*std::move(job));
  }
  std::vector<Matrix> products;
  for (size_t i = 0; i < jobs.size(); ++i) {
    std::optional<Encoding> results = finish(jobs[i]);
    while (failed.ok() && !results.has_value()) {
      auto again = start(operands[i]);
      if (!again.ok()) {
        failed = again.status();
        break;
      }
      ++report.recoveries;
      jobs[i] = *std::move(again);
      results = finish(jobs[i]);
    }
    if (!failed.ok()) continue;  // the others' answers are waited for all the same
    auto product = decode(jobs[i], *std::move(results));
    failed = product.status();
    if (failed.ok()) products.push_back(*std::move(product));
  }
  PAVISE_RETURN_IF_ERROR(failed);
  report.keys += operands.size();
  return products;
}

absl::StatusOr<Matrix> Coordinator::Product(Operation operation, MatrixView a, MatrixView b) {
  const Operands operands[] = {{a, b}};
  PAVISE_ASSIGN_OR_RETURN(std::vector<Matrix> products, Products(operation, operands));
  return std::move(products[0]);
}

// ---- Reports ----

CoordinatorReport Coordinator::Report() const {
  CoordinatorReport report;
  for (const auto& [item, layer] : state_->layers) report.layers.push_back(layer->Report());
  report.products = state_->product_report;
  report.products.item = "products";
  report.products.scheme = std::string(state_->scheme->name());
  report.products.key_budget = "one key for each";
  for (size_t i = 0; i < state_->pool.size(); ++i) {
    const internal::WorkerPool::Worker& worker = state_->pool.worker(i);
    WorkerReport& row = report.workers.emplace_back();
    row.name = state_->pool.name(i);
    row.device = worker.seat.connection->description().device;
    row.operated_by = worker.seat.operated_by;
    row.products_per_second = worker.products_per_second;
    row.evicted_because = FromAbsl(worker.verdict.message());
  }
  return report;
}

std::string Describe(const CoordinatorReport& report) {
  std::string text;
  for (const WorkerReport& worker : report.workers) {
    StrAppend(&text, "worker ", Printable(worker.name), " (", Printable(worker.device), "): ");
    if (worker.evicted_because.empty()) {
      absl::StrAppendFormat(&text, "%.3g products a second\n", worker.products_per_second);
    } else {
      StrAppend(&text, "evicted: ", worker.evicted_because, "\n");
    }
  }
  const auto line = [&](const LayerReport& layer) {
    StrAppend(&text, layer.item, ": ", layer.scheme, " on ",
              Printable(absl::StrJoin(layer.workers, ", ")), "; ", layer.key_budget, ", ",
              layer.keys, " keys; ", layer.updates, " updates, ", layer.checks, " checks passed, ",
              layer.recoveries, " recoveries");
    if (layer.recoveries != 0) absl::StrAppendFormat(&text, " (%.2f s)", layer.recovery_seconds);
    absl::StrAppendFormat(&text, "; sent %s, received %s, %.3f s of this CPU\n",
                          HumanBytes(layer.sent_bytes), HumanBytes(layer.received_bytes),
                          layer.coordinator_cpu_seconds);
    if (!layer.soundness.empty()) {
      absl::StrAppendFormat(&text, "  checks: %s; drift %.2g of the weights' norm\n",
                            layer.soundness, layer.drift_spent);
    }
  };
  for (const LayerReport& layer : report.layers) line(layer);
  if (report.products.keys != 0) line(report.products);
  return text;
}

}  // namespace pavise::offload
