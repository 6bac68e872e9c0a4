#include "pavise/job/cost.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_format.h"

namespace pavise::job {
namespace {

// Finite and 0 or more.
absl::StatusOr<double> GetNumber(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const Json* const value, object.Get(key));
  const double number = value->is_number() ? value->get<double>() : NAN;
  if (std::isfinite(number) && number >= 0) return number;
  return Refuse(Reason::kMalformed, object.PathOf(key), "is no number of 0 or more");
}

absl::StatusOr<RecordedMode> ParseMode(const JsonObject& object) {
  RecordedMode mode;
  PAVISE_ASSIGN_OR_RETURN(mode.mode, object.GetString("mode"));
  PAVISE_ASSIGN_OR_RETURN(const Json* const scheme, object.Get("scheme"));
  if (!scheme->is_null()) {
    PAVISE_ASSIGN_OR_RETURN(mode.scheme, object.GetString("scheme"));
  }
  PAVISE_ASSIGN_OR_RETURN(mode.threads, object.GetUint("threads"));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t images, object.GetUint("images"));
  PAVISE_ASSIGN_OR_RETURN(const double seconds, GetNumber(object, "seconds"));
  if (images == 0 || seconds == 0) {
    return Refuse(Reason::kMalformed, object.path(), "was measured over no images, or no time");
  }
  const double count = static_cast<double>(images);
  mode.seconds_per_image = seconds / count;
  PAVISE_ASSIGN_OR_RETURN(mode.setup_seconds, GetNumber(object, "setup_seconds"));
  PAVISE_ASSIGN_OR_RETURN(mode.coordinator_cpu_seconds_per_image,
                          GetNumber(object, "coordinator_cpu_seconds_per_image"));
  PAVISE_ASSIGN_OR_RETURN(const double sent, GetNumber(object, "sent_bytes"));
  PAVISE_ASSIGN_OR_RETURN(const double received, GetNumber(object, "received_bytes"));
  mode.bytes_per_image = (sent + received) / count;
  PAVISE_ASSIGN_OR_RETURN(const uint64_t setup_sent, object.GetUint("setup_sent_bytes"));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t setup_received, object.GetUint("setup_received_bytes"));
  mode.setup_bytes = setup_sent + setup_received;
  return mode;
}

// What follows an option in the job's command.
std::optional<std::string> OptionOf(const Job& job, std::string_view name) {
  const std::string option = StrCat("--", name);
  const auto found = std::find(job.command.begin(), job.command.end(), option);
  if (found == job.command.end() || found + 1 == job.command.end()) return std::nullopt;
  return *(found + 1);
}

std::optional<uint64_t> CountOf(const std::optional<std::string>& text) {
  uint64_t count = 0;
  if (!text.has_value()) return std::nullopt;
  const char* const end = text->data() + text->size();
  const auto [stop, error] = std::from_chars(text->data(), end, count);
  if (error != std::errc() || stop != end || count == 0) return std::nullopt;
  return count;
}

std::string TimeText(double seconds) {
  return seconds < 120    ? absl::StrFormat("%.1f s", seconds)
         : seconds < 7200 ? absl::StrFormat("%.1f min", seconds / 60)
                          : absl::StrFormat("%.1f h", seconds / 3600);
}

std::string BytesText(double bytes) {
  return bytes < 1e18 ? HumanBytes(static_cast<uint64_t>(bytes)) : "over 1e18 bytes";
}

// Why these figures are not of this job; "" where they are.
std::string Difference(const Job& job, const RecordedFigures& figures) {
  for (const RecordedFigures::Setting& setting : figures.settings) {
    const std::string wanted = OptionOf(job, setting.name).value_or(setting.by_default);
    if (wanted.empty()) return StrCat("the job leaves its ", setting.name, " open");
    if (wanted == setting.measured) continue;
    return StrCat("the figures are of ", setting.name, " ", Printable(setting.measured),
                  ", the job's is ", Printable(wanted));
  }
  return "";
}

const RecordedMode* ModeOf(const Job& job, const RecordedFigures& figures) {
  const std::string scheme = job.obfuscation.has_value() ? job.obfuscation->scheme : "";
  const std::optional<uint64_t> threads = CountOf(OptionOf(job, "threads"));
  const RecordedMode* best = nullptr;
  for (const RecordedMode& mode : figures.modes) {
    if (mode.mode != TrustModeName(job.mode) || mode.scheme != scheme) continue;
    if (threads.has_value() && mode.threads != *threads) continue;
    if (best == nullptr || mode.threads > best->threads) best = &mode;
  }
  return best;
}

std::string HowToMeasure(const Job& job) {
  std::string command = "pavise bench modes --report-json FILE";
  for (const std::string_view name : {"network", "batch-size", "wire", "convolutions"}) {
    const std::optional<std::string> value = OptionOf(job, name);
    if (value.has_value()) StrAppend(&command, " --", name, " ", Printable(*value));
  }
  if (job.obfuscation.has_value()) StrAppend(&command, " --schemes ", job.obfuscation->scheme);
  return StrCat(command, ", on such a machine; then pavise job plan --figures FILE");
}

}  // namespace

absl::StatusOr<RecordedFigures> ParseFigures(ByteSpan json, const std::string& item) {
  PAVISE_ASSIGN_OR_RETURN(const Json parsed, ParseJson(json, item));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject root, JsonObject::From(parsed, item));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t version, root.GetUint(kFiguresKey));
  if (version != kFiguresVersion) {
    return Refuse(Reason::kUnsupported, item, StrCat("has version ", version),
                  "measure again: pavise bench modes --report-json");
  }
  RecordedFigures figures;
  figures.item = item;
  PAVISE_ASSIGN_OR_RETURN(figures.machine, root.GetString("machine"));
  PAVISE_ASSIGN_OR_RETURN(figures.load_before, GetNumber(root, "load_before"));
  PAVISE_ASSIGN_OR_RETURN(figures.tee_guest, root.GetBool("tee_guest"));
  PAVISE_ASSIGN_OR_RETURN(figures.workers, root.GetString("workers"));
  PAVISE_ASSIGN_OR_RETURN(figures.data, root.GetString("data"));
  PAVISE_ASSIGN_OR_RETURN(const Json* const image, root.GetArray("image"));
  for (const Json& side : *image) {
    if (!side.is_number_unsigned() || image->size() != 3) {
      return Refuse(Reason::kMalformed, root.PathOf("image"), "is not channels, height, width");
    }
    StrAppend(&figures.data, &side == &image->front() ? " of " : " x ", side.get<uint64_t>());
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string network, root.GetString("network"));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t batch_size, root.GetUint("batch_size"));
  figures.settings = {{"network", network, ""}, {"batch-size", StrCat(batch_size), ""}};
  PAVISE_ASSIGN_OR_RETURN(const JsonObject defaults, root.GetObject("defaults"));
  for (const char* key : {"optimizer", "wire", "convolutions", "least_width", "micro_batches"}) {
    RecordedFigures::Setting& setting = figures.settings.emplace_back();
    setting.name = key;
    std::replace(setting.name.begin(), setting.name.end(), '_', '-');
    PAVISE_ASSIGN_OR_RETURN(setting.measured, root.GetString(key));
    PAVISE_ASSIGN_OR_RETURN(setting.by_default, defaults.GetString(key));
  }
  PAVISE_ASSIGN_OR_RETURN(const Json* const modes, root.GetArray("modes"));
  for (const Json& each : *modes) {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(each, root.PathOf("modes")));
    PAVISE_ASSIGN_OR_RETURN(const Json* const why_not, object.Get("why_not"));
    if (!why_not->is_null()) continue;
    PAVISE_ASSIGN_OR_RETURN(figures.modes.emplace_back(), ParseMode(object));
  }
  return figures;
}

std::vector<std::string> ExpectedCost(const Job& job, const RecordedFigures* figures,
                                      std::string_view machine) {
  if (job.use != offload::Use::kTraining) {
    return {"time and traffic of the command: not measured before the run"};
  }
  const std::string not_measured = "time and traffic of training: not measured";
  if (figures == nullptr) return {StrCat(not_measured, "; ", HowToMeasure(job))};
  const std::string difference = Difference(job, *figures);
  const RecordedMode* const mode = difference.empty() ? ModeOf(job, *figures) : nullptr;
  if (mode == nullptr) {
    return {StrCat(not_measured, " by ", Printable(figures->item), ": ",
                   difference.empty() ? std::string("it has no figures of this mode, scheme and "
                                                    "number of threads")
                                      : difference,
                   "; ", HowToMeasure(job))};
  }
  // What is sealed is not counted here: only the job can say how many images it takes.
  const std::optional<uint64_t> images = CountOf(OptionOf(job, "train-images"));
  const std::optional<uint64_t> epochs = CountOf(OptionOf(job, "epochs"));
  const double count =
      static_cast<double>(images.value_or(1000)) * static_cast<double>(epochs.value_or(1));
  const double seconds = mode->setup_seconds + count * mode->seconds_per_image;
  std::string expected = StrCat("expected ", TimeText(seconds), ", of it ",
                                TimeText(count * mode->coordinator_cpu_seconds_per_image),
                                " of this machine's CPU time");
  if (!mode->scheme.empty()) {
    StrAppend(&expected, ", and ",
              BytesText(static_cast<double>(mode->setup_bytes) + count * mode->bytes_per_image),
              " to and from workers");
  }
  StrAppend(&expected, ": ",
            epochs.has_value() ? StrCat(*epochs, *epochs == 1 ? " epoch" : " epochs")
                               : std::string("for each epoch (the job leaves their number open)"),
            " of ",
            images.has_value() ? StrCat(*images, " images")
                               : std::string("every 1,000 images (train_images says how many; the "
                                             "data is sealed)"),
            "; without evaluations and checkpoints");
  std::string source = StrCat(
      "which is ", Printable(figures->item), "'s rate, measured on ", Printable(figures->machine),
      absl::StrFormat(" (load before: %.1f)", figures->load_before), ", ", mode->threads,
      mode->threads == 1 ? " thread, " : " threads, ", Printable(figures->data));
  if (!machine.empty() && machine != figures->machine) {
    StrAppend(&source, "; this machine is another one: ", Printable(machine));
  }
  if (job.mode == TrustMode::kTee && !figures->tee_guest) {
    source += "; outside of a TEE, so that what memory encryption costs is not in it";
  }
  if (job.obfuscation.has_value()) {
    StrAppend(&source, "; workers: ", Printable(figures->workers),
              job.obfuscation->workers.empty() || figures->workers != "in-process"
                  ? ""
                  : ", so that no network and not the job's own workers are in it");
  }
  return {expected, source};
}

}  // namespace pavise::job
