#ifndef PAVISE_HOST_HOST_IMAGE_H_
#define PAVISE_HOST_HOST_IMAGE_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/evidence/appraise/tpm/pcr.h"

#include "absl/status/statusor.h"

// Images for measured hosts: Debian's kernel, packages and the owner's files, started by one
// program. Of itself an image has no shell, login or other way in, and the usual programs for that
// are refused by file name; what the owner's programs offer is theirs. docs/formats/host_image.md.
namespace pavise::host {

struct HostImageOptions {
  // A Debian kernel package (.deb), or the directory that one was unpacked into.
  std::string kernel;
  std::string stub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
  std::string init;  // the program pavise-init, statically linked

  // What becomes the verified root, one over the other: packages, the owner's files, then programs
  // of this machine with the shared libraries that they need (path in the image -> file here).
  std::vector<std::string> packages;  // .deb; unpacked, their scripts are not run
  std::string files;                  // a directory; may be empty
  std::map<std::string, std::string> programs;
  std::vector<std::string> libraries;  // that programs load by name at run time

  // Interface, IPv4 address, netmask and gateway, set before the start; empty: no address.
  std::vector<std::string> address;
  // Started from the verified root; [0] is an absolute path in the image.
  std::vector<std::string> start;
  std::vector<std::string> modules = {"virtio_pci", "virtio_blk", "virtio_net", "dm-verity",
                                      "squashfs"};
  // After the protections (evidence/appraise/boot/host_protections.h), which it may not repeat.
  std::string command_line = "console=ttyS0 quiet";
  // Programs that are refused otherwise (kRefusedPrograms in the source), by file name.
  std::set<std::string> allowed_programs;
};

// What was built, and what its boot will show.
struct HostImage {
  std::string command_line;
  evidence::PcrValues pcrs;            // PredictPcrs
  std::map<std::string, Bytes> files;  // every file that IMA may measure: path -> SHA-256
  // What launch measurements of confidential guests are computed from, beside the firmware that
  // their host brings: SHA-256 of kernel, initrd and command line with its NUL (the hashes table
  // that QEMU measures into an SEV-SNP guest), SHA-384 for TDX in `pcrs` (PCR 4 and 5 are RTMR 1, 9
  // to 13 RTMR 2, by UEFI 2.10, 38.4.1).
  std::map<std::string, Bytes> launch_digests;
  // Of the root's files those with an execute bit, libraries among them; sorted.
  std::vector<std::string> executables;
  uint64_t kernel_image_bytes = 0;
  uint64_t root_bytes = 0;
};

// Writes into `directory` (created; kStorageFull, and kFileUnreadable where it holds something
// else): host.efi, the unified kernel image; esp.img, a FAT file system that firmware boots it
// from; root.img, the verified root. Same options and files, same bytes. Needs dpkg-deb,
// mksquashfs, veritysetup, mkfs.vfat and mtools (kUnsupported names the package).
//
// kPolicyDenied: a shell, debugger, login or remote shell in the image, by its file name, a command
// line that repeats a protection. Interpreters are not refused: they run files of the verified
// root, and whatever their program lets them run. kPathUnsafe: a path with "..", a file that would
// go through a link that leads out of the image. kFileTypeRefused: neither file, directory nor
// link. kFileMissing: no kernel, a module or library that is not there, nothing to start.
absl::StatusOr<HostImage> BuildHostImage(const HostImageOptions& options,
                                         const std::string& directory);

}  // namespace pavise::host

#endif  // PAVISE_HOST_HOST_IMAGE_H_
