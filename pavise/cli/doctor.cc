#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <system_error>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/verb.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/x509.h"
#include "pavise/evidence/collect/linux/kernel_logs.h"
#include "pavise/hash/blake3.h"
#include "pavise/hash/cpu/cpu_device.h"
#include "pavise/hash/cuda/cuda_device.h"
#include "pavise/hash/opencl/opencl_device.h"

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "p11-kit/p11-kit.h"

namespace pavise::cli {
namespace {

// What of this machine serves Pavise: one line, and whether it is there to be used.
struct Finding {
  std::string item;
  bool available = false;
  std::string detail;
};

// The value of the first "key : value" line of a /proc file; empty when there is none.
std::string ProcValue(const char* path, std::string_view key) {
  std::ifstream in(path);
  std::string line;
  while (std::getline(in, line)) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || !absl::StartsWith(line, ToAbsl(key))) continue;
    return std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
  }
  return "";
}

uint64_t MemoryBytes(std::string_view key) {
  uint64_t kibibytes = 0;
  const std::string value = ProcValue("/proc/meminfo", key);
  if (!absl::SimpleAtoi(value.substr(0, value.find(' ')), &kibibytes)) return 0;
  return kibibytes * 1024;
}

Finding Processor() {
  const std::string model = ProcValue("/proc/cpuinfo", "model name");
  return {"CPU", true,
          StrCat(model.empty() ? "unknown model" : model, "; BLAKE3 runs on ", hash::Blake3Target(),
                 ", ", Counted(hash::UsableCpus(), "usable CPU"))};
}

Finding Memory() {
  return {"memory", true,
          StrCat(HumanBytes(MemoryBytes("MemTotal")), ", ", HumanBytes(MemoryBytes("MemAvailable")),
                 " available")};
}

Finding IoUring() {
  io_uring_params parameters = {};
  const long ring = syscall(__NR_io_uring_setup, 2, &parameters);
  if (ring >= 0) {
    close(static_cast<int>(ring));
    return {"io_uring", true, "yes"};
  }
  const int error = errno;
  std::string why = std::strerror(error);
  if (error == EPERM) why += "; a seccomp filter or kernel.io_uring_disabled forbids it";
  if (error == ENOSYS) why += "; the kernel is too old or built without it";
  return {"io_uring", false, StrCat(why, ": files are read by threads instead")};
}

Finding SystemRoots() {
  const absl::StatusOr<std::vector<crypto::Certificate>> roots = crypto::SystemRoots();
  if (!roots.ok()) {
    return {"system roots", false,
            StrCat(FromAbsl(roots.status().message()), "; --system-roots needs ca-certificates")};
  }
  return {"system roots", true, Counted(roots->size(), "certificate")};
}

// The PKCS #11 modules registered with p11-kit, each with the tokens in it.
std::vector<Finding> TokenModules() {
  std::vector<Finding> findings;
  // Modules that do not load are left out, and p11-kit says why on standard error.
  CK_FUNCTION_LIST** modules = p11_kit_modules_load(nullptr, 0);
  for (CK_FUNCTION_LIST** module = modules; module != nullptr && *module != nullptr; ++module) {
    const std::unique_ptr<char, decltype(&free)> name(p11_kit_module_get_name(*module), free);
    const std::unique_ptr<char, decltype(&free)> file(p11_kit_module_get_filename(*module), free);
    const std::string item = StrCat("PKCS #11 ", name == nullptr ? "module" : name.get());
    const std::string path = file == nullptr ? "" : file.get();
    const CK_RV initialized = p11_kit_module_initialize(*module);
    if (initialized != CKR_OK) {
      const char* message = p11_kit_strerror(initialized);
      findings.push_back({item, false, StrCat(path, ": ", message == nullptr ? "" : message)});
      continue;
    }
    CK_ULONG slots = 0;
    const CK_RV listed = (*module)->C_GetSlotList(CK_TRUE, nullptr, &slots);
    p11_kit_module_finalize(*module);
    findings.push_back({item, listed == CKR_OK,
                        StrCat(path, ", ", Counted(listed == CKR_OK ? slots : 0, "token"))});
  }
  if (modules != nullptr) p11_kit_modules_release(modules);
  if (findings.empty()) {
    findings.push_back(
        {"PKCS #11", false,
         "no module is registered with p11-kit; sign --pkcs11-uri can still name one "
         "by module-path"});
  }
  return findings;
}

// The first of `paths` that is there; otherwise what to do about it.
Finding Present(const std::string& item, const std::vector<std::string>& paths,
                const std::string& otherwise) {
  for (const std::string& path : paths) {
    std::error_code error;
    if (std::filesystem::exists(path, error)) return {item, true, path};
  }
  return {item, false, otherwise};
}

// The programs that build host images.
Finding ImageTools() {
  std::string missing;
  for (const auto& [program, package] :
       {std::pair("dpkg-deb", "dpkg"), std::pair("mksquashfs", "squashfs-tools"),
        std::pair("veritysetup", "cryptsetup-bin"), std::pair("mkfs.vfat", "dosfstools"),
        std::pair("mcopy", "mtools")}) {
    bool found = false;
    for (const char* folder : {"/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/"}) {
      found = found || access(StrCat(folder, program).c_str(), X_OK) == 0;
    }
    if (!found) StrAppend(&missing, missing.empty() ? "" : " ", package);
  }
  if (access("/usr/lib/systemd/boot/efi/linuxx64.efi.stub", R_OK) != 0) {
    StrAppend(&missing, missing.empty() ? "" : " ", "systemd-boot-efi");
  }
  if (missing.empty()) return {"host-image", true, "nothing is missing"};
  return {"host-image", false, StrCat("install: apt-get install ", missing)};
}

// The devices that --device can name besides the CPU.
Finding Gpu() {
  std::string devices;
  const auto separate = [&] { StrAppend(&devices, devices.empty() ? "" : "; "); };
  const absl::StatusOr<std::vector<hash::CudaDeviceInfo>> gpus = hash::ListCudaDevices();
  for (size_t i = 0; gpus.ok() && i < gpus->size(); ++i) {
    const hash::CudaDeviceInfo& gpu = (*gpus)[i];
    separate();
    StrAppend(&devices, "cuda:", gpu.ordinal, " ", gpu.name, ", ", HumanBytes(gpu.memory_bytes));
  }
  const std::vector<hash::OpenClDeviceInfo> found = hash::ListOpenClDevices();
  for (size_t i = 0; i < found.size(); ++i) {
    const bool is_cpu = found[i].kind == hash::OpenClDeviceInfo::Kind::kCpu;
    separate();
    StrAppend(&devices, "opencl:", i, " ", found[i].name, " (", found[i].platform,
              is_cpu ? ", which runs on the CPU" : "", "), ", HumanBytes(found[i].memory_bytes));
  }
  if (!devices.empty()) return {"GPU", true, devices};
  // What asking for a device is answered with says what is missing.
  const std::vector<Refusal> why = RefusalsOf(hash::NewOpenClDevice(0).status());
  if (why.empty()) return {"GPU", false, "OpenCL fails to list its devices"};
  return {"GPU", false, StrCat("none through OpenCL: ", why[0].detail, "; ", why[0].remedy)};
}

class DoctorVerb final : public Verb {
 public:
  std::string_view name() const override { return "doctor"; }
  std::string_view group() const override { return "This machine"; }
  std::string_view summary() const override {
    return "Say what this machine offers, and whether anything is missing for a verb.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise doctor\n"
           "  pavise doctor --json";
  }
  void Declare(CLI::App&) override {}
  absl::StatusOr<Outcome> Run(const Session& session) override;
  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return "the machine was not examined";
  }
};

absl::StatusOr<Outcome> DoctorVerb::Run(const Session&) {
  const std::string fips = crypto::FipsProviderDescription();
  // The description of a validated module differs from the one of the default provider.
  const bool validated = !absl::StrContains(fips, "not a validated module");
  std::vector<Finding> findings = {Processor(), Memory(), IoUring()};
  findings.push_back({"FIPS", validated, fips});
  findings.push_back(SystemRoots());
  bool tokens = false;
  for (Finding& module : TokenModules()) {
    tokens = tokens || module.available;
    findings.push_back(std::move(module));
  }
  findings.push_back(Gpu());
  findings.push_back(Present("TPM", {"/dev/tpmrm0", "/dev/tpm0"},
                             "no TPM device; attest --tcti can still name one elsewhere"));
  findings.push_back(Present("boot log", {evidence::KernelLogPaths().event_log},
                             "the kernel offers none: no TPM, or securityfs is not mounted"));
  findings.push_back(Present("IMA log", {evidence::KernelLogPaths().ima_log},
                             "the kernel offers none: no IMA, or securityfs is not mounted"));
  findings.push_back(Present("TEE guest", {"/sys/kernel/config/tsm/report"},
                             "no confidential guest, or a kernel before 6.7"));
  const bool attests = findings[findings.size() - 4].available || findings.back().available;

  const std::vector<Finding> verbs = {
      {"keygen", true, "nothing is missing"},
      {"sign", true,
       tokens
           ? "nothing is missing"
           : "keys in files: nothing is missing; keys in tokens: no PKCS #11 module is registered"},
      {"verify", true,
       validated
           ? "nothing is missing"
           : "nothing is missing; --fips uses FIPS algorithms of a module that is not validated"},
      {"load", true, "nothing is missing; without a GPU it loads into host memory"},
      {"digest", true, "nothing is missing"},
      {"inspect", true, "nothing is missing"},
      {"diff", true, "nothing is missing"},
      {"attest", attests,
       attests ? "nothing is missing" : "there is neither a TPM nor a confidential guest here"},
      {"appraise", true, "nothing is missing"},
      ImageTools(),
      {"bench", true, "nothing is missing"},
  };

  Outcome outcome;
  outcome.headline = "Machine";
  const auto list = [](const std::vector<Finding>& entries, std::string_view yes,
                       std::string_view no) {
    std::vector<std::vector<std::string>> rows;
    OrderedJson array = OrderedJson::array();
    for (const Finding& entry : entries) {
      rows.push_back({entry.item, std::string(entry.available ? yes : no), entry.detail});
      array.push_back(
          {{"item", entry.item}, {"available", entry.available}, {"detail", entry.detail}});
    }
    return std::make_pair(AlignedTable(rows, {}), array);
  };
  const auto [machine_text, machine_json] = list(findings, "yes", "no");
  const auto [verbs_text, verbs_json] = list(verbs, "works", "missing");
  outcome.text = StrCat(machine_text, "\nVerbs\n", verbs_text);
  outcome.json = {{"version", PAVISE_VERSION}, {"machine", machine_json}, {"verbs", verbs_json}};
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewDoctorVerb() { return std::make_unique<DoctorVerb>(); }

}  // namespace pavise::cli
