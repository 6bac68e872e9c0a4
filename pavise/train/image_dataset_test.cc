#include "pavise/train/image_dataset.h"

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/train/testing/datasets.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::train {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::MakeHalves;
using testing::MakeNpy;
using testing::MakeZip;
using testing::ZipMember;

// A refusal of this kind that says `detail`.
template <typename T>
void ExpectRefused(const absl::StatusOr<T>& result, Reason reason, std::string_view detail) {
  ASSERT_EQ(ReasonOf(result.status()), reason) << result.status();
  EXPECT_THAT(RefusalsOf(result.status())[0].detail, HasSubstr(std::string(detail)));
}

// Whatever byte is flipped or missing, the answer is an accept or a refusal, and no machine
// failure. Returns how many were refused.
template <typename Parse>
size_t CountRefused(const Bytes& file, const Parse& parse) {
  size_t refused = 0;
  const auto judge = [&](const Bytes& tried) {
    const absl::Status status = parse(tried).status();
    EXPECT_LE(ExitCodeOf(status), 1) << status;
    refused += !status.ok();
    return !status.ok();
  };
  for (size_t i = 0; i < file.size(); ++i) {
    Bytes changed = file;
    changed[i] ^= 0x11;
    judge(changed);
    changed.assign(file.data(), file.data() + i);
    EXPECT_TRUE(judge(changed)) << i;
  }
  Bytes longer = file;
  longer.push_back(0);
  EXPECT_TRUE(judge(longer));
  return refused;
}

Bytes SmallNpz(bool deflated) {
  return testing::MakeNpz(MakeHalves(3, 1, 4, 1), MakeHalves(2, 1, 4, 2), deflated);
}

TEST(Cifar10Test, ReadsRecords) {
  const ImageDataset made = MakeHalves(3, 3, 32, 1);
  const Bytes file = testing::MakeCifar(made);
  const auto dataset = ParseCifar10(file, "batch");
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(*dataset, made);
  EXPECT_EQ(dataset->images[3072], file[3073 + 1]);
}

TEST(Cifar10Test, RefusesOtherFiles) {
  const Bytes file = testing::MakeCifar(MakeHalves(2, 3, 32, 1));
  for (const size_t size : {size_t{0}, size_t{1}, size_t{3072}, file.size() - 1}) {
    ExpectRefused(ParseCifar10(ByteSpan(file).first(size), "batch"), Reason::kMalformed,
                  "no multiple");
  }
  Bytes label = file;
  label[3073] = 10;
  ExpectRefused(ParseCifar10(label, "batch"), Reason::kMalformed, "record 1 has label 10");
}

TEST(NpzTest, ReadsStoredAndDeflatedMembers) {
  for (const bool deflated : {false, true}) {
    const auto splits = ParseNpz(SmallNpz(deflated), "data.npz");
    ASSERT_TRUE(splits.ok()) << splits.status();
    EXPECT_EQ(splits->train, MakeHalves(3, 1, 4, 1));
    EXPECT_EQ(splits->test, MakeHalves(2, 1, 4, 2));
  }
}

TEST(NpzTest, ReadsColourAndWideLabels) {
  Bytes pixels(2 * 2 * 2 * 3);
  std::iota(pixels.begin(), pixels.end(), uint8_t{0});
  const Bytes labels = {7, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0};
  const std::vector<ZipMember> members = {
      {"train_images.npy", MakeNpy("|u1", "(2, 2, 2, 3)", pixels)},
      {"train_labels.npy", MakeNpy("<i8", "(2,)", labels)},
      {"test_images.npy", MakeNpy("|u1", "(2, 2, 2, 3)", pixels)},
      {"test_labels.npy", MakeNpy("<i8", "(2, 1)", labels)},
      {"notes.txt", {1, 2, 3}}};
  const auto splits = ParseNpz(MakeZip(members), "data.npz");
  ASSERT_TRUE(splits.ok()) << splits.status();
  EXPECT_THAT(splits->train.labels, ElementsAre(7, 255));
  EXPECT_EQ(splits->train.channels, 3u);
  EXPECT_THAT(Bytes(splits->train.images.begin(), splits->train.images.begin() + 8),
              ElementsAre(0, 3, 6, 9, 1, 4, 7, 10));
}

TEST(NpzTest, RefusesEveryDamage) {
  const auto parse = [](const Bytes& file) { return ParseNpz(file, "data.npz"); };
  for (const bool deflated : {false, true}) {
    const Bytes file = SmallNpz(deflated);
    const size_t refused = CountRefused(file, parse);
    // What may be changed unseen: versions, times, attributes and the lengths of the local headers,
    // which nothing reads.
    EXPECT_GT(refused, 2 * file.size() - 4 * 60);
  }
}

TEST(NpzTest, SaysWhatIsWrong) {
  const auto with = [](const std::string& name, Bytes content) {
    const Bytes pixels(16, 5);
    std::vector<ZipMember> members = {{"train_images.npy", MakeNpy("|u1", "(1, 4, 4)", pixels)},
                                      {"train_labels.npy", MakeNpy("|u1", "(1,)", {0})},
                                      {"test_images.npy", MakeNpy("|u1", "(1, 4, 4)", pixels)},
                                      {"test_labels.npy", MakeNpy("|u1", "(1,)", {0})}};
    for (ZipMember& member : members) {
      if (member.name == name) member.content = std::move(content);
    }
    return ParseNpz(MakeZip(members), "data.npz");
  };
  EXPECT_TRUE(with("none", {}).ok());
  const Bytes pixels(16, 5);
  const std::string images = "train_images.npy";
  ExpectRefused(with(images, {}), Reason::kMalformed, "magic number");
  ExpectRefused(with(images, MakeNpy("<f4", "(1, 2, 2)", pixels)), Reason::kUnsupported, "<f4");
  ExpectRefused(with(images, MakeNpy("|u1", "(1, 4, 5)", pixels)), Reason::kMalformed, "shape");
  ExpectRefused(with(images, MakeNpy("|u1", "(1, 4, 3)", pixels)), Reason::kMalformed, "shape");
  ExpectRefused(with(images, MakeNpy("|u1", "(16,)", pixels)), Reason::kUnsupported, "uint8 of");
  ExpectRefused(with(images, MakeNpy("|u1", "(0, 4, 4)", {})), Reason::kMalformed, "no images");
  ExpectRefused(with(images, MakeNpy("|u1", "(1, 1, 2048)", Bytes(2048))), Reason::kLimitExceeded,
                "pixels");
  ExpectRefused(with(images, MakeNpy("|u1", "(4294967296, 4294967296, 4)", pixels)),
                Reason::kLimitExceeded, "shape");
  ExpectRefused(with(images, MakeNpy("|u1", "(99999999999999999999,)", pixels)), Reason::kMalformed,
                "length is no number");
  ExpectRefused(with(images, MakeNpy("|u1", "(1, 4, 4), 'descr': '|u1'", pixels)),
                Reason::kMalformed, "twice");
  ExpectRefused(with(images, MakeNpy("|u1", "(1, 4, 4), 'x': '|u1'", pixels)), Reason::kMalformed,
                "unknown key");
  ExpectRefused(with("train_labels.npy", MakeNpy("|u1", "(2,)", {0, 0})), Reason::kMalformed,
                "one label");
  // Deflate makes a thousand zeros of one byte: no labels are that long.
  ExpectRefused(with("train_labels.npy", MakeNpy("|u1", "(1000000,)", Bytes(1'000'000))),
                Reason::kLimitExceeded, "such an array");
  ExpectRefused(with("train_labels.npy", MakeNpy("<i4", "(1,)", {0, 1, 0, 0})), Reason::kMalformed,
                "label 0");
  ExpectRefused(ParseNpz(MakeZip({{images, MakeNpy("|u1", "(1, 4, 4)", pixels)}}), "data.npz"),
                Reason::kFileMissing, "no such array");
  const ZipMember twice = {"a", {1}};
  ExpectRefused(ParseNpz(MakeZip({twice, twice}), "data.npz"), Reason::kMalformed, "twice");
  ExpectRefused(ParseNpz(MakeZip(std::vector<ZipMember>(65, twice)), "data.npz"),
                Reason::kLimitExceeded, "64 members");
}

// A member that claims 4 GB in a few bytes is refused before memory is taken for it.
TEST(NpzTest, RefusesImpossibleLengths) {
  Bytes file = SmallNpz(true);
  const Bytes magic = {0x50, 0x4b, 0x01, 0x02};
  const auto entry = std::search(file.begin(), file.end(), magic.begin(), magic.end());
  ASSERT_NE(entry, file.end());
  std::fill_n(entry + 24, 4, uint8_t{0xff});
  ExpectRefused(ParseNpz(file, "data.npz"), Reason::kLimitExceeded, "4 GiB");
  entry[27] = 0x7f;
  ExpectRefused(ParseNpz(file, "data.npz"), Reason::kMalformed, "more bytes than its compressed");
}

TEST(IdxTest, ReadsPlainAndCompressedFiles) {
  const ImageDataset made = MakeHalves(5, 1, 6, 3);
  const Bytes images = testing::MakeIdxImages(made);
  const Bytes labels = testing::MakeIdxLabels(made);
  const auto plain = ParseIdx(images, labels, "images", "labels");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(*plain, made);
  const auto packed =
      ParseIdx(testing::MakeGzip(images), testing::MakeGzip(labels), "images", "labels");
  ASSERT_TRUE(packed.ok()) << packed.status();
  EXPECT_EQ(*packed, made);
}

TEST(IdxTest, RefusesDamage) {
  const ImageDataset made = MakeHalves(2, 1, 3, 3);
  const Bytes images = testing::MakeIdxImages(made);
  const Bytes labels = testing::MakeIdxLabels(made);
  const auto with_images = [&](const Bytes& file) { return ParseIdx(file, labels, "i", "l"); };
  const auto with_labels = [&](const Bytes& file) { return ParseIdx(images, file, "i", "l"); };
  // All of the headers, and nothing of the values, which are any bytes.
  EXPECT_EQ(CountRefused(images, with_images), images.size() + 16 + 1);
  EXPECT_EQ(CountRefused(labels, with_labels), labels.size() + 8 + 1);
  // gzip has a CRC; of its header some bytes say nothing.
  const Bytes packed = testing::MakeGzip(images);
  EXPECT_GE(CountRefused(packed, with_images), 2 * packed.size() + 1 - 8);
  Bytes zeros = {0, 0, 8, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 4};
  ExpectRefused(with_images(zeros), Reason::kMalformed, "no images");
  zeros[7] = 1;
  zeros[10] = 16;
  ExpectRefused(with_images(zeros), Reason::kLimitExceeded, "pixels");
  ExpectRefused(ParseIdx(images, testing::MakeIdxLabels(MakeHalves(3, 1, 3, 3)), "i", "l"),
                Reason::kMalformed, "one label");
}

TEST(ImageDatasetTest, ThinsEvenly) {
  ImageDataset images;
  images.channels = images.height = 1;
  images.width = 2;
  images.images = {0, 1, 10, 11, 20, 21, 30, 31, 40, 41};
  images.labels = {0, 1, 2, 3, 4};
  ImageDataset two = images;
  two.Thin(2);
  EXPECT_EQ(two.images, (Bytes{0, 1, 20, 21}));
  EXPECT_EQ(two.labels, (Bytes{0, 2}));
  ImageDataset all = images;
  all.Thin(5);
  EXPECT_EQ(all, images);
  all.Thin(9);
  EXPECT_EQ(all, images);
}

TEST(ReadImageSplitsTest, KnowsTheFormatsByTheirFiles) {
  const pavise::testing::TemporaryDirectory directory;
  const ImageDataset grey = MakeHalves(4, 1, 8, 1);
  const ImageDataset colour = MakeHalves(4, 3, 32, 1);
  directory.Write("data.npz", AsText(testing::MakeNpz(grey, grey, true)));
  for (const char* name :
       {"cifar/data_batch_1.bin", "cifar/data_batch_3.bin", "cifar/test_batch.bin"}) {
    directory.Write(name, AsText(testing::MakeCifar(colour)));
  }
  directory.Write("idx/train-images-idx3-ubyte", AsText(testing::MakeIdxImages(grey)));
  directory.Write("idx/train-labels-idx1-ubyte", AsText(testing::MakeIdxLabels(grey)));
  directory.Write("idx/t10k-images-idx3-ubyte.gz",
                  AsText(testing::MakeGzip(testing::MakeIdxImages(grey))));
  directory.Write("idx/t10k-labels-idx1-ubyte.gz",
                  AsText(testing::MakeGzip(testing::MakeIdxLabels(grey))));
  directory.Write("other/file.txt", "x");

  const auto npz = ReadImageSplits(directory / "data.npz");
  ASSERT_TRUE(npz.ok()) << npz.status();
  EXPECT_EQ(npz->format, "NPZ");
  EXPECT_EQ(npz->classes, 2u);
  const auto cifar = ReadImageSplits(directory / "cifar");
  ASSERT_TRUE(cifar.ok()) << cifar.status();
  EXPECT_EQ(cifar->train.count(), 8u);
  EXPECT_EQ(cifar->classes, 10u);
  const auto idx = ReadImageSplits(directory / "idx");
  ASSERT_TRUE(idx.ok()) << idx.status();
  EXPECT_EQ(idx->test, grey);

  ExpectRefused(ReadImageSplits(directory / "absent"), Reason::kFileMissing, "no such dataset");
  ExpectRefused(ReadImageSplits(directory / "other"), Reason::kUnsupported, "no dataset");
  std::filesystem::remove(directory / "cifar/test_batch.bin");
  EXPECT_EQ(ReasonOf(ReadImageSplits(directory / "cifar").status()), Reason::kFileUnreadable);
  directory.Write("data.npz", AsText(testing::MakeNpz(grey, MakeHalves(4, 1, 4, 1), true)));
  ExpectRefused(ReadImageSplits(directory / "data.npz"), Reason::kMalformed, "differ in shape");
  ImageDataset more_classes = grey;
  more_classes.labels[2] = 9;
  directory.Write("data.npz", AsText(testing::MakeNpz(grey, more_classes, true)));
  ExpectRefused(ReadImageSplits(directory / "data.npz"), Reason::kMalformed, "test image 2");
}

TEST(RealDataTest, PneumoniaMnist) {
  const auto path = testing::PneumoniaFile();
  if (!path.has_value()) GTEST_SKIP() << "no PneumoniaMNIST (PAVISE_DATA)";
  const auto splits = ReadImageSplits(*path);
  ASSERT_TRUE(splits.ok()) << splits.status();
  EXPECT_EQ(splits->classes, 2u);
  EXPECT_EQ(splits->train.image_bytes(), 28u * 28u);
  // The published test split, of which 390 images show a pneumonia.
  EXPECT_EQ(splits->test.count(), 624u);
  EXPECT_EQ(std::accumulate(splits->test.labels.begin(), splits->test.labels.end(), 0), 390);
  EXPECT_EQ(std::accumulate(splits->test.images.begin(), splits->test.images.end(), uint64_t{0}),
            70'355'184u);  // numpy's sum
}

TEST(RealDataTest, Cifar10) {
  const pavise::testing::TemporaryDirectory scratch;
  const auto path = testing::CifarFolder(scratch.path());
  if (!path.has_value())
    GTEST_SKIP() << "no CIFAR-10, or not the programs to unpack it (PAVISE_DATA)";
  const auto splits = ReadImageSplits(*path);
  ASSERT_TRUE(splits.ok()) << splits.status();
  const bool is_whole = *path != scratch.path();
  EXPECT_EQ(splits->train.count(), is_whole ? 50'000u : 500u);
  EXPECT_EQ(splits->test.count(), is_whole ? 10'000u : 100u);
  for (uint8_t label = 0; label < 10; ++label) {
    EXPECT_THAT(splits->train.labels, ::testing::Contains(label));
  }
}

}  // namespace
}  // namespace pavise::train
