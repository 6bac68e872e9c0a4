#include "pavise/evidence/reference/sources.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "pavise/base/byte_reader.h"
#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/evidence/reference/internal/archive.h"

namespace pavise::evidence {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxDatabaseFileBytes = 256u << 20;

// MD5 is what dpkg's database has. It tells an installed file from a changed one; what is trusted
// afterwards is the SHA-256 that a person reviews.
class Md5 {
 public:
  Md5() : context_(EVP_MD_CTX_new()), digest_(EVP_MD_fetch(nullptr, "MD5", nullptr)) {
    ok_ = context_ != nullptr && digest_ != nullptr &&
          EVP_DigestInit_ex2(context_.get(), digest_.get(), nullptr) == 1;
  }
  void Update(ByteSpan bytes) {
    ok_ = ok_ && EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1;
  }
  absl::StatusOr<std::string> Finish() {
    std::array<uint8_t, 16> value{};
    if (!ok_ || EVP_DigestFinal_ex(context_.get(), value.data(), nullptr) != 1) {
      return MachineFailure("md5", "no loaded OpenSSL provider offers this digest");
    }
    return ToHex(value);
  }

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
    void operator()(EVP_MD* digest) const { EVP_MD_free(digest); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context_;
  std::unique_ptr<EVP_MD, Free> digest_;
  bool ok_ = false;
};

struct FileDigests {
  std::string sha256;
  std::string md5;
};

absl::StatusOr<FileDigests> DigestsOfFile(const std::string& path, bool with_md5) {
  PAVISE_ASSIGN_OR_RETURN(const FileDescriptor file, OpenRegularFile(path));
  PAVISE_ASSIGN_OR_RETURN(const FileIdentity before, IdentityOf(file, path));
  PAVISE_ASSIGN_OR_RETURN(crypto::Digester sha256,
                          crypto::Digester::Create(crypto::DigestAlgorithm::kSha256));
  std::optional<Md5> md5;
  if (with_md5) md5.emplace();
  Bytes buffer(std::min<uint64_t>(before.size_bytes, 1u << 20));
  for (uint64_t at = 0; at < before.size_bytes;) {
    const std::span<uint8_t> part =
        std::span(buffer).first(std::min<uint64_t>(buffer.size(), before.size_bytes - at));
    PAVISE_RETURN_IF_ERROR(ReadExactly(file, at, part, path));
    PAVISE_RETURN_IF_ERROR(sha256.Update(part));
    if (md5.has_value()) md5->Update(part);
    at += part.size();
  }
  PAVISE_ASSIGN_OR_RETURN(const FileIdentity after, IdentityOf(file, path));
  if (!(before == after)) {
    return Refuse(Reason::kFileUnstable, path, "changed while it was read");
  }
  PAVISE_ASSIGN_OR_RETURN(const Bytes digest, sha256.Finish());
  FileDigests result{StrCat("sha256:", ToHex(digest)), ""};
  if (md5.has_value()) {
    PAVISE_ASSIGN_OR_RETURN(result.md5, md5->Finish());
  }
  return result;
}

void LeaveOut(std::string_view path, std::string_view why, FileReferences& result) {
  result.left_out.push_back(StrCat(Printable(path), ": ", why));
}

void AddFile(const std::string& path, const std::string& digest, const std::string& source,
             FileReferences& result) {
  if (!IsUtf8(path)) return LeaveOut(path, "its name is not UTF-8", result);
  result.values.files[path].emplace(digest, source);
  ++result.file_count;
}

// One content under all of its names.
absl::Status AddContent(const std::vector<std::string>& paths, ByteSpan content,
                        const std::string& source, FileReferences& result) {
  if (paths.empty()) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, crypto::Sha256(content));
  for (const std::string& path : paths) {
    AddFile(path, StrCat("sha256:", ToHex(digest)), source, result);
  }
  return absl::OkStatus();
}

// "./usr/bin/x", "usr/bin/x" and "/usr/bin/x" are one path.
std::string RootedPath(std::string_view path) {
  while (path.starts_with("./")) path.remove_prefix(2);
  while (path.starts_with("/")) path.remove_prefix(1);
  return StrCat("/", path);
}

// One newc archive at the reader's position, up to and with its trailer.
absl::Status ReadCpio(ByteReader& reader, uint64_t& members, const ArchiveLimits& limits,
                      const std::string& source, FileReferences& result) {
  const uint64_t begin = reader.offset();
  // Files of several links have their content with the last of them.
  std::map<std::pair<uint64_t, uint64_t>, std::vector<std::string>> links;
  while (true) {
    if (++members > limits.max_members) {
      return Refuse(Reason::kLimitExceeded, reader.item(),
                    StrCat("more than ", limits.max_members, " members"));
    }
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan header, reader.Take(110, "cpio header"));
    const std::string_view text = AsText(header);
    if (!text.starts_with("070701") && !text.starts_with("070702")) {
      return reader.Malformed("no newc cpio header");
    }
    std::array<uint32_t, 13> fields{};
    for (size_t i = 0; i < fields.size(); ++i) {
      const char* first = text.data() + 6 + 8 * i;
      const auto [end, error] = std::from_chars(first, first + 8, fields[i], 16);
      if (error != std::errc() || end != first + 8) return reader.Malformed("a damaged header");
    }
    const auto [inode, mode, uid, gid, link_count, mtime, size_bytes, major, minor, rmajor, rminor,
                name_bytes, check] = fields;
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan raw_name, reader.Take(name_bytes, "name"));
    if (raw_name.empty() || raw_name.back() != 0) return reader.Malformed("a name without its NUL");
    const std::string name(AsText(raw_name.first(raw_name.size() - 1)));
    const auto pad = [&]() -> absl::Status {
      const uint64_t over = (reader.offset() - begin) % 4;
      return reader.Take(std::min<uint64_t>(over == 0 ? 0 : 4 - over, reader.left()), "padding")
          .status();
    };
    PAVISE_RETURN_IF_ERROR(pad());
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan content, reader.Take(size_bytes, "content"));
    PAVISE_RETURN_IF_ERROR(pad());
    if (name == "TRAILER!!!") break;
    if ((mode & 0170000) != 0100000) continue;
    if (link_count > 1) {
      std::vector<std::string>& waiting = links[{uint64_t{major} << 32 | minor, inode}];
      waiting.push_back(RootedPath(name));
      if (size_bytes == 0) continue;
      PAVISE_RETURN_IF_ERROR(AddContent(waiting, content, source, result));
      waiting.clear();
      continue;
    }
    PAVISE_RETURN_IF_ERROR(AddContent({RootedPath(name)}, content, source, result));
  }
  for (const auto& [inode, waiting] : links) {
    PAVISE_RETURN_IF_ERROR(AddContent(waiting, {}, source, result));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadDatabase(const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(path, kMaxDatabaseFileBytes));
  return std::string(AsText(bytes));
}

std::vector<std::string_view> LinesOf(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    lines.push_back(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return lines;
}

struct InstalledPackage {
  std::string name;
  std::string architecture;
  std::string version;
};

// /var/lib/dpkg/status: paragraphs of "Field: value" lines.
std::vector<InstalledPackage> InstalledPackages(std::string_view status) {
  std::vector<InstalledPackage> packages;
  InstalledPackage current;
  bool installed = false;
  const auto finish = [&] {
    if (installed && !current.name.empty()) packages.push_back(current);
    current = {};
    installed = false;
  };
  for (const std::string_view line : LinesOf(status)) {
    if (line.empty()) finish();
    const auto field = [&](std::string_view name, std::string& out) {
      if (line.starts_with(name)) out = line.substr(name.size());
    };
    field("Package: ", current.name);
    field("Architecture: ", current.architecture);
    field("Version: ", current.version);
    if (line.starts_with("Status: ")) installed = line.ends_with(" installed");
  }
  finish();
  return packages;
}

}  // namespace

absl::StatusOr<FileReferences> ReferencesOfTree(const std::string& root, const std::string& prefix,
                                                const std::string& source) {
  std::error_code error;
  if (!fs::is_directory(root, error)) {
    return Refuse(Reason::kFileTypeRefused, root, "is no directory");
  }
  FileReferences result;
  fs::recursive_directory_iterator walk(root, error);
  for (; !error && walk != fs::recursive_directory_iterator(); walk.increment(error)) {
    const fs::path& path = walk->path();
    const fs::file_status status = walk->symlink_status(error);
    if (error) break;
    if (!fs::is_regular_file(status)) continue;
    const auto digests = DigestsOfFile(path.string(), false);
    const std::string name = StrCat(prefix, "/", path.lexically_relative(root).string());
    if (digests.ok()) {
      AddFile(name, digests->sha256, source, result);
    } else if (!RefusalsOf(digests.status()).empty()) {
      LeaveOut(name, RefusalsOf(digests.status())[0].detail, result);
    } else {
      return digests.status();
    }
  }
  if (error) return FromErrno(error.value(), "read directory", root);
  return result;
}

absl::StatusOr<FileReferences> ReferencesOfInitramfs(ByteSpan image, std::string_view item,
                                                     const std::string& source,
                                                     const ArchiveLimits& limits) {
  FileReferences result;
  uint64_t members = 0;
  uint64_t left = limits.max_unpacked_bytes;
  Bytes unpacked;
  ByteSpan rest = image;
  bool is_unpacked = false;
  while (true) {
    // Archives are padded with zeros, to four bytes or to a block.
    while (!rest.empty() && rest.front() == 0) rest = rest.subspan(1);
    if (rest.empty()) break;
    if (AsText(rest).starts_with("07070")) {
      ByteReader reader(rest, item);
      PAVISE_RETURN_IF_ERROR(ReadCpio(reader, members, limits, source, result));
      rest = rest.subspan(reader.offset());
      continue;
    }
    if (is_unpacked) {
      return Refuse(Reason::kMalformed, item, "what is compressed is no cpio archive");
    }
    PAVISE_ASSIGN_OR_RETURN(unpacked, internal::Decompress(rest, left, item));
    left -= unpacked.size();
    rest = unpacked;
    is_unpacked = true;
  }
  if (members == 0) return Refuse(Reason::kMalformed, item, "holds no archive");
  return result;
}

absl::StatusOr<FileReferences> ReferencesOfDebianPackage(ByteSpan package, std::string_view item,
                                                         const std::string& source, bool merged_usr,
                                                         const ArchiveLimits& limits) {
  std::optional<Bytes> data;
  PAVISE_RETURN_IF_ERROR(
      internal::ReadArchive(package, limits.max_unpacked_bytes, limits.max_members, item,
                            [&](internal::ArchiveMember member) -> absl::Status {
                              if (!member.path.starts_with("data.tar")) return absl::OkStatus();
                              if (data.has_value())
                                return Refuse(Reason::kMalformed, item, "has two data members");
                              data = std::move(member.content);
                              return absl::OkStatus();
                            }));
  if (!data.has_value()) return Refuse(Reason::kMalformed, item, "is no Debian package");
  FileReferences result;
  const auto place = [&](std::string_view name) {
    const std::string path = RootedPath(name);
    for (const std::string_view top : {"/bin/", "/sbin/", "/lib/", "/lib64/"}) {
      if (merged_usr && path.starts_with(top)) return StrCat("/usr", path);
    }
    return path;
  };
  PAVISE_RETURN_IF_ERROR(internal::ReadArchive(
      *data, limits.max_unpacked_bytes, limits.max_members, item,
      [&](const internal::ArchiveMember& member) -> absl::Status {
        const std::string path = place(member.path);
        if (member.link.empty()) return AddContent({path}, member.content, source, result);
        const auto target = result.values.files.find(place(member.link));
        if (target == result.values.files.end()) {
          return Refuse(Reason::kMalformed, item, "has a hard link to nothing");
        }
        const std::string digest = target->second.begin()->first;
        AddFile(path, digest, source, result);
        return absl::OkStatus();
      }));
  return result;
}

absl::StatusOr<FileReferences> ReferencesOfInstalledPackages(
    const std::string& root, const std::vector<std::string>& packages) {
  const std::string database = StrCat(root, "/var/lib/dpkg/");
  PAVISE_ASSIGN_OR_RETURN(const std::string status, ReadDatabase(database + "status"));
  std::set<std::string> missing(packages.begin(), packages.end());
  const std::set<std::string> wanted = missing;
  std::error_code error;
  const fs::path real_root = fs::canonical(root, error);
  if (error) return FromErrno(error.value(), "resolve", root);
  FileReferences result;
  for (const InstalledPackage& package : InstalledPackages(status)) {
    if (!wanted.empty() && !wanted.contains(package.name)) continue;
    missing.erase(package.name);
    const std::string source = StrCat("package ", package.name, " ", package.version);
    // Packages that may be installed for several architectures carry theirs in the name.
    const std::string base = StrCat(database, "info/", package.name);
    const std::string with_architecture = StrCat(base, ":", package.architecture, ".md5sums");
    const std::string sums_path =
        fs::exists(with_architecture, error) ? with_architecture : base + ".md5sums";
    if (!fs::exists(sums_path, error)) continue;  // a package without files of its own
    PAVISE_ASSIGN_OR_RETURN(const std::string sums, ReadDatabase(sums_path));
    for (const std::string_view line : LinesOf(sums)) {
      if (line.size() < 35 || line.substr(32, 2) != "  ") {
        return Refuse(Reason::kMalformed, sums_path, "has a line that is no MD5 sum");
      }
      const std::string name = RootedPath(line.substr(34));
      const fs::path real = fs::canonical(StrCat(root, name), error);
      if (error) {
        LeaveOut(name, StrCat("of ", source, ", is not there"), result);
        continue;
      }
      const fs::path inside = real.lexically_relative(real_root);
      if (inside.empty() || *inside.begin() == "..") {
        LeaveOut(name, "leads out of the root", result);
        continue;
      }
      const auto digests = DigestsOfFile(real.string(), true);
      if (!digests.ok()) {
        if (RefusalsOf(digests.status()).empty()) return digests.status();
        LeaveOut(name, RefusalsOf(digests.status())[0].detail, result);
      } else if (digests->md5 != line.substr(0, 32)) {
        LeaveOut(name, StrCat("of ", source, ", was changed since it was installed"), result);
      } else {
        AddFile(StrCat("/", inside.string()), digests->sha256, source, result);
      }
    }
  }
  if (!missing.empty()) {
    return Refuse(Reason::kFileMissing, *missing.begin(), "is not an installed package",
                  "give the name as dpkg -l prints it, without the architecture");
  }
  return result;
}

}  // namespace pavise::evidence
