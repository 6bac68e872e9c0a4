#include "pavise/train/testing/datasets.h"

#include <zlib.h>

#include <cstdlib>
#include <filesystem>

#include "pavise/base/strings.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/train/batches.h"
#include "pavise/train/internal/inflate.h"

namespace pavise::train::testing {
namespace {

void AppendBigEndian32(uint32_t value, Bytes& out) {
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<uint8_t>(value >> shift));
}

void Append16(uint16_t value, Bytes& out) {
  out.push_back(static_cast<uint8_t>(value));
  out.push_back(static_cast<uint8_t>(value >> 8));
}

void AppendText(std::string_view text, Bytes& out) {
  for (const char character : text) out.push_back(static_cast<uint8_t>(character));
}

Bytes Compress(const Bytes& content, int window_bits) {
  z_stream stream = {};
  deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY);
  Bytes out(deflateBound(&stream, content.size()) + 32);
  stream.next_in = const_cast<Bytef*>(content.data());
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = out.data();
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

}  // namespace

std::optional<std::string> DataDirectory() {
  const char* given = std::getenv("PAVISE_DATA");
  const std::string path = given != nullptr ? given : PAVISE_SOURCE_DIR "/../shared/data";
  if (!std::filesystem::is_directory(path)) return std::nullopt;
  return path;
}

std::optional<std::string> PneumoniaFile() {
  const std::optional<std::string> folder = DataDirectory();
  if (!folder.has_value()) return std::nullopt;
  for (const char* name : {"/pneumoniamnist/pneumoniamnist.npz", "/pneumoniamnist.npz"}) {
    if (std::filesystem::exists(*folder + name)) return *folder + name;
  }
  return std::nullopt;
}

std::optional<std::string> CifarFolder(const std::string& scratch) {
  const std::optional<std::string> folder = DataDirectory();
  if (!folder.has_value()) return std::nullopt;
  const std::string binary = *folder + "/cifar-10-batches-bin";
  if (std::filesystem::exists(binary + "/data_batch_1.bin")) return binary;
  const std::string script = *folder + "/unpack_cifar10.py";
  if (!std::filesystem::exists(script)) return std::nullopt;
  // Debian's own Python has Debian's packages.
  const auto unpacked = crypto::testing::RunCommand(
      StrCat("/usr/bin/python3 '", script, "' '", scratch, "' --limit 100"));
  if (unpacked.exit_code != 0) return std::nullopt;
  return scratch;
}

ImageDataset MakeHalves(size_t count, size_t channels, size_t side, uint64_t seed) {
  ImageDataset dataset;
  dataset.channels = channels;
  dataset.height = dataset.width = side;
  for (size_t image = 0; image < count; ++image) {
    const uint8_t label = MixSeed(seed, image, 0) % 2;
    dataset.labels.push_back(label);
    for (size_t pixel = 0; pixel < dataset.image_bytes(); ++pixel) {
      const bool right = pixel % side >= side / 2;
      const uint64_t noise = MixSeed(seed, image, pixel + 1) % 100;
      dataset.images.push_back(static_cast<uint8_t>(noise + (right == (label == 1) ? 120 : 20)));
    }
  }
  return dataset;
}

Bytes MakeNpy(std::string_view type, std::string_view shape, const Bytes& values) {
  std::string header =
      StrCat("{'descr': '", type, "', 'fortran_order': False, 'shape': ", shape, ", }");
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  Bytes out;
  AppendText("\x93NUMPY", out);
  Append16(1, out);
  Append16(static_cast<uint16_t>(header.size()), out);
  AppendText(header, out);
  out.insert(out.end(), values.begin(), values.end());
  return out;
}

Bytes MakeZip(const std::vector<ZipMember>& members) {
  Bytes out;
  Bytes directory;
  for (const ZipMember& member : members) {
    const uint32_t offset = static_cast<uint32_t>(out.size());
    const Bytes packed = member.deflated ? Compress(member.content, -MAX_WBITS) : member.content;
    Bytes common;
    Append16(0, common);  // flags
    Append16(member.deflated ? 8 : 0, common);
    AppendLittleEndian32(0, common);  // time
    AppendLittleEndian32(internal::Crc32(member.content), common);
    AppendLittleEndian32(static_cast<uint32_t>(packed.size()), common);
    AppendLittleEndian32(static_cast<uint32_t>(member.content.size()), common);
    Append16(static_cast<uint16_t>(member.name.size()), common);
    AppendLittleEndian32(0x04034b50, out);
    Append16(20, out);
    out.insert(out.end(), common.begin(), common.end());
    Append16(0, out);
    AppendText(member.name, out);
    out.insert(out.end(), packed.begin(), packed.end());
    AppendLittleEndian32(0x02014b50, directory);
    AppendLittleEndian32(20 | 20 << 16, directory);
    directory.insert(directory.end(), common.begin(), common.end());
    AppendLittleEndian32(0, directory);  // extra, comment
    AppendLittleEndian32(0, directory);
    AppendLittleEndian32(0, directory);
    AppendLittleEndian32(offset, directory);
    AppendText(member.name, directory);
  }
  const uint32_t offset = static_cast<uint32_t>(out.size());
  out.insert(out.end(), directory.begin(), directory.end());
  AppendLittleEndian32(0x06054b50, out);
  AppendLittleEndian32(0, out);
  Append16(static_cast<uint16_t>(members.size()), out);
  Append16(static_cast<uint16_t>(members.size()), out);
  AppendLittleEndian32(static_cast<uint32_t>(directory.size()), out);
  AppendLittleEndian32(offset, out);
  Append16(0, out);
  return out;
}

Bytes MakeNpz(const ImageDataset& train, const ImageDataset& test, bool deflated) {
  std::vector<ZipMember> members;
  for (const auto& [name, split] : {std::pair("train", &train), std::pair("test", &test)}) {
    members.push_back(
        {StrCat(name, "_images.npy"),
         MakeNpy("|u1", StrCat("(", split->count(), ", ", split->height, ", ", split->width, ")"),
                 split->images),
         deflated});
    members.push_back({StrCat(name, "_labels.npy"),
                       MakeNpy("|u1", StrCat("(", split->count(), ", 1)"), split->labels),
                       deflated});
  }
  return MakeZip(members);
}

Bytes MakeCifar(const ImageDataset& dataset) {
  Bytes out;
  for (size_t i = 0; i < dataset.count(); ++i) {
    out.push_back(dataset.labels[i]);
    const auto begin = dataset.images.begin() + static_cast<ptrdiff_t>(i * dataset.image_bytes());
    out.insert(out.end(), begin, begin + static_cast<ptrdiff_t>(dataset.image_bytes()));
  }
  return out;
}

Bytes MakeIdxImages(const ImageDataset& dataset) {
  Bytes out = {0, 0, 8, 3};
  for (const size_t length : {dataset.count(), dataset.height, dataset.width}) {
    AppendBigEndian32(static_cast<uint32_t>(length), out);
  }
  out.insert(out.end(), dataset.images.begin(), dataset.images.end());
  return out;
}

Bytes MakeIdxLabels(const ImageDataset& dataset) {
  Bytes out = {0, 0, 8, 1};
  AppendBigEndian32(static_cast<uint32_t>(dataset.count()), out);
  out.insert(out.end(), dataset.labels.begin(), dataset.labels.end());
  return out;
}

Bytes MakeGzip(const Bytes& content) { return Compress(content, 16 + MAX_WBITS); }

}  // namespace pavise::train::testing
