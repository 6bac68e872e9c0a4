#include "pavise/offload/internal/worker_pool.h"

#include <algorithm>
#include <utility>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/checks/freivalds.h"
#include "pavise/offload/internal/frames.h"

#include "absl/time/clock.h"

namespace pavise::offload::internal {
namespace {

constexpr uint64_t kForgivenLosses = 3;
constexpr size_t kLongestText = 300;  // of a worker's own words
// The products that a worker is asked for when it joins: squares of twice the size each time, until
// one takes long enough to say how quick it is.
constexpr size_t kLeastProbe = 64;
constexpr size_t kLargestProbe = 1024;
constexpr double kProbeSeconds = 2e-3;
constexpr size_t kProbeRepeats = 3;

std::string TextOf(const absl::Status& status) {
  std::string text = Printable(FromAbsl(status.message()));
  if (text.size() > kLongestText) text = text.substr(0, kLongestText) + "...";
  return text;
}

bool Has(const std::vector<DType>& types, DType type) {
  return std::find(types.begin(), types.end(), type) != types.end();
}

absl::StatusOr<Share> DrawShare(size_t rows, size_t columns, bool residues, SecretStream& stream) {
  Share share;
  if (residues) {
    PAVISE_ASSIGN_OR_RETURN(auto matrix, ResidueMatrix::Create(rows, columns, "probe"));
    PAVISE_RETURN_IF_ERROR(stream.FillResidues(kModuli[0], matrix.values()));
    share.residues.push_back(std::move(matrix));
    return share;
  }
  PAVISE_ASSIGN_OR_RETURN(share.values, Matrix::Create(rows, columns, "probe"));
  PAVISE_ASSIGN_OR_RETURN(const auto numbers, stream.Gaussians(rows * columns));
  std::transform(numbers.begin(), numbers.end(), share.values.values().begin(),
                 [](double number) { return static_cast<float>(number); });
  return share;
}

}  // namespace

size_t WorkerPool::Join(WorkerSeat seat) {
  workers_.emplace_back().seat = std::move(seat);
  const size_t i = workers_.size() - 1;
  const absl::Status status = Probe(workers_[i]);
  if (!status.ok()) Evict(i, "first product", status);
  return i;
}

absl::Status WorkerPool::Probe(Worker& worker) {
  const WorkerDescription& description = worker.seat.connection->description();
  if (needs_.residues && !description.multiplies_residues) {
    return Refuse(Reason::kUnsupported, description.name, "it does not multiply residues");
  }
  if (!needs_.residues && (!Has(description.types, needs_.type) ||
                           !Has(description.operand_types, needs_.operand_type))) {
    return Refuse(Reason::kUnsupported, description.name,
                  StrCat("it does not take ", DTypeName(needs_.type), " and multiply ",
                         DTypeName(needs_.operand_type)));
  }
  PAVISE_ASSIGN_OR_RETURN(SecretStream stream, stream_.Derive(StrCat("probe ", ++probes_)));
  std::vector<int> moduli;
  if (needs_.residues) moduli.push_back(kModuli[0]);
  const auto as_sent = [&](const Frames& frames, size_t size) {
    return ShareOf(frames, needs_.type, moduli, size, size, "product");
  };
  double quickest = 0;
  size_t repeats = 0;
  uint64_t step = 0;
  for (size_t size = kLeastProbe; size <= kLargestProbe;) {
    PAVISE_ASSIGN_OR_RETURN(Share a, DrawShare(size, size, needs_.residues, stream));
    PAVISE_ASSIGN_OR_RETURN(Share b, DrawShare(size, size, needs_.residues, stream));
    Request request;
    request.command = Command::kProduct;
    request.step = ++step;
    request.reply_type = needs_.type;
    request.operand_type = needs_.operand_type;
    PAVISE_ASSIGN_OR_RETURN(request.frames, FramesOf(a, needs_.type, moduli, "product"));
    PAVISE_ASSIGN_OR_RETURN(Frames right, FramesOf(b, needs_.type, moduli, "product"));
    PAVISE_ASSIGN_OR_RETURN(a, as_sent(request.frames, size));
    PAVISE_ASSIGN_OR_RETURN(b, as_sent(right, size));
    request.frames.push_back(std::move(right[0]));
    const absl::Time begin = absl::Now();
    const auto pending = worker.seat.connection->Send(request);
    const absl::StatusOr<Reply> answer = pending->Wait(begin + needs_.reply_timeout);
    // No room for a larger one: what it did says enough.
    if (quickest > 0 && ReasonOf(answer.status()) == Reason::kLimitExceeded) break;
    PAVISE_RETURN_IF_ERROR(answer.status());
    const Reply& reply = *answer;
    const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
    PAVISE_RETURN_IF_ERROR(CheckEcho(request, reply));
    PAVISE_ASSIGN_OR_RETURN(const Share product, as_sent(reply.frames, size));
    if (needs_.residues) {
      PAVISE_RETURN_IF_ERROR(CheckModularProduct(Operation::kPlain, a.residues[0].view(),
                                                 b.residues[0].view(), product.residues[0].view(),
                                                 moduli[0], kModularVectors, stream, "product"));
    } else {
      PAVISE_RETURN_IF_ERROR(CheckProduct(FloatCheck::For(needs_.type), Operation::kPlain, a.values,
                                          b.values, product.values, needs_.type, stream,
                                          "product"));
    }
    const double operations = 2.0 * static_cast<double>(size * size * size);
    quickest = std::max(quickest, operations / std::max(seconds, 1e-6));
    if (seconds <= kProbeSeconds) {
      size *= 2;
    } else if (++repeats == kProbeRepeats) {
      break;  // others may use the worker too: the quickest says what it can do
    }
  }
  worker.products_per_second = quickest;
  return absl::OkStatus();
}

void WorkerPool::Evict(size_t i, std::string_view item, const absl::Status& why) {
  Worker& worker = workers_[i];
  if (!worker.verdict.ok()) return;
  const std::string who = StrCat("worker ", Printable(name(i)));
  const std::string what = StrCat(item, ": ", TextOf(why));
  const auto reason = ReasonOf(why);
  worker.verdict = reason.has_value() ? Refuse(*reason, who, what, "use another worker")
                                      : MachineFailure(who, what);
}

void WorkerPool::LoseState(size_t i, std::string_view item, const absl::Status& why) {
  if (++workers_[i].state_losses > kForgivenLosses) Evict(i, item, why);
}

std::optional<size_t> WorkerPool::Choose(double work,
                                         const std::function<bool(size_t)>& is_suitable) const {
  std::optional<size_t> best;
  double least = 0;
  for (size_t i = 0; i < workers_.size(); ++i) {
    if (!is_at_work(i) || !is_suitable(i)) continue;
    const double seconds = (workers_[i].load + work) / workers_[i].products_per_second;
    if (best.has_value() && seconds >= least) continue;
    best = i;
    least = seconds;
  }
  return best;
}

absl::Status WorkerPool::NoneLeft(std::string_view item) const {
  std::vector<Refusal> findings;
  std::string all;
  for (size_t i = 0; i < workers_.size(); ++i) {
    const absl::Status& verdict = workers_[i].verdict;
    StrAppend(&all, all.empty() ? "" : "; ",
              verdict.ok() ? StrCat("worker ", Printable(name(i)), ": not suitable, or full")
                           : std::string(FromAbsl(verdict.message())));
    for (Refusal& refusal : RefusalsOf(verdict)) findings.push_back(std::move(refusal));
  }
  if (all.empty()) all = "there were none";
  const std::string detail = StrCat("no worker is left that could take it (", all, ")");
  if (findings.empty()) return MachineFailure(item, detail);
  findings.insert(findings.begin(), {findings[0].reason, std::string(item), detail,
                                     "add workers, and do the batch again"});
  return Refuse(std::move(findings));
}

}  // namespace pavise::offload::internal
