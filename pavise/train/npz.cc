#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/byte_reader.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/train/image_dataset.h"
#include "pavise/train/internal/inflate.h"

#include "absl/strings/numbers.h"

namespace pavise::train {
namespace {

constexpr uint32_t kLocalHeader = 0x04034b50;
constexpr uint32_t kDirectoryEntry = 0x02014b50;
constexpr uint32_t kDirectoryEnd = 0x06054b50;
constexpr size_t kDirectoryEndBytes = 22;
constexpr size_t kMostMembers = 64;
constexpr uint64_t kMostLabelsHeaderBytes = 65'536;
constexpr uint16_t kEncrypted = 1;
constexpr uint16_t kHasDescriptor = 8;  // lengths stand behind the data too
constexpr uint16_t kUtf8Name = 1u << 11;
constexpr uint16_t kStored = 0;
constexpr uint16_t kDeflated = 8;

struct Member {
  uint16_t method = 0;
  uint32_t crc = 0;
  uint32_t size_bytes = 0;
  ByteSpan packed;
};

struct DirectoryEntry {
  std::string name;
  uint16_t flags = 0;
  uint16_t method = 0;
  uint32_t crc = 0;
  uint32_t packed_bytes = 0;
  uint32_t size_bytes = 0;
  uint32_t offset = 0;
};

absl::StatusOr<DirectoryEntry> ReadDirectoryEntry(ByteReader& reader) {
  DirectoryEntry entry;
  PAVISE_ASSIGN_OR_RETURN(const uint32_t magic, reader.LittleEndian32("directory entry"));
  if (magic != kDirectoryEntry) return reader.Malformed("no entry of a ZIP directory");
  PAVISE_RETURN_IF_ERROR(reader.Take(4, "versions").status());
  PAVISE_ASSIGN_OR_RETURN(entry.flags, reader.LittleEndian16("flags"));
  PAVISE_ASSIGN_OR_RETURN(entry.method, reader.LittleEndian16("method"));
  PAVISE_RETURN_IF_ERROR(reader.Take(4, "time").status());
  PAVISE_ASSIGN_OR_RETURN(entry.crc, reader.LittleEndian32("CRC"));
  PAVISE_ASSIGN_OR_RETURN(entry.packed_bytes, reader.LittleEndian32("compressed size"));
  PAVISE_ASSIGN_OR_RETURN(entry.size_bytes, reader.LittleEndian32("size"));
  PAVISE_ASSIGN_OR_RETURN(const uint16_t name_bytes, reader.LittleEndian16("name length"));
  PAVISE_ASSIGN_OR_RETURN(const uint16_t extra_bytes, reader.LittleEndian16("extra length"));
  PAVISE_ASSIGN_OR_RETURN(const uint16_t comment_bytes, reader.LittleEndian16("comment length"));
  PAVISE_RETURN_IF_ERROR(reader.Take(8, "attributes").status());
  PAVISE_ASSIGN_OR_RETURN(entry.offset, reader.LittleEndian32("offset"));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan name, reader.Take(name_bytes, "name"));
  entry.name = AsText(name);
  PAVISE_RETURN_IF_ERROR(reader.Take(extra_bytes, "extra").status());
  if (comment_bytes != 0) return reader.Malformed("a member with a comment");
  return entry;
}

// Where a member's bytes lie, and the offset behind them, its descriptor included.
absl::StatusOr<std::pair<ByteSpan, uint64_t>> Locate(ByteSpan file, const DirectoryEntry& entry,
                                                     std::string_view item) {
  if (entry.offset > file.size()) {
    return Refuse(Reason::kMalformed, item, "a member begins behind the end of the file");
  }
  ByteReader reader(file.subspan(entry.offset), item, entry.offset);
  PAVISE_ASSIGN_OR_RETURN(const uint32_t magic, reader.LittleEndian32("member"));
  if (magic != kLocalHeader) return reader.Malformed("no member where the directory says");
  PAVISE_RETURN_IF_ERROR(reader.Take(2, "version").status());
  PAVISE_ASSIGN_OR_RETURN(const uint16_t flags, reader.LittleEndian16("flags"));
  PAVISE_ASSIGN_OR_RETURN(const uint16_t method, reader.LittleEndian16("method"));
  PAVISE_RETURN_IF_ERROR(reader.Take(16, "time, CRC and sizes").status());
  PAVISE_ASSIGN_OR_RETURN(const uint16_t name_bytes, reader.LittleEndian16("name length"));
  PAVISE_ASSIGN_OR_RETURN(const uint16_t extra_bytes, reader.LittleEndian16("extra length"));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan name, reader.Take(name_bytes, "name"));
  if (AsText(name) != entry.name || flags != entry.flags || method != entry.method) {
    return reader.Malformed("a member is not what the directory says");
  }
  // numpy reserves room for ZIP64's lengths here; the directory's are those that count.
  PAVISE_RETURN_IF_ERROR(reader.Take(extra_bytes, "extra").status());
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan packed, reader.Take(entry.packed_bytes, "data"));
  if ((entry.flags & kHasDescriptor) != 0) {
    PAVISE_ASSIGN_OR_RETURN(const uint32_t first, reader.LittleEndian32("descriptor"));
    // The signature before the three numbers is optional.
    PAVISE_RETURN_IF_ERROR(reader.Take(first == 0x08074b50 ? 12 : 8, "descriptor").status());
  }
  return std::pair(packed, reader.offset());
}

// Every member of the archive, by name. The members follow each other from the first byte to the
// directory, in the directory's order: nothing is hidden between them, and none is in another.
absl::StatusOr<std::map<std::string, Member>> ReadZip(ByteSpan file, std::string_view item) {
  if (file.size() < kDirectoryEndBytes) {
    return Refuse(Reason::kMalformed, item, "too short for a ZIP archive");
  }
  const uint64_t end_offset = file.size() - kDirectoryEndBytes;
  ByteReader end(file.subspan(end_offset), item, end_offset);
  PAVISE_ASSIGN_OR_RETURN(const uint32_t magic, end.LittleEndian32("end of directory"));
  if (magic != kDirectoryEnd) {
    return end.Malformed("does not end as a ZIP archive without a comment");
  }
  PAVISE_ASSIGN_OR_RETURN(const uint32_t disks, end.LittleEndian32("disks"));
  PAVISE_ASSIGN_OR_RETURN(const uint16_t here, end.LittleEndian16("members of this disk"));
  PAVISE_ASSIGN_OR_RETURN(const uint16_t members, end.LittleEndian16("members"));
  PAVISE_ASSIGN_OR_RETURN(const uint32_t directory_bytes, end.LittleEndian32("directory size"));
  PAVISE_ASSIGN_OR_RETURN(const uint32_t directory_offset, end.LittleEndian32("directory offset"));
  PAVISE_ASSIGN_OR_RETURN(const uint16_t comment_bytes, end.LittleEndian16("comment length"));
  PAVISE_RETURN_IF_ERROR(end.RequireEnd());
  if (disks != 0 || here != members || comment_bytes != 0) {
    return end.Malformed("archives of several parts or with comments are not read");
  }
  if (members > kMostMembers) {
    return Refuse(Reason::kLimitExceeded, item, StrCat("more than ", kMostMembers, " members"));
  }
  if (uint64_t{directory_offset} + directory_bytes != end_offset) {
    return end.Malformed("the directory does not end where it should");
  }
  ByteReader directory(file.subspan(directory_offset, directory_bytes), item, directory_offset);
  std::map<std::string, Member> archive;
  uint64_t next = 0;
  for (uint16_t i = 0; i < members; ++i) {
    PAVISE_ASSIGN_OR_RETURN(const DirectoryEntry entry, ReadDirectoryEntry(directory));
    const std::string name = StrCat(item, ": ", Printable(entry.name));
    if ((entry.flags & kEncrypted) != 0) {
      return Refuse(Reason::kUnsupported, name, "is encrypted", "decrypt it first");
    }
    // Bits 1 and 2 say how hard deflate tried.
    if ((entry.flags & ~(kHasDescriptor | kUtf8Name | 6)) != 0 ||
        (entry.method != kStored && entry.method != kDeflated)) {
      return Refuse(Reason::kUnsupported, name, "is packed in another way than stored or deflated",
                    "write it with numpy.savez or numpy.savez_compressed");
    }
    if (entry.method == kStored && entry.packed_bytes != entry.size_bytes) {
      return Refuse(Reason::kMalformed, name, "a stored member has two lengths");
    }
    if (entry.offset != next) {
      return Refuse(Reason::kMalformed, name, "does not follow the member before it");
    }
    PAVISE_ASSIGN_OR_RETURN(const auto located, Locate(file.first(directory_offset), entry, name));
    next = located.second;
    const Member member = {entry.method, entry.crc, entry.size_bytes, located.first};
    if (!archive.emplace(entry.name, member).second) {
      return Refuse(Reason::kMalformed, name, "appears twice");
    }
  }
  PAVISE_RETURN_IF_ERROR(directory.RequireEnd());
  if (next != directory_offset) {
    return Refuse(Reason::kMalformed, item, "bytes between the last member and the directory");
  }
  return archive;
}

absl::StatusOr<Bytes> Unpack(const Member& member, std::string_view item) {
  Bytes bytes;
  if (member.method == kStored) {
    bytes.assign(member.packed.begin(), member.packed.end());
  } else {
    PAVISE_ASSIGN_OR_RETURN(bytes, internal::Inflate(member.packed, member.size_bytes, item));
  }
  if (internal::Crc32(bytes) != member.crc) {
    return Refuse(Reason::kContentMismatch, item, "its CRC is another one",
                  "the file was damaged: fetch it again");
  }
  return bytes;
}

struct Array {
  std::string type;  // "|u1", "<i8", ...
  std::vector<uint64_t> shape;
  Bytes bytes;  // the values'

  uint64_t elements() const {
    uint64_t product = 1;
    for (const uint64_t length : shape) product *= length;
    return product;
  }
};

// The dictionary literal of an array's header, with its three keys in any order.
class HeaderText {
 public:
  HeaderText(std::string_view text, std::string_view item) : text_(text), item_(item) {}

  absl::Status Read(Array& array) {
    std::set<std::string> seen;
    PAVISE_RETURN_IF_ERROR(Expect('{'));
    while (!Skip('}')) {
      PAVISE_ASSIGN_OR_RETURN(const std::string key, Quoted());
      PAVISE_RETURN_IF_ERROR(Expect(':'));
      if (!seen.insert(key).second) return Broken(StrCat("'", Printable(key), "' appears twice"));
      if (key == "descr") {
        PAVISE_ASSIGN_OR_RETURN(array.type, Quoted());
      } else if (key == "fortran_order") {
        if (SkipWord("True")) {
          return Refuse(Reason::kUnsupported, item_, "is stored column by column",
                        "store numpy.ascontiguousarray of it");
        }
        if (!SkipWord("False")) return Broken("fortran_order is neither True nor False");
      } else if (key == "shape") {
        PAVISE_RETURN_IF_ERROR(ReadShape(array.shape));
      } else {
        return Broken(StrCat("unknown key '", Printable(key), "'"));
      }
      if (!Skip(',') && Peek() != '}') return Broken("no comma");
    }
    if (seen.size() != 3) return Broken("descr, fortran_order or shape is missing");
    while (!text_.empty() && text_.front() == ' ') text_.remove_prefix(1);
    if (text_ != "\n") return Broken("text after the dictionary");
    return absl::OkStatus();
  }

 private:
  absl::Status Broken(const std::string& detail) const {
    return Refuse(Reason::kMalformed, item_, StrCat("its array header: ", detail));
  }
  char Peek() {
    while (!text_.empty() && text_.front() == ' ') text_.remove_prefix(1);
    return text_.empty() ? '\0' : text_.front();
  }
  bool Skip(char wanted) {
    if (Peek() != wanted) return false;
    text_.remove_prefix(1);
    return true;
  }
  bool SkipWord(std::string_view word) {
    Peek();
    if (!text_.starts_with(word)) return false;
    text_.remove_prefix(word.size());
    return true;
  }
  absl::Status Expect(char wanted) {
    return Skip(wanted) ? absl::OkStatus() : Broken(StrCat("no '", std::string(1, wanted), "'"));
  }
  absl::StatusOr<std::string> Quoted() {
    const char quote = Peek();
    if (quote != '\'' && quote != '"') return Broken("no text in quotes");
    const size_t end = text_.find(quote, 1);
    if (end == std::string_view::npos) return Broken("a text does not end");
    std::string inside(text_.substr(1, end - 1));
    text_.remove_prefix(end + 1);
    return inside;
  }
  absl::Status ReadShape(std::vector<uint64_t>& shape) {
    PAVISE_RETURN_IF_ERROR(Expect('('));
    uint64_t product = 1;
    while (!Skip(')')) {
      Peek();
      size_t digits = 0;
      while (digits < text_.size() && text_[digits] >= '0' && text_[digits] <= '9') ++digits;
      uint64_t length = 0;
      if (digits == 0 || !absl::SimpleAtoi(ToAbsl(text_.substr(0, digits)), &length)) {
        return Broken("a length is no number");
      }
      text_.remove_prefix(digits);
      if (length > kMaxDatasetBytes || shape.size() >= 4 ||
          (length != 0 && product > kMaxDatasetBytes / length)) {
        return Refuse(Reason::kLimitExceeded, item_, "its shape is larger than what is read");
      }
      product *= length;
      shape.push_back(length);
      if (!Skip(',') && Peek() != ')') return Broken("no comma between two lengths");
    }
    return absl::OkStatus();
  }

  std::string_view text_;
  std::string_view item_;
};

absl::StatusOr<Array> ParseArray(Bytes bytes, const std::string& item) {
  constexpr std::string_view kMagic = "\x93NUMPY";
  ByteReader reader(bytes, item);
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan magic, reader.Take(kMagic.size(), "magic number"));
  if (AsText(magic) != kMagic) return reader.Malformed("is no NumPy array");
  PAVISE_ASSIGN_OR_RETURN(const uint8_t version, reader.Uint8("version"));
  PAVISE_ASSIGN_OR_RETURN(const uint8_t minor, reader.Uint8("version"));
  if (version < 1 || version > 3 || minor != 0) {
    return Refuse(Reason::kUnsupported, item, "has another version of NumPy's format than 1, 2, 3");
  }
  uint64_t header_bytes = 0;
  if (version == 1) {
    PAVISE_ASSIGN_OR_RETURN(header_bytes, reader.LittleEndian16("header length"));
  } else {
    PAVISE_ASSIGN_OR_RETURN(header_bytes, reader.LittleEndian32("header length"));
  }
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan header, reader.Take(header_bytes, "header"));
  Array array;
  PAVISE_RETURN_IF_ERROR(HeaderText(AsText(header), item).Read(array));
  const std::map<std::string, uint64_t> sizes = {{"|u1", 1}, {"<i4", 4}, {"<i8", 8}};
  const auto size = sizes.find(array.type);
  if (size == sizes.end()) {
    return Refuse(Reason::kUnsupported, item,
                  StrCat("has elements of '", Printable(array.type), "'"),
                  "store uint8 images, and labels of uint8, int32 or int64");
  }
  if (array.elements() > reader.left() || array.elements() * size->second != reader.left()) {
    return reader.Malformed("its shape does not fit its length");
  }
  array.bytes.assign(bytes.begin() + static_cast<ptrdiff_t>(reader.offset()), bytes.end());
  return array;
}

// At most `most_bytes` are unpacked.
absl::StatusOr<Array> ReadArray(const std::map<std::string, Member>& archive,
                                const std::string& name, uint64_t most_bytes,
                                std::string_view archive_item) {
  const auto member = archive.find(name + ".npy");
  const std::string item = StrCat(archive_item, ": ", name);
  if (member == archive.end()) {
    return Refuse(Reason::kFileMissing, item, "the archive has no such array",
                  "it takes train_images, train_labels, test_images and test_labels");
  }
  if (member->second.size_bytes > most_bytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat(member->second.size_bytes, " bytes, over the ", most_bytes,
                         " that such an array can have"));
  }
  PAVISE_ASSIGN_OR_RETURN(Bytes bytes, Unpack(member->second, item));
  return ParseArray(std::move(bytes), item);
}

absl::StatusOr<Bytes> LabelsOf(const Array& array, uint64_t count, const std::string& item) {
  const bool is_flat = array.shape.size() == 1 || (array.shape.size() == 2 && array.shape[1] == 1);
  if (!is_flat || array.shape[0] != count) {
    return Refuse(Reason::kMalformed, item, "is not one label for each image");
  }
  const size_t size_bytes = array.type == "|u1" ? 1 : array.type == "<i4" ? 4 : 8;
  Bytes labels(count);
  for (uint64_t i = 0; i < count; ++i) {
    labels[i] = array.bytes[i * size_bytes];
    for (size_t high = 1; high < size_bytes; ++high) {
      if (array.bytes[i * size_bytes + high] == 0) continue;
      return Refuse(Reason::kMalformed, item,
                    StrCat("label ", i, " is not from 0 to ", kMaxClasses - 1));
    }
  }
  return labels;
}

absl::StatusOr<ImageDataset> ReadSplit(const std::map<std::string, Member>& archive,
                                       const std::string& split, std::string_view item) {
  const std::string name = split + "_images";
  PAVISE_ASSIGN_OR_RETURN(Array images, ReadArray(archive, name, kMaxDatasetBytes, item));
  const std::string images_item = StrCat(item, ": ", name);
  const size_t dimensions = images.shape.size();
  const bool is_colour = dimensions == 4 && images.shape[3] == 3;
  if (images.type != "|u1" || (dimensions != 3 && !is_colour)) {
    return Refuse(Reason::kUnsupported, images_item,
                  "is not uint8 of [count, height, width] or [count, height, width, 3]");
  }
  if (images.elements() == 0) return Refuse(Reason::kMalformed, images_item, "has no images");
  if (images.shape[1] > kMaxImageSide || images.shape[2] > kMaxImageSide) {
    return Refuse(Reason::kLimitExceeded, images_item,
                  StrCat("has images wider or higher than ", kMaxImageSide, " pixels"));
  }
  ImageDataset dataset;
  dataset.channels = is_colour ? 3 : 1;
  dataset.height = images.shape[1];
  dataset.width = images.shape[2];
  // A label has 8 bytes at most.
  PAVISE_ASSIGN_OR_RETURN(
      const Array labels,
      ReadArray(archive, split + "_labels", 8 * images.shape[0] + kMostLabelsHeaderBytes, item));
  PAVISE_ASSIGN_OR_RETURN(dataset.labels,
                          LabelsOf(labels, images.shape[0], StrCat(item, ": ", split, "_labels")));
  if (!is_colour) {
    dataset.images = std::move(images.bytes);
    return dataset;
  }
  dataset.images.resize(images.bytes.size());
  const size_t pixels = dataset.height * dataset.width;
  for (size_t image = 0; image < dataset.count(); ++image) {
    for (size_t pixel = 0; pixel < pixels; ++pixel) {
      for (size_t channel = 0; channel < 3; ++channel) {
        dataset.images[(image * 3 + channel) * pixels + pixel] =
            images.bytes[(image * pixels + pixel) * 3 + channel];
      }
    }
  }
  return dataset;
}

}  // namespace

absl::StatusOr<ImageSplits> ParseNpz(ByteSpan file, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const auto archive, ReadZip(file, item));
  ImageSplits splits;
  splits.format = "NPZ";
  PAVISE_ASSIGN_OR_RETURN(splits.train, ReadSplit(archive, "train", item));
  PAVISE_ASSIGN_OR_RETURN(splits.test, ReadSplit(archive, "test", item));
  return splits;
}

}  // namespace pavise::train
