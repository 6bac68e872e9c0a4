#include "pavise/cli/bench_hash.h"

#include <stdlib.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <regex>
#include <utility>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"
#include "pavise/base/json.h"
#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/rate_plot.h"
#include "pavise/hash/cpu/cpu_device.h"
#include "pavise/hash/devices.h"
#include "pavise/hash/measure.h"

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace pavise::cli {
namespace {

constexpr const char* kGroup = "What is measured";
constexpr uint64_t kLeastSizeBytes = uint64_t{1} << 20;
constexpr uint64_t kMostSizeBytes = uint64_t{64} << 30;
constexpr size_t kMostDevices = 16;
// A point that would take longer than this a run, going by the size before, is left out.
constexpr double kLongestRunSeconds = 60;
// The time of a shorter run says little about a longer one's: most of it may be the call's own.
constexpr uint64_t kShortestTellingNs = 100'000'000;
constexpr uint64_t kMaxResumeBytes = 16u << 20;
constexpr std::string_view kResumeFormat = "pavise bench hash 1";

struct Point {
  std::string device;
  hash::Measure measure = hash::Measure::kBlake3;
  uint64_t size_bytes = 0;
  hash::Measurement result;
  uint64_t upload_ns = 0;
};

struct LeftOut {
  std::string device;
  std::string measure;  // empty: all
  uint64_t size_bytes = 0;
  std::string why;
};

OrderedJson PointJson(const Point& point) {
  return {{"device", point.device},
          {"measure", hash::MeasureName(point.measure)},
          {"size_bytes", point.size_bytes},
          {"bytes_moved", point.result.bytes_moved},
          {"median_ns", point.result.median_ns},
          {"least_ns", point.result.least_ns},
          {"runs", point.result.runs},
          {"answers", point.result.answers},
          {"answers_checked", point.result.answers_checked},
          {"upload_ns", point.upload_ns}};
}

absl::StatusOr<Point> PointFromJson(const JsonObject& json) {
  PAVISE_RETURN_IF_ERROR(
      json.RequireOnly({"device", "measure", "size_bytes", "bytes_moved", "median_ns", "least_ns",
                        "runs", "answers", "answers_checked", "upload_ns"}));
  Point point;
  PAVISE_ASSIGN_OR_RETURN(point.device, json.GetString("device"));
  PAVISE_ASSIGN_OR_RETURN(const std::string name, json.GetString("measure"));
  const std::optional<hash::Measure> measure = hash::MeasureFromName(name);
  if (!measure.has_value()) {
    return Refuse(Reason::kMalformed, json.PathOf("measure"), StrCat("no measure '", name, "'"));
  }
  point.measure = *measure;
  PAVISE_ASSIGN_OR_RETURN(point.size_bytes, json.GetUint("size_bytes"));
  PAVISE_ASSIGN_OR_RETURN(point.result.bytes_moved, json.GetUint("bytes_moved"));
  PAVISE_ASSIGN_OR_RETURN(point.result.median_ns, json.GetUint("median_ns"));
  PAVISE_ASSIGN_OR_RETURN(point.result.least_ns, json.GetUint("least_ns"));
  PAVISE_ASSIGN_OR_RETURN(point.result.runs, json.GetUint("runs"));
  PAVISE_ASSIGN_OR_RETURN(point.result.answers, json.GetUint("answers"));
  PAVISE_ASSIGN_OR_RETURN(point.result.answers_checked, json.GetUint("answers_checked"));
  PAVISE_ASSIGN_OR_RETURN(point.upload_ns, json.GetUint("upload_ns"));
  if (point.size_bytes == 0 || point.result.bytes_moved == 0 || point.result.median_ns == 0) {
    return Refuse(Reason::kMalformed, json.path(), "a point without size or time",
                  "remove the file and measure again");
  }
  return point;
}

// The points that are done, in a file that only a run of the same program, machine, devices and
// duration goes on with. Rewritten whole after each point.
class Progressed {
 public:
  Progressed(std::string path, OrderedJson identity)
      : path_(std::move(path)), identity_(std::move(identity)) {}

  absl::Status Read() {
    if (path_.empty() || access(path_.c_str(), F_OK) != 0) return absl::OkStatus();
    PAVISE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(path_, kMaxResumeBytes));
    PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(text, path_));
    PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, path_));
    PAVISE_RETURN_IF_ERROR(object.RequireOnly({"measured_by", "points"}));
    PAVISE_ASSIGN_OR_RETURN(const Json* const measured_by, object.Get("measured_by"));
    PAVISE_ASSIGN_OR_RETURN(const Json* const points, object.GetArray("points"));
    if (*measured_by != Json(identity_)) {
      return Refuse(
          Reason::kUnsupported, path_,
          StrCat("was measured by ", measured_by->dump(), ", and this is ", Json(identity_).dump()),
          "give a file of its own to each version, machine, list of devices and "
          "duration");
    }
    for (size_t i = 0; i < points->size(); ++i) {
      PAVISE_ASSIGN_OR_RETURN(const JsonObject entry,
                              JsonObject::From((*points)[i], StrCat(path_, ".points[", i, "]")));
      PAVISE_ASSIGN_OR_RETURN(Point point, PointFromJson(entry));
      if (Find(point.device, point.measure, point.size_bytes) != nullptr) {
        return Refuse(Reason::kMalformed, entry.path(), "a point that is there already",
                      "remove the file and measure again");
      }
      points_.push_back(std::move(point));
    }
    return absl::OkStatus();
  }

  absl::Status Add(Point point) {
    points_.push_back(std::move(point));
    if (path_.empty()) return absl::OkStatus();
    OrderedJson points = OrderedJson::array();
    for (const Point& each : points_) points.push_back(PointJson(each));
    return WriteFileAtomically(
        path_, AsBytes(DumpJson({{"measured_by", identity_}, {"points", points}}) + "\n"));
  }

  const Point* Find(std::string_view device, hash::Measure measure, uint64_t size_bytes) const {
    for (const Point& point : points_) {
      if (point.device == device && point.measure == measure && point.size_bytes == size_bytes) {
        return &point;
      }
    }
    return nullptr;
  }

 private:
  const std::string path_;
  const OrderedJson identity_;
  std::vector<Point> points_;
};

absl::StatusOr<std::vector<uint64_t>> ParseSizes(const std::string& text) {
  std::vector<uint64_t> sizes;
  if (text.empty()) {
    for (uint64_t size = kLeastSizeBytes; size <= kMostSizeBytes; size *= 4) sizes.push_back(size);
    return sizes;
  }
  for (const std::string& word : std::vector<std::string>(absl::StrSplit(text, ','))) {
    PAVISE_ASSIGN_OR_RETURN(const uint64_t size, ParseSize("--sizes", word));
    if (size == 0 || size > kMostSizeBytes) {
      return UsageError(StrCat("--sizes: from 1 byte to ", SizeLabel(kMostSizeBytes)));
    }
    sizes.push_back(size);
  }
  std::sort(sizes.begin(), sizes.end());
  if (std::adjacent_find(sizes.begin(), sizes.end()) != sizes.end()) {
    return UsageError("--sizes: one size twice");
  }
  return sizes;
}

absl::StatusOr<double> ParseSeconds(std::string_view option, const std::string& text) {
  double seconds = 0;
  // Written so that NaN is refused too.
  if (!absl::SimpleAtod(text, &seconds) || !(seconds >= 0 && seconds <= 1e6)) {
    return UsageError(StrCat(option, ": a number of seconds from 0 to 1000000"));
  }
  return seconds;
}

absl::StatusOr<std::vector<std::unique_ptr<hash::Device>>> OpenDevices(const std::string& names,
                                                                       unsigned threads) {
  const std::vector<std::string> list = absl::StrSplit(names, ',');
  if (list.size() > kMostDevices) {
    return UsageError(StrCat("--device: at most ", kMostDevices));
  }
  std::vector<std::unique_ptr<hash::Device>> devices;
  bool has_cpu = false;
  for (const std::string& name : list) {
    PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<hash::Device> device, hash::OpenDevice(name));
    if (device->name() == "cpu") {
      has_cpu = true;
      if (threads != 0) device = hash::NewCpuDevice(threads);
    }
    for (const auto& other : devices) {
      if (other->name() == device->name()) {
        return UsageError(StrCat("--device: ", device->name(), " twice"));
      }
    }
    devices.push_back(std::move(device));
  }
  if (threads != 0 && !has_cpu) {
    return UsageError(StrCat("--threads: for the CPU, and this is ", names));
  }
  return devices;
}

// Without the sizes in it: some drivers report what memory is free just now.
std::string StableDescription(const hash::Device& device) {
  static const std::regex kSize("[0-9.]+ [KMGT]?i?B\\b");
  return std::regex_replace(device.description(), kSize, "*");
}

std::string Why(const absl::Status& status) {
  const std::vector<Refusal> findings = RefusalsOf(status);
  return findings.empty() ? std::string(status.message()) : findings.front().detail;
}

bool IsOffered(const hash::Device& device, hash::Measure measure) {
  switch (measure) {
    case hash::Measure::kSha256Ranges:
      return device.supports(hash::Algorithm::kSha256);
    case hash::Measure::kSha384Ranges:
      return device.supports(hash::Algorithm::kSha384);
    case hash::Measure::kTag:
    case hash::Measure::kTagTwoKeys:
      return device.supports_tags();
    default:
      return device.supports(hash::Algorithm::kBlake3);
  }
}

std::string Milliseconds(uint64_t nanoseconds) {
  return nanoseconds == 0 ? "-" : absl::StrFormat("%.3f", static_cast<double>(nanoseconds) / 1e6);
}

// One run over devices, sizes and measures.
class Table {
 public:
  Table(std::vector<std::unique_ptr<hash::Device>> devices, std::vector<uint64_t> sizes,
        double seconds, double stop_after_seconds, Progressed progressed)
      : devices_(std::move(devices)),
        sizes_(std::move(sizes)),
        seconds_(seconds),
        stop_after_seconds_(stop_after_seconds),
        progressed_(std::move(progressed)) {}

  absl::Status Measure() {
    for (const auto& device : devices_) {
      for (size_t i = 0; i < sizes_.size(); ++i) {
        const absl::Status status = MeasureSize(*device, i);
        if (ReasonOf(status) != Reason::kUnsupported) {
          PAVISE_RETURN_IF_ERROR(status);
          continue;
        }
        // Larger ones find no room either.
        left_out_.push_back({device->name(), "", sizes_[i], Why(status)});
        break;
      }
    }
    return absl::OkStatus();
  }

  std::vector<const Point*> Points() const {
    std::vector<const Point*> points;
    for (const auto& device : devices_) {
      for (const uint64_t size : sizes_) {
        for (const hash::Measure measure : hash::kMeasures) {
          const Point* const point = progressed_.Find(device->name(), measure, size);
          if (point != nullptr) points.push_back(point);
        }
      }
    }
    return points;
  }
  const std::vector<std::unique_ptr<hash::Device>>& devices() const { return devices_; }
  const std::vector<LeftOut>& left_out() const { return left_out_; }
  uint64_t points_left() const { return points_left_; }
  uint64_t points_measured() const { return points_measured_; }

 private:
  absl::Status MeasureSize(hash::Device& device, size_t size_index) {
    const uint64_t size = sizes_[size_index];
    std::unique_ptr<hash::DeviceMeasurer> measurer;
    for (const hash::Measure measure : hash::kMeasures) {
      const std::string_view name = hash::MeasureName(measure);
      if (progressed_.Find(device.name(), measure, size) != nullptr) continue;
      if (!IsOffered(device, measure)) {
        if (size_index == 0) {
          left_out_.push_back({device.name(), std::string(name), size, "the device has no such"});
        }
        continue;
      }
      if (const double expected_s = ExpectedSeconds(device, measure, size_index);
          expected_s > kLongestRunSeconds) {
        left_out_.push_back({device.name(), std::string(name), size,
                             absl::StrFormat("a run would take some %.0f s", expected_s)});
        continue;
      }
      if (std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count() >=
          stop_after_seconds_) {
        ++points_left_;
        continue;
      }
      if (measurer == nullptr) {
        PAVISE_ASSIGN_OR_RETURN(measurer, hash::DeviceMeasurer::Create(device, size));
      }
      const absl::StatusOr<hash::Measurement> result = measurer->Time(measure, seconds_);
      if (ReasonOf(result.status()) == Reason::kUnsupported) {
        left_out_.push_back({device.name(), std::string(name), size, Why(result.status())});
        continue;
      }
      PAVISE_RETURN_IF_ERROR(result.status());
      ++points_measured_;
      PAVISE_RETURN_IF_ERROR(
          progressed_.Add({device.name(), measure, size, *result, measurer->upload_ns()}));
    }
    return absl::OkStatus();
  }

  // Of a run, by the rate of the next smaller size; 0 where that tells nothing.
  double ExpectedSeconds(const hash::Device& device, hash::Measure measure,
                         size_t size_index) const {
    for (size_t i = size_index; i > 0; --i) {
      const Point* const smaller = progressed_.Find(device.name(), measure, sizes_[i - 1]);
      if (smaller == nullptr) continue;
      if (smaller->result.median_ns < kShortestTellingNs) return 0;
      return static_cast<double>(smaller->result.median_ns) / 1e9 *
             static_cast<double>(sizes_[size_index]) / static_cast<double>(sizes_[i - 1]);
    }
    return 0;
  }

  const std::vector<std::unique_ptr<hash::Device>> devices_;
  const std::vector<uint64_t> sizes_;
  const double seconds_;
  const double stop_after_seconds_;
  Progressed progressed_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  std::vector<LeftOut> left_out_;
  uint64_t points_left_ = 0;
  uint64_t points_measured_ = 0;
};

RatePlot PlotOf(const Table& table, const std::string& machine) {
  RatePlot plot;
  plot.title = "Hashing, tagging and copying bytes in a device's memory";
  plot.lines.push_back(machine);
  std::map<std::string, size_t> panel_of;
  for (const auto& device : table.devices()) {
    panel_of.emplace(device->name(), plot.panels.size());
    plot.panels.push_back(device->name());
    plot.lines.push_back(StrCat(device->name(), ": ", device->description()));
  }
  std::map<std::pair<std::string, hash::Measure>, size_t> place_of;
  for (const Point* point : table.Points()) {
    const auto [place, is_new] =
        place_of.try_emplace({point->device, point->measure}, plot.series.size());
    if (is_new) {
      plot.series.push_back(
          {panel_of[point->device], std::string(hash::MeasureName(point->measure)), {}});
    }
    plot.series[place->second].points.emplace_back(point->size_bytes,
                                                   point->result.gigabytes_per_second());
  }
  return plot;
}

}  // namespace

std::string MachineLine() {
  std::string model = "unknown CPU";
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) model = line.substr(colon + 2);
    break;
  }
  struct utsname names = {};
  uname(&names);
  const uint64_t memory_bytes = static_cast<uint64_t>(std::max(0l, sysconf(_SC_PHYS_PAGES))) *
                                static_cast<uint64_t>(std::max(0l, sysconf(_SC_PAGESIZE)));
  return StrCat(model, ", ", Counted(hash::UsableCpus(), "CPU"), ", ", HumanBytes(memory_bytes),
                ", ", names.sysname, " ", names.release);
}

double LoadAverage() {
  double load = 0;
  return getloadavg(&load, 1) == 1 ? load : 0;
}

void HashBench::Declare(CLI::App& app) {
  AddOption(app, "--device", devices_, "NAME[,NAME...]",
            "cpu, opencl:N, cuda:N (doctor lists them), or auto: the first GPU, else the CPU [cpu]",
            kGroup);
  AddOption(app, "--sizes", sizes_, "SIZE[,SIZE...]",
            "bytes, or with a unit [1MiB to 64GiB by fours, as far as memory goes]", kGroup);
  AddOption(app, "--seconds", seconds_, "S",
            "how long each point is repeated, at least three times [0.5]", kGroup);
  AddOption(app, "--threads", threads_, "N", "of the CPU [one a CPU]", kGroup);
  AddOption(app, "--resume", resume_, "FILE",
            "keep each point here when it is done, and go on with what is here already", kGroup);
  AddOption(app, "--stop-after", stop_after_, "S",
            "begin no point after so many seconds; the result counts what is left", kGroup);
  AddOption(app, "--plot", plot_, "FILE", "draw GB/s against size (SVG)", kGroup);
}

absl::StatusOr<Outcome> HashBench::Run() const {
  PAVISE_ASSIGN_OR_RETURN(std::vector<uint64_t> sizes, ParseSizes(sizes_));
  PAVISE_ASSIGN_OR_RETURN(const double seconds, ParseSeconds("--seconds", seconds_));
  double stop_after_seconds = 1e9;
  if (!stop_after_.empty()) {
    PAVISE_ASSIGN_OR_RETURN(stop_after_seconds, ParseSeconds("--stop-after", stop_after_));
  }
  PAVISE_ASSIGN_OR_RETURN(const unsigned threads, ParseThreads(threads_));
  PAVISE_ASSIGN_OR_RETURN(auto devices, OpenDevices(devices_, threads));

  const std::string machine = MachineLine();
  OrderedJson descriptions = OrderedJson::object();
  OrderedJson stable_descriptions = OrderedJson::object();
  for (const auto& device : devices) {
    descriptions[device->name()] = device->description();
    stable_descriptions[device->name()] = StableDescription(*device);
  }
  const OrderedJson identity = {{"format", kResumeFormat},
                                {"pavise", PAVISE_VERSION},
                                {"machine", machine},
                                {"devices", stable_descriptions},
                                {"seconds", seconds_}};
  const double load_before = LoadAverage();
  Progressed progressed(resume_, identity);
  PAVISE_RETURN_IF_ERROR(progressed.Read());
  Table table(std::move(devices), std::move(sizes), seconds, stop_after_seconds,
              std::move(progressed));
  PAVISE_RETURN_IF_ERROR(table.Measure());

  Outcome outcome;
  outcome.headline =
      StrCat(Printable(machine), "; load before: ", absl::StrFormat("%.1f", load_before));
  std::vector<std::vector<std::string>> rows = {
      {"DEVICE", "SIZE", "WORK", "GB/S", "RUNS", "ANSWERS CHECKED", "UPLOAD MS"}};
  OrderedJson results = OrderedJson::array();
  for (const Point* point : table.Points()) {
    rows.push_back({point->device, SizeLabel(point->size_bytes),
                    std::string(hash::MeasureName(point->measure)),
                    absl::StrFormat("%.2f", point->result.gigabytes_per_second()),
                    StrCat(point->result.runs),
                    StrCat(point->result.answers_checked, " of ", point->result.answers),
                    Milliseconds(point->upload_ns)});
    OrderedJson& entry = results.emplace_back(PointJson(*point));
    entry["gigabytes_per_second"] = point->result.gigabytes_per_second();
  }
  OrderedJson left_out = OrderedJson::array();
  for (const auto& device : table.devices()) {
    StrAppend(&outcome.text, device->name(), ": ", Printable(device->description()), "\n");
  }
  StrAppend(&outcome.text, "\n", AlignedTable(rows, {1, 3, 4, 5, 6}),
            "\nMedians of the runs, each of which gave the checked answers; upload is not in them. "
            "copy: bytes read and written.\n");
  for (const LeftOut& item : table.left_out()) {
    StrAppend(&outcome.text, "left out: ", item.device, ", ",
              item.measure.empty() ? StrCat("all from ", SizeLabel(item.size_bytes), " on")
                                   : StrCat(item.measure, " of ", SizeLabel(item.size_bytes)),
              ": ", Printable(item.why), "\n");
    left_out.push_back({{"device", item.device},
                        {"measure", TextOrNull(item.measure)},
                        {"size_bytes", item.size_bytes},
                        {"why", item.why}});
  }
  if (table.points_left() != 0) {
    StrAppend(&outcome.text, Counted(table.points_left(), "point"), " left: run it again",
              resume_.empty() ? " with --resume" : "", "\n");
  }
  if (!plot_.empty()) {
    PAVISE_RETURN_IF_ERROR(
        WriteFileAtomically(plot_, AsBytes(RenderRatePlot(PlotOf(table, machine)))));
    StrAppend(&outcome.text, "plot: ", Printable(plot_), "\n");
  }
  outcome.json = {{"machine", machine},
                  {"load_before", load_before},
                  {"devices", descriptions},
                  {"results", results},
                  {"left_out", left_out},
                  {"points_measured", table.points_measured()},
                  {"points_left", table.points_left()},
                  {"plot", TextOrNull(plot_)}};
  return outcome;
}

}  // namespace pavise::cli
