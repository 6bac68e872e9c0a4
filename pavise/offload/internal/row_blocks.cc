#include "pavise/offload/internal/row_blocks.h"

#include <algorithm>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::offload {
namespace {

// A key mixes the samples of a block with each other, so that blocks are not smaller.
constexpr size_t kLeastSamples = 64;

MatrixView Rows(MatrixView m, size_t first, size_t count) {
  return {m.Row(first), count, m.columns, m.stride};
}

void CopyInto(const Matrix& part, size_t first_row, Matrix& whole) {
  std::copy(part.values().begin(), part.values().end(), whole.view().Row(first_row));
}

// Of `samples`, in proportion to the speeds; a block that would have less than kLeastSamples has
// none.
std::vector<size_t> Shares(size_t samples, std::vector<double> speeds) {
  std::vector<size_t> shares(speeds.size());
  while (true) {
    double sum = 0;
    for (const double speed : speeds) sum += speed;
    const size_t quickest =
        static_cast<size_t>(std::max_element(speeds.begin(), speeds.end()) - speeds.begin());
    size_t left = samples;
    std::optional<size_t> slowest;
    for (size_t i = 0; i < speeds.size(); ++i) {
      shares[i] = static_cast<size_t>(static_cast<double>(samples) * speeds[i] / sum);
      left -= shares[i];
      if (speeds[i] > 0 && i != quickest &&
          (!slowest.has_value() || speeds[i] < speeds[*slowest])) {
        slowest = i;
      }
    }
    shares[quickest] += left;
    if (!slowest.has_value() || shares[*slowest] >= kLeastSamples) return shares;
    speeds[*slowest] = 0;
  }
}

}  // namespace

absl::Status OffloadedLayer::RowBlocks::Spread(Impl& layer) {
  internal::WorkerPool& pool = layer.coordinator.pool;
  if (layer.stays_whole || layer.slots.size() != 1 || !layer.in_floats() ||
      !(layer.blocks != nullptr ? layer.blocks->CheckBetweenBatches() : layer.CheckBetweenBatches())
           .ok()) {
    return absl::OkStatus();
  }
  if (layer.blocks != nullptr) layer.blocks->Retire();
  if (layer.workers_seen == pool.size()) return absl::OkStatus();
  layer.workers_seen = pool.size();
  std::vector<double> speeds;
  for (size_t i = 0; i < pool.size(); ++i) {
    if (layer.CanTake(0, i)) speeds.push_back(pool.worker(i).products_per_second);
  }
  std::sort(speeds.rbegin(), speeds.rend());
  const double update =
      layer.coordinator.options.seconds_per_block_weight * static_cast<double>(layer.shape.taps) *
      static_cast<double>(layer.shape.inputs) * static_cast<double>(layer.shape.outputs);
  size_t wanted = 1;
  double least = 0;
  double speed = 0;
  const size_t most = std::min({layer.coordinator.options.row_blocks, speeds.size(),
                                layer.spec.max_samples / kLeastSamples});
  for (size_t n = 1; n <= most; ++n) {
    speed += speeds[n - 1];
    // Forward, and the two products backward.
    const double seconds =
        3 * layer.work() / speed + (n == 1 ? 0 : static_cast<double>(n) * update);
    if (n != 1 && seconds >= least) continue;
    wanted = n;
    least = seconds;
  }
  const size_t blocks = layer.blocks == nullptr ? 1 : layer.blocks->count();
  if (wanted <= blocks) return absl::OkStatus();
  if (layer.blocks == nullptr) {
    PAVISE_RETURN_IF_ERROR(layer.Guarded(layer.BringUpdatesHere()));
    layer.blocks = std::make_unique<RowBlocks>(layer);
    layer.block_of = layer.blocks.get();
  }
  layer.wants_move = false;
  while (layer.blocks->count() < wanted) PAVISE_RETURN_IF_ERROR(layer.blocks->Add());
  return absl::OkStatus();
}

absl::Status OffloadedLayer::RowBlocks::Add() {
  LayerSpec spec = first_.spec;
  spec.updates_on_worker = false;
  const size_t number = ++first_.blocks_made;
  PAVISE_ASSIGN_OR_RETURN(SecretStream stream, first_.stream.Derive(StrCat("block ", number)));
  PAVISE_ASSIGN_OR_RETURN(SecretStream checks, first_.checks.Derive(StrCat("block ", number)));
  auto block = std::make_unique<Impl>(first_.coordinator, std::move(spec), std::move(stream),
                                      std::move(checks));
  block->block_of = this;
  LayerState initial;
  PAVISE_ASSIGN_OR_RETURN(initial.weights, CopyOf(first_.weights, first_.spec.item));
  initial.keys = first_.keys - 1;
  const absl::Status status = block->Make(std::move(initial));
  block->weights = {};  // the first block has them
  if (!status.ok()) {
    block->Reset();
    block->LeaveWorker(block->slots[0]);
    return status;
  }
  block->has_sent = false;
  others_.push_back(std::move(block));
  return absl::OkStatus();
}

void OffloadedLayer::RowBlocks::Retire() {
  const internal::WorkerPool& pool = first_.coordinator.pool;
  size_t at_work = 0;
  for (size_t i = 0; i < pool.size(); ++i) at_work += first_.CanTake(0, i) ? 1 : 0;
  while (!others_.empty() && count() > at_work) {
    auto gone = std::find_if(others_.begin(), others_.end(), [&](const auto& block) {
      const auto worker = block->slots[0].worker;
      return !worker.has_value() || !pool.is_at_work(*worker) || HasBlockOn(*worker, *block);
    });
    if (gone == others_.end()) gone = others_.end() - 1;
    (*gone)->Reset();
    (*gone)->LeaveWorker((*gone)->slots[0]);
    std::erase(stale_, gone->get());
    first_.retired.push_back((*gone)->report);
    others_.erase(gone);
  }
}

std::vector<OffloadedLayer::Impl*> OffloadedLayer::RowBlocks::All() const {
  std::vector<Impl*> all = {&first_};
  for (const auto& block : others_) all.push_back(block.get());
  return all;
}

bool OffloadedLayer::RowBlocks::HasBlockOn(size_t worker, const Impl& other_than) const {
  const std::vector<Impl*> all = All();
  return std::any_of(all.begin(), all.end(), [&](const Impl* block) {
    return block != &other_than && !block->slots.empty() && block->slots[0].worker == worker;
  });
}

absl::StatusOr<std::vector<OffloadedLayer::RowBlocks::Part>> OffloadedLayer::RowBlocks::Cut(
    size_t samples) {
  const internal::WorkerPool& pool = first_.coordinator.pool;
  const std::vector<Impl*> all = All();
  std::vector<double> speeds;
  for (Impl* const block : all) {
    // All blocks where the batch is large enough for them.
    if (!speeds.empty() && samples < kLeastSamples * (speeds.size() + 1)) break;
    PAVISE_RETURN_IF_ERROR(block->Drain());
    const size_t worker = *block->slots[0].worker;
    // Two blocks on one worker, where it is the last that had room, help nobody.
    const bool is_alone =
        std::none_of(all.begin(), all.begin() + static_cast<ptrdiff_t>(speeds.size()),
                     [&](const Impl* before) { return before->slots[0].worker == worker; });
    const bool is_even = first_.coordinator.options.even_blocks;
    speeds.push_back(!is_alone ? 0 : is_even ? 1 : pool.worker(worker).products_per_second);
  }
  const std::vector<size_t> shares = Shares(samples, speeds);
  std::vector<Part> parts;
  for (size_t i = 0; i < shares.size(); ++i) {
    if (shares[i] != 0) parts.push_back({all[i], 0, shares[i]});
  }
  for (const Part& part : parts) {
    const auto stale = std::find(stale_.begin(), stale_.end(), part.block);
    if (stale == stale_.end()) continue;
    stale_.erase(stale);
    PAVISE_RETURN_IF_ERROR(part.block->PutWeights(first_.weights, {}));
  }
  return parts;
}

absl::StatusOr<Outputs> OffloadedLayer::RowBlocks::Forward(MatrixView inputs, Use use,
                                                           uint64_t known_rows) {
  const LayerSpec& spec = first_.spec;
  const size_t positions =
      spec.convolution.has_value() ? spec.convolution->height * spec.convolution->width : 1;
  const size_t samples = inputs.rows / positions;
  // What no block would take: the first says why, and nothing is sent.
  if (inputs.rows != samples * positions || inputs.columns != spec.inputs || samples == 0 ||
      samples > spec.max_samples) {
    return first_.Guarded(first_.Forward(inputs, use, known_rows));
  }
  PAVISE_RETURN_IF_ERROR(CheckFinite(inputs, spec.item));
  return Guarded(Run(inputs, use, known_rows, samples));
}

absl::StatusOr<Outputs> OffloadedLayer::RowBlocks::Run(MatrixView inputs, Use use,
                                                       uint64_t known_rows, size_t samples) {
  const size_t positions = inputs.rows / samples;
  PAVISE_ASSIGN_OR_RETURN(std::vector<Part> parts, Cut(samples));
  std::vector<std::vector<Impl::Piece>> pieces;
  size_t first = 0;
  for (const Part& part : parts) {
    PAVISE_ASSIGN_OR_RETURN(
        pieces.emplace_back(),
        part.block->SendInputs(Rows(inputs, first * positions, part.samples * positions), use,
                               known_rows));
    first += part.samples;
  }
  Outputs outputs;
  PAVISE_ASSIGN_OR_RETURN(outputs.values, Matrix::Create(samples * first_.output_positions,
                                                         first_.spec.outputs, first_.spec.item));
  first = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    PAVISE_ASSIGN_OR_RETURN(const Outputs part,
                            parts[i].block->ReceivePass(std::move(pieces[i]), use));
    CopyInto(part.values, first * first_.output_positions, outputs.values);
    parts[i].pass = part.pass;
    first += parts[i].samples;
  }
  if (use == Use::kTraining) {
    outputs.pass = ++last_pass_;
    open_.emplace(outputs.pass, std::move(parts));
  }
  return outputs;
}

absl::StatusOr<Matrix> OffloadedLayer::RowBlocks::Backward(uint64_t pass,
                                                           MatrixView output_gradients,
                                                           bool want_input_gradients) {
  const std::string& item = first_.spec.item;
  const auto found = open_.find(pass);
  if (found == open_.end()) return UsageError(StrCat(item, ": no pass ", pass, " is open"));
  size_t samples = 0;
  for (const Part& part : found->second) samples += part.samples;
  if (output_gradients.rows != samples * first_.output_positions ||
      output_gradients.columns != first_.spec.outputs) {
    return UsageError(StrCat(item, ": ", output_gradients.rows, " x ", output_gradients.columns,
                             " is not ", samples * first_.output_positions, " x ",
                             first_.spec.outputs));
  }
  PAVISE_RETURN_IF_ERROR(CheckFinite(output_gradients, item));
  const std::vector<Part> parts = std::move(found->second);
  open_.erase(found);
  return Guarded(RunBackward(parts, output_gradients, want_input_gradients));
}

absl::StatusOr<Matrix> OffloadedLayer::RowBlocks::RunBackward(const std::vector<Part>& parts,
                                                              MatrixView output_gradients,
                                                              bool want_input_gradients) {
  size_t first = 0;
  for (const Part& part : parts) {
    PAVISE_RETURN_IF_ERROR(
        part.block->SendOutputGradients(part.pass,
                                        Rows(output_gradients, first * first_.output_positions,
                                             part.samples * first_.output_positions),
                                        want_input_gradients));
    first += part.samples;
  }
  std::vector<Matrix> gradients;
  size_t rows = 0;
  for (const Part& part : parts) {
    PAVISE_ASSIGN_OR_RETURN(gradients.emplace_back(),
                            part.block->ReceiveGradients(part.pass, want_input_gradients));
    rows += gradients.back().rows();
  }
  if (!want_input_gradients) return Matrix();
  PAVISE_ASSIGN_OR_RETURN(Matrix whole, Matrix::Create(rows, first_.spec.inputs, first_.spec.item));
  rows = 0;
  for (const Matrix& part : gradients) {
    CopyInto(part, rows, whole);
    rows += part.rows();
  }
  return whole;
}

void OffloadedLayer::RowBlocks::Forget(uint64_t pass) {
  const auto found = open_.find(pass);
  if (found == open_.end()) return;
  for (const Part& part : found->second) part.block->Forget(part.pass);
  open_.erase(found);
}

void OffloadedLayer::RowBlocks::Abandon() {
  open_.clear();
  for (Impl* const block : All()) block->Reset();
}

absl::Status OffloadedLayer::RowBlocks::CheckBetweenBatches() const {
  for (const Impl* const block : All()) PAVISE_RETURN_IF_ERROR(block->CheckBetweenBatches());
  return absl::OkStatus();
}

absl::Status OffloadedLayer::RowBlocks::Update(const std::function<absl::Status()>& apply) {
  bool has_gradients = false;
  for (const Impl* const block : All()) {
    if (!block->open.empty()) return UsageError(StrCat(first_.spec.item, ": passes are open"));
    has_gradients = has_gradients || block->gradients != 0;
  }
  return has_gradients ? Guarded(SumAndApply(apply)) : absl::OkStatus();
}

absl::Status OffloadedLayer::RowBlocks::SumAndApply(const std::function<absl::Status()>& apply) {
  std::vector<Impl*> used = All();
  std::erase_if(used, [](const Impl* block) { return block->gradients == 0; });
  for (Impl* const block : used) block->AskForGradient();
  first_.gradient = {};
  for (Impl* const block : used) {
    PAVISE_ASSIGN_OR_RETURN(Matrix part, block->TakeGradient());
    if (first_.gradient.rows() == 0) {
      first_.gradient = std::move(part);
      continue;
    }
    for (size_t i = 0; i < part.values().size(); ++i) {
      first_.gradient.values()[i] += part.values()[i];
    }
  }
  PAVISE_RETURN_IF_ERROR(first_.ApplyHere(apply));
  stale_.clear();
  for (Impl* const block : All()) {
    if (std::find(used.begin(), used.end(), block) == used.end()) {
      stale_.push_back(block);
      continue;
    }
    block->gradients = 0;
    block->last_batch_steps = block->batch_steps;
    PAVISE_RETURN_IF_ERROR(block->PutWeights(first_.weights, {}));
  }
  return absl::OkStatus();
}

void OffloadedLayer::RowBlocks::WantKeys() {
  uint64_t keys = 0;
  for (const Impl* const block : All()) keys = std::max(keys, block->keys);
  for (Impl* const block : All()) {
    block->keys = keys;
    block->wants_key = true;
  }
}

void OffloadedLayer::RowBlocks::AddTo(LayerReport& report) const {
  std::vector<LayerReport> parts = first_.retired;
  for (const auto& block : others_) {
    parts.push_back(block->report);
    if (const auto worker = block->slots[0].worker; worker.has_value()) {
      report.workers.push_back(first_.coordinator.pool.name(*worker));
    }
  }
  for (const LayerReport& part : parts) {
    report.checks += part.checks;
    report.recoveries += part.recoveries;
    report.recovery_seconds += part.recovery_seconds;
    report.sent_bytes += part.sent_bytes;
    report.received_bytes += part.received_bytes;
  }
}

}  // namespace pavise::offload
