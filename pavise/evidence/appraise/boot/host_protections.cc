#include "pavise/evidence/appraise/boot/host_protections.h"

#include <algorithm>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_split.h"

namespace pavise::evidence {
namespace {

constexpr HostProtection kProtections[] = {
    {"lockdown", "lockdown=confidentiality", "root reading or changing the kernel's memory"},
    {"module-signatures", "module.sig_enforce=1", "kernel modules that nobody signed"},
    {"kexec", "sysctl.kernel.kexec_load_disabled=1", "another kernel, started unmeasured"},
    {"bpf", "sysctl.kernel.unprivileged_bpf_disabled=1", "kernel programs by ordinary users"},
    {"ptrace", "sysctl.kernel.yama.ptrace_scope=3", "debuggers reading other processes"},
    {"iommu-strict", "iommu.strict=1", "devices writing to memory that was taken back from them"},
    {"iommu-passthrough", "iommu.passthrough=0", "devices that reach all of memory"},
    {"ima", "ima_policy=tcb", "programs that run before the image's own IMA policy, unmeasured"},
};

// "module.sig_enforce=1" and "module.sig-enforce=1" are one parameter to the kernel, as are
// "sysctl.kernel.x=1" and "sysctl/kernel/x=1".
std::string KeyOf(std::string_view parameter) {
  std::string key(parameter.substr(0, parameter.find('=')));
  std::replace(key.begin(), key.end(), '-', '_');
  std::replace(key.begin(), key.end(), '/', '.');
  return key;
}

// What a measured host's command line may hold beside its protections. A list of what is allowed,
// since the kernel has more ways to undo a protection than anybody can list (lsm=, iommu=off,
// initcall_blacklist=, bootconfig, ...).
constexpr std::string_view kHarmlessKeys[] = {
    "console",     "earlycon",           "loglevel",   "quiet",
    "panic",       "ima_hash",           "tsc",        "clocksource",
    "hugepages",   "default_hugepagesz", "hugepagesz", "transparent_hugepage",
    "net.ifnames", "mitigations",        "swiotlb"};
// With these values only.
constexpr std::string_view kHarmlessParameters[] = {"intel_iommu=on", "rootfstype=ramfs",
                                                    "rdinit=/init", "ro"};

bool IsHarmless(const std::string& word) {
  if (std::find(std::begin(kHarmlessParameters), std::end(kHarmlessParameters), word) !=
      std::end(kHarmlessParameters)) {
    return true;
  }
  return std::find(std::begin(kHarmlessKeys), std::end(kHarmlessKeys), KeyOf(word)) !=
         std::end(kHarmlessKeys);
}

}  // namespace

std::span<const HostProtection> HostProtections() { return kProtections; }

void CheckHostProtections(std::string_view command_line, const std::set<std::string>& exceptions,
                          CheckList& checks) {
  for (const std::string& exception : exceptions) {
    if (std::none_of(std::begin(kProtections), std::end(kProtections),
                     [&](const HostProtection& known) { return known.name == exception; })) {
      checks.Fail("host protections", Reason::kPolicyDenied, exception,
                  "the policy makes an exception that there is not",
                  "see the names in docs/formats/host_image.md");
    }
  }
  // Word by word, as the kernel does: it also parts words at bytes that are white space in Latin-1,
  // lets quotation marks hold spaces, and reads nothing after "--".
  const bool is_plain = std::all_of(command_line.begin(), command_line.end(),
                                    [](char c) { return c >= ' ' && c <= '~' && c != '"'; });
  if (!is_plain) {
    checks.Fail("host protections", Reason::kPlatformInsecure, "kernel command line",
                "holds quotation marks or characters that are not printable ASCII, so that it "
                "cannot be read as the kernel reads it",
                "build the host image without them");
    return;
  }
  const std::vector<std::string> words =
      absl::StrSplit(std::string(command_line), ' ', absl::SkipEmpty());
  for (const std::string& word : words) {
    const bool is_protection = std::any_of(
        std::begin(kProtections), std::end(kProtections),
        [&](const HostProtection& known) { return KeyOf(word) == KeyOf(known.parameter); });
    if (is_protection || IsHarmless(word)) continue;
    checks.Fail("host protections", Reason::kPlatformInsecure,
                StrCat("kernel parameter ", Printable(word)),
                word == "--" ? "ends what the kernel reads: no protection after it is in force"
                             : "is none that is known to leave the protections in force",
                "build the host image without it");
  }
  for (const HostProtection& protection : kProtections) {
    std::vector<std::string> found;
    for (const std::string& word : words) {
      if (KeyOf(word) == KeyOf(protection.parameter)) found.push_back(word);
    }
    const std::string name = StrCat("protection ", protection.name);
    if (found.size() == 1 && found[0] == protection.parameter) {
      checks.Pass(name, StrCat(protection.parameter, ": keeps out ", protection.against));
    } else if (exceptions.contains(std::string(protection.name))) {
      checks.Pass(name, StrCat("missing, and allowed by the policy: open to ", protection.against));
    } else {
      checks.Fail(name, Reason::kPlatformInsecure, "kernel command line",
                  found.empty()
                      ? StrCat("lacks ", protection.parameter, ": open to ", protection.against)
                      : StrCat("has \"", found.back(), "\" where only ", protection.parameter,
                               " keeps out ", protection.against),
                  StrCat("boot an image made by pavise host-image, or name \"", protection.name,
                         "\" as an exception in the policy"));
    }
  }
}

}  // namespace pavise::evidence
