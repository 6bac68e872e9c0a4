#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/clock.h"
#include "pavise/base/file.h"
#include "pavise/base/random.h"
#include "pavise/base/strings.h"
#include "pavise/cli/bench_hash.h"
#include "pavise/cli/mode_plot.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/training.h"
#include "pavise/cli/work_directory.h"
#include "pavise/crypto/keys.h"
#include "pavise/evidence/collect/session.h"
#include "pavise/job/agreement_folder.h"
#include "pavise/job/cost.h"
#include "pavise/job/job_file.h"
#include "pavise/job/plan.h"
#include "pavise/offload/scheme_named.h"
#include "pavise/policy/history.h"

#include "CLI/CLI.hpp"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace pavise::cli {
namespace {

using train::ModeFigures;
using train::ModeTurn;

constexpr const char* kGroup = "What is measured";
constexpr const char* kReportGroup = "Report";
constexpr uint64_t kMostSteps = 1000;
constexpr uint64_t kMostRounds = 100;
constexpr uint64_t kMostImages = uint64_t{1} << 18;  // of a turn
constexpr const char* kTeeGuest = "/sys/kernel/config/tsm/report";

// The words of a list, each one of `known`, none twice.
absl::StatusOr<std::vector<std::string>> ParseList(std::string_view option, const std::string& text,
                                                   const std::vector<std::string>& known) {
  std::vector<std::string> words;
  for (const absl::string_view word : absl::StrSplit(text, ',')) {
    const std::string name(word);
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return UsageError(
          StrCat(option, ": there is no '", Printable(name), "': ", absl::StrJoin(known, ", ")));
    }
    if (std::find(words.begin(), words.end(), name) != words.end()) {
      return UsageError(StrCat(option, ": ", name, " is there twice"));
    }
    words.push_back(name);
  }
  return words;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Beside the label, in lines of at most kTextColumns.
constexpr size_t kTextColumns = 90;
void AddWrapped(std::string label, std::string_view text,
                std::vector<std::pair<std::string, std::string>>& rows) {
  while (text.size() > kTextColumns) {
    const size_t space = text.rfind(' ', kTextColumns);
    if (space == text.npos) break;
    rows.emplace_back(std::exchange(label, ""), text.substr(0, space));
    text.remove_prefix(space + 1);
  }
  rows.emplace_back(label, text);
}

// The library that libtorch multiplies matrices with, as it is mapped here; "": none of its own.
std::string MappedBlas() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const size_t begin = line.find('/');
    const size_t name = line.rfind('/');
    if (begin == line.npos) continue;
    if (line.find("blas", name) != line.npos || line.find("libmkl", name) != line.npos) {
      return line.substr(begin);
    }
  }
  return "";
}

// How many keys a job's machine gets, by the stage of an agreement that it is a run of.
struct KeyCount {
  uint64_t keys = 0;
  std::optional<std::set<policy::Mode>> modes;  // that the stage allows; nullopt: there is no stage
  std::string of;
};

absl::StatusOr<KeyCount> CountKeys(const std::string& job_path) {
  KeyCount count;
  if (job_path.empty()) {
    // What a job like this one has at the least.
    policy::Agreement agreement;
    agreement.assets["trainer"].kind = policy::AssetKind::kCode;
    agreement.assets["data"].kind = policy::AssetKind::kData;
    policy::Stage stage;
    stage.code = "trainer";
    stage.inputs = {"data"};
    count.keys = agreement.AssetsOf(stage).size();
    count.of = "a stage with one trainer and one dataset, the least there is (--job: your own)";
    return count;
  }
  PAVISE_ASSIGN_OR_RETURN(const job::Job job, job::ReadJob(job_path));
  PAVISE_ASSIGN_OR_RETURN(const job::AgreementFolder folder,
                          job::AgreementFolder::Read(job.agreement));
  const absl::Time now = SystemClock().Now();
  PAVISE_ASSIGN_OR_RETURN(
      const policy::AgreementHistory history,
      folder.Replay(folder.statements().size(),
                    [&](const job::AgreementFolder::Statement&) { return now; }));
  const std::optional<policy::AgreementInForce> in_force = history.InForce();
  if (!in_force.has_value()) {
    return Refuse(Reason::kEvidenceMissing, job.agreement, "no version of it is in force");
  }
  const policy::Agreement& agreement = *(*in_force)->agreement;
  const auto stage = agreement.stages.find(job.stage);
  if (stage == agreement.stages.end()) {
    return Refuse(Reason::kPolicyDenied, StrCat(job_path, ": stage"),
                  StrCat(Printable(job.stage), " is no stage of the agreement"));
  }
  count.keys = agreement.AssetsOf(stage->second).size();
  count.modes.emplace();
  for (const auto& [mode, rules] : stage->second.modes) count.modes->insert(mode);
  count.of = StrCat("stage ", Printable(job.stage), " of agreement ", history.IdHex());
  return count;
}

// Why this machine is in no confidential-gpu mode: what refuses its evidence.
absl::StatusOr<std::string> WhyNoConfidentialGpu() {
  evidence::CollectionOptions options;
  options.tcti = std::nullopt;
  options.gpus = options.tee = true;
  Digest32 nonce{};
  PAVISE_RETURN_IF_ERROR(SystemRandom().Fill(nonce));
  PAVISE_ASSIGN_OR_RETURN(const crypto::PrivateKey key,
                          crypto::PrivateKey::Generate(crypto::KeyType::kEcP256));
  const absl::Status status = evidence::CollectEvidence(options, nonce, key.public_key()).status();
  if (status.ok()) {
    return "its evidence is there, and this program trains on no GPU in the clear: not measured";
  }
  const std::vector<Refusal> found = RefusalsOf(status);
  return found.empty() ? std::string(FromAbsl(status.message()))
                       : StrCat(found[0].item, ": ", found[0].detail);
}

struct Row {
  std::string name;    // "obfuscated: tempo"
  std::string mode;    // "obfuscated"
  std::string scheme;  // "tempo"; ""
  unsigned threads = 0;
  std::optional<uint64_t> keys;  // nullopt: the job's stage does not allow the mode
  std::vector<std::string> trusted;
  std::string leaks;
  std::string why_not;
  size_t at = 0;  // among the modes that are run, where there is no `why_not`
  ModeFigures figures;

  std::vector<double> Each(double (*of)(const ModeTurn&)) const {
    std::vector<double> values;
    for (const ModeTurn& turn : figures.turns) values.push_back(of(turn));
    return values;
  }
  double Middle(double (*of)(const ModeTurn&)) const { return Median(Each(of)); }
  // tee's figure / this one's of the same round: above 1 where this one takes less.
  std::vector<double> TeeTo(const Row& tee, double (*of)(const ModeTurn&)) const {
    std::vector<double> ratios = tee.Each(of);
    const std::vector<double> own = Each(of);
    for (size_t i = 0; i < ratios.size(); ++i) ratios[i] /= own[i];
    return ratios;
  }
};

double Seconds(const ModeTurn& turn) { return turn.seconds; }
double SetupSeconds(const ModeTurn& turn) { return turn.setup_seconds; }
double CoordinatorCpu(const ModeTurn& turn) {
  return turn.coordinator_cpu_seconds / static_cast<double>(turn.images);
}
double WorkerCpu(const ModeTurn& turn) {
  return turn.worker_cpu_seconds.value_or(0) / static_cast<double>(turn.images);
}
double LossDifference(const ModeTurn& turn) { return turn.loss_difference; }
double UpdateDifference(const ModeTurn& turn) { return turn.update_difference; }

double Most(const std::vector<double>& values) {
  return *std::max_element(values.begin(), values.end());
}

class ModesBench final : public Verb {
 public:
  explicit ModesBench(Trainer* trainer) : trainer_(trainer) {}
  std::string_view name() const override { return "modes"; }
  std::string_view group() const override { return "This machine"; }
  std::string_view summary() const override {
    return "one training job in every trust mode that this machine offers, in turns: what each "
           "costs, trusts and leaks; answers are compared";
  }
  std::string_view examples() const override { return ""; }
  void Declare(CLI::App& app) override;
  absl::StatusOr<Outcome> Run(const Session& session) override;
  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return "nothing was measured";
  }

 private:
  absl::Status Resolve();
  absl::StatusOr<std::vector<Row>> MakeRows();
  absl::Status AddScheme(const std::string& scheme, std::vector<Row>& rows);
  absl::StatusOr<train::ImageSplits> Images();
  std::vector<std::string> Notes(const train::ImageSplits& splits) const;
  std::string Table(const std::vector<Row>& rows) const;
  OrderedJson Json(const std::vector<Row>& rows) const;
  std::string Plot(const std::vector<Row>& rows, const std::string& title,
                   const std::vector<std::string>& lines) const;

  Trainer* trainer_;
  OffloadArguments offload_;
  std::string network_ = "mlp", data_, images_, batch_size_ = "32", steps_ = "4", rounds_ = "3";
  std::string modes_ = "tee,measured,confidential-gpu,obfuscated";
  std::string schemes_ = "none,tempo,orthogonal,shared";
  std::string threads_, job_, plot_, report_;

  train::ModesRequest request_;
  uint64_t timed_steps_ = 0;
  unsigned all_threads_ = 1;
  KeyCount keys_;
};

void ModesBench::Declare(CLI::App& app) {
  AddOption(app, "--modes", modes_, "LIST",
            "of tee, measured, confidential-gpu, obfuscated; tee is always measured [all]", kGroup);
  AddOption(app, "--schemes", schemes_, "LIST",
            "of obfuscated mode: none (everything is sent in the clear: what sending alone costs), "
            "tempo, orthogonal, shared [all]",
            kGroup);
  AddOption(app, "--network", network_, "NAME",
            "mlp, resnet18, resnet50, vgg11, vgg16, vit_tiny, vit_small or vit_base [mlp]", kGroup);
  AddOption(app, "--data", data_, "PATH",
            "an .npz file, or a folder with CIFAR-10 or IDX files [noise of 3 x 32 x 32]", kGroup);
  AddOption(app, "--images", images_, "N",
            "of the data, evenly spaced; used again where a turn takes more [all]", kGroup);
  AddOption(app, "--batch-size", batch_size_, "N", "images a step [32]", kGroup);
  AddOption(app, "--steps", steps_, "N", "timed steps of a turn; one more before them is not [4]",
            kGroup);
  AddOption(app, "--rounds", rounds_, "N", "turns of each mode; medians are shown [3]", kGroup);
  AddOption(app, "--threads", threads_, "N",
            "of the coordinator, and of training without workers; 0: one a CPU [0]", kGroup);
  AddOption(app, "--job", job_, "FILE",
            "a job (docs/formats/job.md) whose stage says how many keys a run is given", kGroup);
  offload_.DeclareWorkers(app);
  AddOption(app, "-o,--plot", plot_, "FILE", "draw speed and CPU time (SVG)", kReportGroup);
  AddOption(app, "--report-json", report_, "FILE",
            "to write: all figures, which `pavise job plan --figures` expects a cost from",
            kReportGroup);
}

absl::Status ModesBench::Resolve() {
  train::TrainingOptions& options = request_.options;
  options.network = network_;
  PAVISE_ASSIGN_OR_RETURN(options.batch_size, ParseCount("--batch-size", batch_size_));
  options.convolutions = offload_.convolution_form();
  PAVISE_ASSIGN_OR_RETURN(timed_steps_, ParseCount("--steps", steps_));
  PAVISE_ASSIGN_OR_RETURN(request_.rounds, ParseCount("--rounds", rounds_));
  PAVISE_ASSIGN_OR_RETURN(all_threads_, ResolveThreads(threads_));
  options.threads = all_threads_;
  PAVISE_RETURN_IF_ERROR(train::CheckOptions(options));
  if (timed_steps_ < 1 || timed_steps_ > kMostSteps) {
    return UsageError(StrCat("--steps: 1 to ", kMostSteps));
  }
  if (request_.rounds < 1 || request_.rounds > kMostRounds) {
    return UsageError(StrCat("--rounds: 1 to ", kMostRounds));
  }
  if ((timed_steps_ + 1) * options.batch_size > kMostImages) {
    return UsageError(StrCat("--steps and --batch-size: at most ", kMostImages, " images a turn"));
  }
  // One thread a worker within this process, so that its CPU time is that thread's.
  offload_.worker_threads = 1;
  offload_.mode = "obfuscated";
  return absl::OkStatus();
}

absl::Status ModesBench::AddScheme(const std::string& name, std::vector<Row>& rows) {
  PAVISE_ASSIGN_OR_RETURN(const std::shared_ptr<const offload::Scheme> scheme,
                          offload::NewSchemeNamed(name));
  OffloadArguments arguments = offload_;
  arguments.scheme = name;
  if (arguments.workers.empty()) arguments.workers = StrCat("in-process:", scheme->workers());
  const offload::LeakageProfile profile = scheme->leakage(offload::Use::kTraining);
  Row row;
  row.name = StrCat("obfuscated: ", name);
  row.mode = "obfuscated";
  row.scheme = name;
  row.threads = all_threads_;
  row.trusted = {
      StrCat("this machine, in one of the modes above; no worker. Assumed: ", profile.assumption)};
  row.leaks = StrCat("to each worker: inputs ", offload::ExposureName(profile.inputs), ", weights ",
                     offload::ExposureName(profile.weights), ", outputs ",
                     offload::ExposureName(profile.outputs), ", gradients ",
                     offload::ExposureName(profile.gradients));
  row.at = request_.modes.size();
  request_.modes.push_back(
      {.name = row.name, .threads = all_threads_, .scheme = name, .connect = [this, arguments] {
         return trainer_->Connect(arguments);
       }});
  rows.push_back(std::move(row));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Row>> ModesBench::MakeRows() {
  PAVISE_ASSIGN_OR_RETURN(
      const std::vector<std::string> modes,
      ParseList("--modes", modes_, {"tee", "measured", "confidential-gpu", "obfuscated"}));
  PAVISE_ASSIGN_OR_RETURN(
      const std::vector<std::string> schemes,
      ParseList("--schemes", schemes_, {"none", "tempo", "orthogonal", "shared"}));
  const std::set<std::string> wanted(modes.begin(), modes.end());
  std::vector<Row> rows;
  const auto add = [&](const std::string& name, const std::string& mode, unsigned threads) -> Row& {
    Row& row = rows.emplace_back();
    row.name = name;
    row.mode = mode;
    row.threads = threads;
    row.trusted = job::TrustLines(mode);
    row.leaks = "to nobody beside those trusted";
    row.at = request_.modes.size();
    return row;
  };
  // Without workers, on the CPU: what differs is who vouches for the machine.
  const auto run_here = [&](const Row& row) {
    request_.modes.push_back(
        {.name = row.name, .threads = row.threads, .scheme = "", .connect = {}});
  };
  run_here(add("tee", "tee", all_threads_));
  if (all_threads_ > 1) run_here(add("tee, 1 thread", "tee", 1));
  if (wanted.contains("measured")) run_here(add("measured", "measured", all_threads_));
  if (wanted.contains("confidential-gpu")) {
    PAVISE_ASSIGN_OR_RETURN(add("confidential-gpu", "confidential-gpu", 0).why_not,
                            WhyNoConfidentialGpu());
  }
  if (wanted.contains("obfuscated")) {
    for (const std::string& scheme : schemes) PAVISE_RETURN_IF_ERROR(AddScheme(scheme, rows));
  }
  for (Row& row : rows) {
    // Obfuscated: the coordinator's machine is given them, in whatever mode the stage allows, and
    // workers none.
    const std::optional<policy::Mode> mode = policy::ModeNamed(row.mode);
    if (mode.has_value() && keys_.modes.has_value() && !keys_.modes->contains(*mode)) continue;
    row.keys = keys_.keys;
  }
  return rows;
}

absl::StatusOr<train::ImageSplits> ModesBench::Images() {
  const uint64_t needed = (timed_steps_ + 1) * request_.options.batch_size;
  uint64_t most = needed;
  if (!images_.empty()) {
    PAVISE_ASSIGN_OR_RETURN(most, ParseCount("--images", images_));
    if (most < 2) return UsageError("--images: 2 or more");
  }
  train::ImageSplits splits;
  if (data_.empty()) {
    splits = SyntheticImages(std::min(most, needed));
  } else {
    PAVISE_ASSIGN_OR_RETURN(splits, train::ReadImageSplits(data_));
    splits.train.Thin(std::min(most, needed));
  }
  // Whole batches: images come again where there are too few.
  train::ImageDataset& images = splits.train;
  const size_t count = images.count();
  const Bytes pixels = images.images;
  const Bytes labels = images.labels;
  while (count > 0 && images.count() < needed) {
    const size_t more = std::min<size_t>(count, needed - images.count());
    images.images.insert(images.images.end(), pixels.begin(),
                         pixels.begin() + static_cast<ptrdiff_t>(more * images.image_bytes()));
    images.labels.insert(images.labels.end(), labels.begin(),
                         labels.begin() + static_cast<ptrdiff_t>(more));
  }
  // Nothing is evaluated.
  splits.test = images;
  splits.test.images.clear();
  splits.test.labels.clear();
  return splits;
}

std::vector<std::string> ModesBench::Notes(const train::ImageSplits& splits) const {
  std::vector<std::string> notes;
  if (data_.empty()) {
    notes.push_back(StrCat("data: ", splits.format, ", made for this; it trains nothing of use"));
  }
  std::error_code ignored;
  if (!std::filesystem::exists(kTeeGuest, ignored)) {
    notes.emplace_back(
        "this machine is no TEE's guest: the rows of tee lack what memory encryption costs, and "
        "nothing here attested");
  }
  notes.push_back(StrCat("keys: those that a job's machine is given, of ", keys_.of,
                         "; workers are given none"));
  if (offload_.workers.empty()) {
    notes.emplace_back(
        "workers: in this process, one thread each, on the same CPUs: they hide nothing from it, "
        "and no network is in their figures. They multiply with oneDNN; what none gains over tee "
        "is "
        "the difference between two libraries, and no merit of workers");
  }
  if (const std::string blas = MappedBlas(); !blas.empty()) {
    notes.push_back(StrCat("without workers libtorch multiplies matrices with ", blas,
                           blas.find("/blas/libblas") == blas.npos
                               ? ""
                               : ", the reference BLAS, many times slower than OpenBLAS: install "
                                 "libopenblas0-pthread, or tee is not what it could be"));
  }
  notes.emplace_back(
      "measured trains on the CPU. Perun's 161 to 1560 times (a GPU on a measured host against a "
      "TEE's CPU) and Tempo's 5 times (GPU workers against a TEE's CPU) take a GPU: not measured "
      "yet");
  return notes;
}

std::string ModesBench::Table(const std::vector<Row>& rows) const {
  const Row& tee = rows[0];
  std::vector<std::vector<std::string>> cells = {{"MODE", "IMAGES/S", "/ TEE", "CPU MS", "/ TEE",
                                                  "WORKERS' MS", "SENT", "BACK", "KEYS", "LOSS OFF",
                                                  "STEP OFF"}};
  std::vector<std::pair<std::string, std::string>> missing;
  std::vector<std::pair<std::string, std::string>> words;
  for (const Row& row : rows) {
    if (row.mode != "tee" || words.empty()) {
      AddWrapped(row.name, StrCat("trusted: ", absl::StrJoin(row.trusted, "; ")), words);
      AddWrapped("", StrCat("leaks: ", row.leaks), words);
    }
    const std::string keys = row.keys.has_value() ? StrCat(*row.keys) : "not allowed";
    if (!row.why_not.empty()) {
      missing.emplace_back(row.name, StrCat("not offered here: ", row.why_not));
      continue;
    }
    const ModeTurn& turn = row.figures.turns[0];
    const bool is_plain = row.scheme.empty();
    const double update = Most(row.Each(UpdateDifference));
    const auto bytes = [&](uint64_t all) {
      return is_plain ? std::string("-") : HumanBytes(all / turn.images);
    };
    cells.push_back({row.name,
                     absl::StrFormat("%.1f", static_cast<double>(row.figures.turns[0].images) /
                                                 row.Middle(Seconds)),
                     absl::StrFormat("%.2f", Median(row.TeeTo(tee, Seconds))),
                     absl::StrFormat("%.2f", 1e3 * row.Middle(CoordinatorCpu)),
                     absl::StrFormat("%.2f", Median(row.TeeTo(tee, CoordinatorCpu))),
                     is_plain ? "-"
                     : turn.worker_cpu_seconds.has_value()
                         ? absl::StrFormat("%.2f", 1e3 * row.Middle(WorkerCpu))
                         : "elsewhere",
                     bytes(turn.sent_bytes), bytes(turn.received_bytes), keys,
                     absl::StrFormat("%.1g", Most(row.Each(LossDifference))),
                     update == 0 ? "same bits" : absl::StrFormat("%.2g%%", 100 * update)});
  }
  std::string text = StrCat(
      AlignedTable(cells, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}),
      "\n  CPU time and bytes: of an image. / TEE: tee's time over this mode's, above 1 where this "
      "mode takes less;\n  medians of the rounds. LOSS OFF, STEP OFF: how far losses and trained "
      "weights are from tee's, at most.\n");
  if (!missing.empty()) text += "\n" + AlignedRows(missing);
  return text + "\n" + AlignedRows(words);
}

OrderedJson ModesBench::Json(const std::vector<Row>& rows) const {
  const Row& tee = rows[0];
  OrderedJson list = OrderedJson::array();
  for (const Row& row : rows) {
    OrderedJson& json = list.emplace_back();
    json["name"] = row.name;
    json["mode"] = row.mode;
    json["scheme"] = TextOrNull(row.scheme);
    json["why_not"] = TextOrNull(row.why_not);
    json["key_releases"] = row.keys.has_value() ? OrderedJson(*row.keys) : OrderedJson(nullptr);
    json["trusted"] = row.trusted;
    json["leaks"] = row.leaks;
    if (!row.why_not.empty()) continue;
    const ModeTurn& turn = row.figures.turns[0];
    json["threads"] = row.threads;
    json["offloaded_layers"] = row.figures.offloaded_layers;
    json["images"] = turn.images;
    json["seconds"] = row.Middle(Seconds);
    json["seconds_all"] = row.Each(Seconds);
    json["setup_seconds"] = row.Middle(SetupSeconds);
    json["images_per_second"] =
        static_cast<double>(row.figures.turns[0].images) / row.Middle(Seconds);
    json["speed_to_tee"] = Median(row.TeeTo(tee, Seconds));
    json["speed_to_tee_all"] = row.TeeTo(tee, Seconds);
    json["coordinator_cpu_seconds_per_image"] = row.Middle(CoordinatorCpu);
    json["tee_cpu_to_coordinator_cpu"] = Median(row.TeeTo(tee, CoordinatorCpu));
    json["tee_cpu_to_coordinator_cpu_all"] = row.TeeTo(tee, CoordinatorCpu);
    json["worker_cpu_seconds_per_image"] = turn.worker_cpu_seconds.has_value()
                                               ? OrderedJson(row.Middle(WorkerCpu))
                                               : OrderedJson(nullptr);
    json["sent_bytes"] = turn.sent_bytes;
    json["received_bytes"] = turn.received_bytes;
    json["setup_sent_bytes"] = turn.setup_sent_bytes;
    json["setup_received_bytes"] = turn.setup_received_bytes;
    json["loss_difference"] = Most(row.Each(LossDifference));
    json["update_difference"] = Most(row.Each(UpdateDifference));
  }
  return list;
}

std::string ModesBench::Plot(const std::vector<Row>& rows, const std::string& title,
                             const std::vector<std::string>& lines) const {
  ModePlot plot = {title, lines, {}};
  for (const Row& row : rows) {
    ModePlotRow& drawn = plot.rows.emplace_back();
    drawn.name = row.name;
    if (!row.why_not.empty()) {
      drawn.note = "not offered here";
      continue;
    }
    drawn.images_per_second =
        static_cast<double>(row.figures.turns[0].images) / row.Middle(Seconds);
    drawn.coordinator_cpu_ms = 1e3 * row.Middle(CoordinatorCpu);
    if (row.figures.turns[0].worker_cpu_seconds.has_value()) {
      drawn.worker_cpu_ms = 1e3 * row.Middle(WorkerCpu);
    }
  }
  return RenderModePlot(plot);
}

absl::StatusOr<Outcome> ModesBench::Run(const Session& session) {
  if (trainer_ == nullptr) return NoTrainer();
  PAVISE_RETURN_IF_ERROR(Resolve());
  PAVISE_ASSIGN_OR_RETURN(keys_, CountKeys(job_));
  PAVISE_ASSIGN_OR_RETURN(std::vector<Row> rows, MakeRows());
  PAVISE_ASSIGN_OR_RETURN(const train::ImageSplits splits, Images());
  const char* const temporary = std::getenv("TMPDIR");
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<WorkDirectory> folder,
                          WorkDirectory::Create(temporary == nullptr ? "/tmp" : temporary));
  request_.folder = folder->path();
  const double load_before = LoadAverage();
  const bool is_quiet = &session.progress == &NoProgress();
  const bool is_terminal = isatty(STDERR_FILENO) == 1;
  const auto say = [&](std::string_view mode, uint64_t round) {
    if (is_quiet) return;
    const std::string what = round == 0
                                 ? std::string(mode)
                                 : StrCat("round ", round, " of ", request_.rounds, ": ", mode);
    std::fputs(StrCat(is_terminal ? "\r\x1b[K" : "", what, is_terminal ? "" : "\n").c_str(),
               stderr);
  };
  absl::StatusOr<std::vector<ModeFigures>> figures = trainer_->Compare(request_, splits, say);
  if (is_terminal && !is_quiet) std::fputs("\r\x1b[K", stderr);
  PAVISE_RETURN_IF_ERROR(figures.status());
  for (Row& row : rows) {
    if (!row.why_not.empty()) continue;
    row.figures = std::move(figures->at(row.at));
    row.why_not = row.figures.why_not;
  }

  const train::TrainingOptions& options = request_.options;
  const std::string job_line =
      StrCat(network_, " on ", splits.format, " of ", splits.train.channels, " x ",
             splits.train.height, " x ", splits.train.width, ", ", Counted(timed_steps_, "step"),
             " of ", options.batch_size, " images by SGD, ", Counted(request_.rounds, "round"),
             "; wire ", offload_.wire, ", ", offload_.convolutions);
  const std::string machine_line =
      StrCat(Printable(MachineLine()), "; load before: ", absl::StrFormat("%.1f", load_before));
  const std::vector<std::string> notes = Notes(splits);
  Outcome outcome;
  outcome.headline = StrCat(job_line, "; ", machine_line);
  outcome.text = Table(rows) + "\n";
  std::vector<std::pair<std::string, std::string>> lines;
  for (const std::string& note : notes) AddWrapped("", note + ".", lines);
  outcome.text += AlignedRows(lines);
  outcome.json = {{job::kFiguresKey, job::kFiguresVersion},
                  {"machine", MachineLine()},
                  {"load_before", load_before},
                  {"tee_guest", std::filesystem::exists(kTeeGuest)},
                  {"blas", TextOrNull(MappedBlas())},
                  {"network", network_},
                  {"data", splits.format},
                  {"synthetic", data_.empty()},
                  {"image", {splits.train.channels, splits.train.height, splits.train.width}},
                  {"classes", splits.classes},
                  {"batch_size", options.batch_size},
                  {"steps", timed_steps_},
                  {"rounds", request_.rounds},
                  {"optimizer", train::OptimizerName(options.optimizer)},
                  {"threads", all_threads_},
                  {"workers", offload_.workers.empty() ? "in-process" : offload_.workers},
                  {"wire", offload_.wire},
                  {"convolutions", offload_.convolutions},
                  {"least_width", offload_.least_width},
                  {"micro_batches", offload_.micro_batches},
                  {"defaults",
                   {{"optimizer", train::OptimizerName(train::TrainingOptions().optimizer)},
                    {"wire", OffloadArguments().wire},
                    {"convolutions", OffloadArguments().convolutions},
                    {"least_width", OffloadArguments().least_width},
                    {"micro_batches", OffloadArguments().micro_batches}}},
                  {"modes", Json(rows)},
                  {"keys_of", keys_.of},
                  {"notes", notes}};
  if (!report_.empty()) {
    PAVISE_RETURN_IF_ERROR(WriteFileAtomically(report_, AsBytes(DumpJson(outcome.json) + "\n")));
  }
  if (!plot_.empty()) {
    const std::string title = StrCat("What a training job costs in each trust mode: ", network_);
    PAVISE_RETURN_IF_ERROR(
        WriteFileAtomically(plot_, AsBytes(Plot(rows, title, {job_line, machine_line}))));
  }
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewModesBench(Trainer* trainer) {
  return std::make_unique<ModesBench>(trainer);
}

}  // namespace pavise::cli
