#include "pavise/loading/ranked_run.h"

#include <stdlib.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/loading/internal/launch.h"
#include "pavise/loading/internal/rank_message.h"
#include "pavise/loading/mpi/mpi_ranks.h"
#include "pavise/loading/testing/thread_ranks.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::loading {
namespace {

using internal::ParseRankMessage;
using internal::RankMessage;
using internal::RankStage;
using internal::SerializeRankMessage;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// What each of `size` ranks returns of `body`.
std::vector<absl::Status> StatusesOf(unsigned size,
                                     const std::function<absl::Status(RankedRun&)>& body,
                                     const testing::Forgery& forgery = nullptr) {
  std::vector<absl::Status> statuses(size);
  testing::RunRanks(
      size,
      [&](RankGroup& group) {
        RankedRun run(group);
        statuses[group.rank()] = body(run);
      },
      forgery);
  return statuses;
}

// That of all, which must be one.
absl::Status OnlyStatus(const std::vector<absl::Status>& statuses) {
  for (const absl::Status& status : statuses) EXPECT_EQ(status, statuses.front());
  return statuses.front();
}

TEST(RankedRunTest, AllAccept) {
  for (const unsigned size : {1U, 2U, 3U, 7U}) {
    const auto statuses = StatusesOf(size, [&](RankedRun& run) -> absl::Status {
      for (const auto round : {RankedRun::Round::kRequest, RankedRun::Round::kResults}) {
        const Bytes mine(run.rank() + 1, static_cast<uint8_t>(run.rank()));
        PAVISE_ASSIGN_OR_RETURN(const std::vector<Bytes> all,
                                run.Exchange(round, absl::OkStatus(), {{"a", "b"}}, mine));
        EXPECT_EQ(all.size(), size);
        for (unsigned i = 0; i < all.size(); ++i) {
          EXPECT_EQ(all[i], Bytes(i + 1, static_cast<uint8_t>(i)));
        }
      }
      RankPart part;
      part.device = StrCat("device ", run.rank());
      part.tensors = run.rank() + 10;
      PAVISE_ASSIGN_OR_RETURN(const std::vector<RankPart> parts,
                              run.Conclude(absl::OkStatus(), {{"a", "b"}}, part));
      EXPECT_TRUE(run.is_concluded());
      EXPECT_EQ(parts.size(), size);
      for (unsigned i = 0; i < parts.size(); ++i) {
        EXPECT_EQ(parts[i].device, StrCat("device ", i));
        EXPECT_EQ(parts[i].tensors, i + 10);
        EXPECT_FALSE(parts[i].host.empty());
      }
      EXPECT_FALSE(run.Conclude(absl::OkStatus(), {}, {}).ok()) << "a second conclusion";
      return absl::OkStatus();
    });
    EXPECT_TRUE(OnlyStatus(statuses).ok()) << size << " ranks: " << statuses.front();
  }
}

TEST(RankedRunTest, OneThatRefusesRefusesForAll) {
  const absl::Status missing = Refuse(Reason::kFileMissing, "a", "is not there", "restore it");
  const std::map<std::string, std::pair<absl::Status, int>> cases = {
      {"refusal", {missing, 1}},
      {"usage", {UsageError("no such option"), 2}},
      {"failure", {MachineFailure("disk", "broken"), 3}},
      {"unclassified", {absl::UnknownError("something"), 3}}};
  for (const auto& [name, expected] : cases) {
    SCOPED_TRACE(name);
    // It ends before, between and after the rounds of the others.
    for (int rounds = 0; rounds <= 2; ++rounds) {
      const absl::Status status =
          OnlyStatus(StatusesOf(3, [&, &expected = expected](RankedRun& run) -> absl::Status {
            absl::Status mine;
            for (int i = 0; i < 2 && mine.ok(); ++i) {
              if (run.rank() == 2 && i == rounds) break;
              mine =
                  run.Exchange(static_cast<RankedRun::Round>(i), absl::OkStatus(), {}, {}).status();
            }
            if (run.rank() == 2) mine = expected.first;
            return run.Conclude(mine, {}, {}).status();
          }));
      EXPECT_EQ(ExitCodeOf(status), expected.second) << status;
      EXPECT_THAT(status.ToString(), AllOf(HasSubstr("rank 2 on "), Not(HasSubstr("rank 0"))));
    }
  }
}

TEST(RankedRunTest, WhatAllFoundIsSaidOnceAndWhatSomeFoundComesFirst) {
  const auto status = OnlyStatus(StatusesOf(3, [](RankedRun& run) {
    std::vector<Refusal> findings = {{Reason::kContentMismatch, "a", "differs", ""}};
    if (run.rank() > 0) findings.push_back({Reason::kFileMissing, "b", "is not there", ""});
    return run.Conclude(Refuse(findings), {}, {}).status();
  }));
  const std::vector<Refusal> findings = RefusalsOf(status);
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[0].reason, Reason::kFileMissing);
  EXPECT_THAT(findings[0].detail,
              AllOf(HasSubstr("rank 1 on"), HasSubstr("rank 2 on"), Not(HasSubstr("rank 0 on"))));
  EXPECT_EQ(findings[1].detail, "differs");
}

TEST(RankedRunTest, ARefusalGoesBeforeAFailure) {
  const auto status = OnlyStatus(StatusesOf(2, [](RankedRun& run) {
    return run
        .Conclude(run.rank() == 0 ? MachineFailure("disk", "broken")
                                  : Refuse(Reason::kContentMismatch, "a", "differs"),
                  {}, {})
        .status();
  }));
  EXPECT_EQ(ReasonOf(status), Reason::kContentMismatch);
}

TEST(RankedRunTest, FactsThatDiffer) {
  for (const RankFacts& other :
       std::vector<RankFacts>{{{"the signature", "2"}}, {{"else", "1"}}, {}}) {
    for (const bool at_the_end : {false, true}) {
      const auto status = OnlyStatus(StatusesOf(3, [&](RankedRun& run) {
        const RankFacts facts = run.rank() == 1 ? other : RankFacts{{"the signature", "1"}};
        absl::Status mine;
        if (!at_the_end) {
          mine = run.Exchange(RankedRun::Round::kRequest, absl::OkStatus(), facts, {}).status();
        }
        return run.Conclude(mine, facts, {}).status();
      }));
      EXPECT_EQ(ReasonOf(status), Reason::kRanksDisagree) << status;
      EXPECT_THAT(std::string(FromAbsl(status.message())), HasSubstr("rank 1"));
    }
  }
}

TEST(RankedRunTest, AcceptingWithoutAWordOnTheRequestIsNoAccept) {
  const auto statuses = StatusesOf(2, [](RankedRun& run) {
    absl::Status mine;
    if (run.rank() == 0) {
      mine = run.Exchange(RankedRun::Round::kRequest, absl::OkStatus(), {}, {}).status();
    }
    return run.Conclude(mine, {}, {}).status();
  });
  EXPECT_EQ(ExitCodeOf(OnlyStatus(statuses)), 3);
}

TEST(RankedRunTest, ARankThatIsGone) {
  for (int rounds = 0; rounds <= 2; ++rounds) {
    const auto statuses = StatusesOf(3, [&](RankedRun& run) {
      absl::Status mine;
      for (int i = 0; i < 2; ++i) {
        if (run.rank() == 1 && i == rounds) return absl::OkStatus();  // dies
        mine.Update(
            run.Exchange(static_cast<RankedRun::Round>(i), absl::OkStatus(), {}, {}).status());
      }
      if (run.rank() == 1) return absl::OkStatus();
      absl::Status end = run.Conclude(mine, {}, {}).status();
      EXPECT_TRUE(run.is_cut_off());
      return end;
    });
    EXPECT_EQ(ExitCodeOf(statuses[0]), 3) << statuses[0];
    EXPECT_EQ(ExitCodeOf(statuses[2]), 3) << statuses[2];
  }
}

TEST(RankedRunTest, MalformedMessagesAreRefusedByAll) {
  const std::map<std::string, std::function<void(Bytes&)>> cases = {
      {"empty", [](Bytes& bytes) { bytes.clear(); }},
      {"cut short", [](Bytes& bytes) { bytes.pop_back(); }},
      {"trailing", [](Bytes& bytes) { bytes.push_back(0); }},
      {"another version", [](Bytes& bytes) { bytes[10] ^= 1; }},
      {"a length beyond the end", [](Bytes& bytes) { bytes[7] = 0xff; }}};
  for (const auto& [name, change] : cases) {
    for (unsigned bad_round = 0; bad_round < 3; ++bad_round) {
      SCOPED_TRACE(StrCat(name, " in round ", bad_round));
      const auto statuses = StatusesOf(
          3,
          [](RankedRun& run) {
            absl::Status mine =
                run.Exchange(RankedRun::Round::kRequest, absl::OkStatus(), {}, {}).status();
            if (mine.ok()) {
              mine = run.Exchange(RankedRun::Round::kResults, absl::OkStatus(), {}, {}).status();
            }
            return run.Conclude(mine, {}, {}).status();
          },
          [&, &change = change](unsigned rank, unsigned round, Bytes& message) {
            if (rank == 1 && round == bad_round) change(message);
          });
      EXPECT_EQ(ReasonOf(OnlyStatus(statuses)), Reason::kMalformed) << statuses.front();
      EXPECT_THAT(statuses.front().ToString(), HasSubstr("rank 1"));
    }
  }
}

// What another version of the program sends, and how it reads the others.
class OtherVersion final : public RankGroup {
 public:
  explicit OtherVersion(RankGroup& group) : group_(group) {}
  unsigned rank() const override { return group_.rank(); }
  unsigned size() const override { return group_.size(); }
  absl::StatusOr<std::vector<Bytes>> AllGather(ByteSpan mine) override {
    Bytes message(mine.begin(), mine.end());
    message[10] ^= 1;
    PAVISE_ASSIGN_OR_RETURN(std::vector<Bytes> all, group_.AllGather(message));
    for (Bytes& one : all) one[10] ^= 1;
    return all;
  }

 private:
  RankGroup& group_;
};

TEST(RankedRunTest, RanksOfTwoVersionsLeaveInTheSameRound) {
  // One has nothing but its last word to say, others have rounds before them.
  for (const unsigned other : {0U, 1U, 2U}) {
    for (const unsigned early : {0U, 1U, 2U, 3U}) {
      SCOPED_TRACE(StrCat("rank ", other, " is of another version, rank ", early, " ends early"));
      testing::RunRanks(3, [&](RankGroup& group) {
        OtherVersion different(group);
        RankedRun run(group.rank() == other ? static_cast<RankGroup&>(different) : group);
        absl::Status mine;
        if (group.rank() == early) {
          mine = MachineFailure("disk", "broken");
        } else {
          for (const auto round : {RankedRun::Round::kRequest, RankedRun::Round::kResults}) {
            if (mine.ok()) mine = run.Exchange(round, absl::OkStatus(), {}, {}).status();
          }
        }
        const absl::Status verdict = run.Conclude(mine, {}, {}).status();
        EXPECT_EQ(ReasonOf(verdict), Reason::kMalformed) << verdict;
        EXPECT_THAT(verdict.ToString(), HasSubstr("speaks another language"));
        EXPECT_FALSE(run.is_cut_off()) << "it waited for one that had gone";
      });
    }
  }
}

TEST(RankedRunTest, FactsThatCannotBeSentAsAWholeAreNoFacts) {
  const RankFacts many(65, {"a", "b"});
  const RankFacts long_value = {{"a", std::string(internal::kMostRankTextBytes + 1, 'x')}};
  const RankFacts long_name = {{std::string(internal::kMostRankTextBytes + 1, 'x'), "a"}};
  for (const RankFacts& facts : {many, long_value, long_name}) {
    for (const bool at_the_end : {false, true}) {
      const auto status = OnlyStatus(StatusesOf(2, [&](RankedRun& run) {
        absl::Status mine;
        if (!at_the_end) {
          mine = run.Exchange(RankedRun::Round::kRequest, absl::OkStatus(), facts, {}).status();
        }
        return run.Conclude(mine, facts, {}).status();
      }));
      EXPECT_EQ(ExitCodeOf(status), 3) << status;
    }
  }
  const RankFacts longest = {{"a", std::string(internal::kMostRankTextBytes, 'x')}};
  EXPECT_TRUE(OnlyStatus(StatusesOf(2, [&](RankedRun& run) {
                return run.Conclude(absl::OkStatus(), longest, {}).status();
              })).ok());
}

TEST(RankedRunTest, OneCopyIsWhatAllSay) {
  const auto parts = [](const std::vector<std::string>& copies) {
    std::vector<RankPart> made;
    for (const std::string& copy : copies) made.emplace_back().copy = copy;
    return made;
  };
  EXPECT_TRUE(ReadOneCopy(parts({"a", "a", "a"})));
  EXPECT_TRUE(ReadOneCopy(parts({""}))) << "one rank reads all of its copy";
  EXPECT_FALSE(ReadOneCopy(parts({"a", "a", "b"})));
  EXPECT_FALSE(ReadOneCopy(parts({"", ""})));
}

TEST(RankMessageTest, StaysWhatItWas) {
  RankMessage message = {
      RankStage::kResults,
      "host",
      true,
      Refuse({{Reason::kRanksDisagree, "a", "b", "c"}, {Reason::kSignatureInvalid, "", "", ""}}),
      {{"name", "value"}},
      Bytes(100, 7)};
  for (const absl::Status& status :
       {message.status, absl::OkStatus(), UsageError("x"), MachineFailure("a", "b")}) {
    message.status = status;
    const auto serialized = SerializeRankMessage(message);
    ASSERT_TRUE(serialized.ok()) << serialized.status();
    const Bytes& bytes = *serialized;
    const auto parsed = ParseRankMessage(bytes, "rank 0");
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->stage, message.stage);
    EXPECT_EQ(parsed->host, message.host);
    EXPECT_EQ(parsed->follows, true);
    EXPECT_EQ(parsed->status, status);
    EXPECT_EQ(parsed->facts, message.facts);
    EXPECT_EQ(parsed->payload, message.payload);
    for (size_t size = 0; size < bytes.size(); ++size) {
      EXPECT_EQ(ReasonOf(ParseRankMessage(ByteSpan(bytes).first(size), "rank 0").status()),
                Reason::kMalformed)
          << size;
    }
  }
}

class LaunchTest : public ::testing::Test {
 protected:
  void SetUp() override { TearDown(); }
  void TearDown() override {
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "SLURM_STEP_NUM_TASKS",
                             "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"}) {
      unsetenv(name);
    }
  }
};

TEST_F(LaunchTest, TheEnvironmentSaysHowMany) {
  EXPECT_EQ(*internal::LaunchedRanks(), 1u);
  setenv("SLURM_STEP_NUM_TASKS", "1", 1);
  EXPECT_EQ(*internal::LaunchedRanks(), 1u);
  setenv("SLURM_STEP_NUM_TASKS", "4", 1);
  EXPECT_EQ(ReasonOf(internal::LaunchedRanks().status()), Reason::kUnsupported)
      << "several, and no way to find each other";
  setenv("PMIX_RANK", "0", 1);
  EXPECT_EQ(*internal::LaunchedRanks(), 4u);
  unsetenv("SLURM_STEP_NUM_TASKS");
  EXPECT_EQ(*internal::LaunchedRanks(), 0u);
  setenv("OMPI_COMM_WORLD_SIZE", "3", 1);
  EXPECT_EQ(*internal::LaunchedRanks(), 3u);
  for (const char* text : {"", "0", "-1", "2x", "65537", "99999999999999999999"}) {
    setenv("OMPI_COMM_WORLD_SIZE", text, 1);
    EXPECT_EQ(ReasonOf(internal::LaunchedRanks().status()), Reason::kUnsupported) << text;
  }
}

TEST_F(LaunchTest, WhichOfThisMachine) {
  EXPECT_EQ(ExitCodeOf(LocalRank().status()), 2);
  setenv("SLURM_LOCALID", "2", 1);
  EXPECT_EQ(*LocalRank(), 2u);
  setenv("OMPI_COMM_WORLD_LOCAL_RANK", "1", 1);
  EXPECT_EQ(*LocalRank(), 1u);
  setenv("OMPI_COMM_WORLD_LOCAL_RANK", "one", 1);
  EXPECT_EQ(ExitCodeOf(LocalRank().status()), 2);
}

TEST_F(LaunchTest, SeveralWithoutALibraryAreRefused) {
  EXPECT_EQ(*JoinLaunchedRanks("libnothing.so"), nullptr);
  setenv("OMPI_COMM_WORLD_SIZE", "1", 1);
  EXPECT_EQ(*JoinLaunchedRanks("libnothing.so"), nullptr);
  setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
  EXPECT_EQ(ReasonOf(JoinLaunchedRanks("libnothing.so").status()), Reason::kUnsupported);
  EXPECT_EQ(ReasonOf(JoinLaunchedRanks("libc.so.6").status()), Reason::kUnsupported);
}

}  // namespace
}  // namespace pavise::loading
