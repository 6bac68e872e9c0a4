#include "pavise/host/host_image.h"

#include <unistd.h>

#include <array>
#include <filesystem>
#include <memory>

#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/verb.h"
#include "pavise/evidence/appraise/reference/reference_values.h"

#include "CLI/CLI.hpp"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace pavise::cli {
namespace {

constexpr const char* kContentGroup = "What goes in";
constexpr const char* kBuildGroup = "How it is built";
constexpr std::string_view kAgentInImage = "/usr/bin/pavise-agent";

// A program that was built and installed beside this one.
std::string BesideThisProgram(std::string_view name) {
  std::array<char, 4096> path;
  const ssize_t length = readlink("/proc/self/exe", path.data(), path.size());
  if (length <= 0) return std::string(name);
  const std::filesystem::path program(std::string(path.data(), static_cast<size_t>(length)));
  return (program.parent_path() / std::string(name)).string();
}

class HostImageVerb final : public Verb {
 public:
  std::string_view name() const override { return "host-image"; }
  std::string_view group() const override { return "Evidence"; }
  std::string_view summary() const override {
    return "Build a bootable image for a measured host: Debian's kernel, packages and your files, "
           "none of them a known login, shell or debugger, and the values that its boot will "
           "measure.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  apt-get download linux-image-6.1.0-56-cloud-amd64\n"
           "  pavise host-image -o host --kernel linux-image-6.1.0-56-cloud-amd64_*.deb\n"
           "  pavise host-image -o host --kernel kernel.deb --files rootfs --package libgomp1.deb "
           "\\\n"
           "    --start '/usr/bin/train --epochs 3'\n"
           "\n"
           "Writes DIR/host.efi (the unified kernel image), DIR/esp.img (a boot partition with it) "
           "DIR/root.img (the verified root) and DIR/reference.json (what its boot will measure). "
           "The same input gives the same bytes. Programs: "
           "dpkg-deb, mksquashfs, veritysetup, mkfs.vfat, mtools.";
  }

  void Declare(CLI::App& app) override {
    AddOption(app, "-o,--output", output_, "DIR", "where to write the image", kBuildGroup)
        ->required();
    AddOption(app, "--kernel", options_.kernel, "PACKAGE",
              "a Debian kernel package, or the directory it was unpacked into", kContentGroup)
        ->required();
    AddOption(app, "--files", options_.files, "DIR", "your files, copied over the packages'",
              kContentGroup);
    AddOption(app, "--package", options_.packages, "DEB",
              "a Debian package to unpack; its scripts are not run (repeatable)", kContentGroup);
    AddOption(app, "--program", programs_, "FILE=PATH",
              "a program of this machine, with the shared libraries it needs (repeatable)",
              kContentGroup);
    AddOption(app, "--library", options_.libraries, "FILE",
              "a shared library that a program loads by name (repeatable)", kContentGroup);
    AddOption(app, "--start", start_, "COMMAND",
              "what the image runs, words separated by spaces; the machine is switched off at its "
              "end [pavise-agent, which gives evidence on /dev/ttyS1]",
              kContentGroup);
    AddOption(app, "--address", address_, "TEXT",
              "interface, IPv4 address, netmask and gateway, separated by spaces [no address]",
              kContentGroup);
    AddOption(
        app, "--module", modules_, "NAME",
        "a kernel module to load instead of the default ones, with those it needs (repeatable)",
        kContentGroup);
    AddOption(app, "--command-line", options_.command_line, "TEXT",
              "kernel parameters beside the protections [console=ttyS0 quiet]", kContentGroup);
    AddOption(app, "--allow-program", allowed_, "NAME",
              "let a shell, debugger or login of this name into the image (repeatable)",
              kContentGroup);
    AddOption(app, "--stub", options_.stub, "FILE",
              "systemd's EFI stub [/usr/lib/systemd/boot/efi/linuxx64.efi.stub]", kBuildGroup);
    AddOption(app, "--init", options_.init, "FILE", "pavise-init [beside this program]",
              kBuildGroup);
  }

  absl::StatusOr<Outcome> Run(const Session&) override;

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return "no image was built";
  }

 private:
  std::string output_;
  std::string start_;
  std::vector<std::string> programs_;
  std::string address_;
  std::vector<std::string> modules_;
  std::vector<std::string> allowed_;
  host::HostImageOptions options_;
};

absl::StatusOr<Outcome> HostImageVerb::Run(const Session&) {
  if (options_.init.empty()) options_.init = BesideThisProgram("pavise-init");
  for (const std::string& program : programs_) {
    const size_t equals = program.find('=');
    if (equals == std::string::npos || equals + 1 >= program.size() || program[equals + 1] != '/') {
      return UsageError(StrCat("--program ", program, ": FILE=PATH, PATH absolute"));
    }
    options_.programs[program.substr(equals + 1)] = program.substr(0, equals);
  }
  if (!address_.empty()) options_.address = absl::StrSplit(address_, ' ', absl::SkipEmpty());
  if (start_.empty()) {
    options_.programs.emplace(kAgentInImage, BesideThisProgram("pavise-agent"));
    options_.start = {std::string(kAgentInImage), "attest", "--serial", "/dev/ttyS1"};
  } else {
    options_.start = absl::StrSplit(start_, ' ', absl::SkipEmpty());
  }
  if (!modules_.empty()) options_.modules = modules_;
  options_.allowed_programs.insert(allowed_.begin(), allowed_.end());
  PAVISE_ASSIGN_OR_RETURN(const host::HostImage image, host::BuildHostImage(options_, output_));

  evidence::ReferenceValues references;
  const std::string source = StrCat("pavise host-image ", BaseName(output_));
  evidence::AddRegisters(image.pcrs, evidence::PcrBank::kSha256, {2, 3, 4, 5, 6, 9, 11, 12, 13},
                         source, references);
  references.command_lines.emplace(image.command_line, source);
  for (const auto& [path, digest] : image.files) {
    references.files[path].emplace(StrCat("sha256:", ToHex(digest)), source);
  }
  PAVISE_RETURN_IF_ERROR(WriteFileAtomically(StrCat(output_, "/reference.json"),
                                             AsBytes(evidence::FormatReferenceValues(references))));

  Outcome outcome;
  outcome.verdict = "OK";
  outcome.headline = StrCat("a host image in ", Printable(output_));
  std::vector<std::pair<std::string, std::string>> rows = {
      {"boots", StrCat(output_, "/esp.img (", HumanBytes(image.kernel_image_bytes),
                       " unified kernel image)")},
      {"root", StrCat(output_, "/root.img (", HumanBytes(image.root_bytes), ", verified)")},
      {"references", StrCat(output_, "/reference.json")},
      {"starts", absl::StrJoin(options_.start, " ")},
      {"kernel gets", image.command_line},
      {"files", StrCat(image.files.size(), " that IMA may measure, ", image.executables.size(),
                       " of the root executable (--json lists them)")}};
  OrderedJson pcrs = OrderedJson::object();
  for (const auto& [bank, values] : image.pcrs.banks()) {
    for (const auto& [index, value] : values) {
      pcrs[std::string(evidence::PcrBankName(bank))][std::to_string(index)] = ToHex(value);
      if (bank == evidence::PcrBank::kSha256) {
        rows.emplace_back(evidence::PcrName(bank, index), ToHex(value));
      }
    }
  }
  rows.emplace_back("not predicted",
                    "PCR 0 and 1 (the machine's firmware), 7 (its Secure Boot keys), and 2 and 3 "
                    "where it has an option ROM: take them from one boot that you trust");
  OrderedJson launch = OrderedJson::object();
  for (const auto& [name, digest] : image.launch_digests) launch[name] = ToHex(digest);
  OrderedJson files = OrderedJson::object();
  for (const auto& [path, digest] : image.files) files[path] = ToHex(digest);
  outcome.text = AlignedRows(rows);
  outcome.json = {{"directory", output_},
                  {"command_line", image.command_line},
                  {"start", options_.start},
                  {"pcrs", pcrs},
                  {"launch_digests", launch},
                  {"files", files},
                  {"executables", image.executables}};
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewHostImageVerb() { return std::make_unique<HostImageVerb>(); }

}  // namespace pavise::cli
