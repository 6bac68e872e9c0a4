#include "pavise/cli/program.h"
#include "pavise/cli/result_arguments.h"
#include "pavise/cli/training.h"

namespace pavise::cli {

std::vector<std::unique_ptr<Verb>> AllVerbs() {
  std::vector<std::unique_ptr<Verb>> verbs;
  verbs.push_back(NewKeygenVerb());
  verbs.push_back(NewSignVerb());
  verbs.push_back(NewVerifyVerb());
  verbs.push_back(NewLoadVerb());
  verbs.push_back(NewDigestVerb());
  verbs.push_back(NewInspectVerb());
  verbs.push_back(NewDiffVerb());
  verbs.push_back(NewSealVerb());
  verbs.push_back(NewUnsealVerb());
  verbs.push_back(NewAttestVerb());
  verbs.push_back(NewAppraiseVerb());
  verbs.push_back(NewHostImageVerb());
  verbs.push_back(NewLedgerVerb());
  verbs.push_back(NewBrokerVerb());
  verbs.push_back(NewPolicyVerb());
  verbs.push_back(NewRunVerb());
  verbs.push_back(NewJobVerb());
  verbs.push_back(NewReportVerb());
  verbs.push_back(NewTrainVerb(nullptr));
  verbs.push_back(NewInferVerb(nullptr));
  verbs.push_back(NewAuditVerb(nullptr));
  verbs.push_back(NewDoctorVerb());
  verbs.push_back(NewBenchVerb(NewModesBench(nullptr)));
  verbs.push_back(NewCompletionVerb());
  verbs.push_back(NewManualVerb());
  return verbs;
}

}  // namespace pavise::cli
