package extauthz

import (
	"encoding/json"
	"time"

	"meshseal/policies"
)

// Explanation is a decision and how it came about.
type Explanation struct {
	// Decision is allow or deny; unknown where Unknown says why. Reason, Step and
	// Detail are then those that would be if what is unknown did not matter.
	Decision string `json:"decision"`
	Reason   Reason `json:"reason"`
	Step     Step   `json:"step"`
	Detail   string `json:"detail,omitempty"`
	// AsRecorded: the answer is that of the record, since it came from what no
	// record holds.
	AsRecorded bool `json:"as_recorded,omitempty"`
	// Unknown is what the answer depends on and nobody can tell.
	Unknown []string `json:"unknown,omitempty"`
	// Notes are what was taken in another way than it is stated.
	Notes []string `json:"notes,omitempty"`
	Facts Facts    `json:"facts"`

	Steps    []StepOutcome   `json:"steps"`
	Policy   *PolicyOutcome  `json:"policy,omitempty"` // absent where it was not asked
	Recorded *RecordedAnswer `json:"recorded,omitempty"`
}

// RecordedAnswer is what a record says that was decided.
type RecordedAnswer struct {
	DecisionID string    `json:"decision_id"`
	Decision   string    `json:"decision"`
	Reason     Reason    `json:"reason"`
	Detail     string    `json:"detail,omitempty"`
	Snapshot   string    `json:"snapshot,omitempty"`
	Commit     string    `json:"commit,omitempty"`
	Timestamp  time.Time `json:"timestamp"`
}

// PolicyOutcome is how the policy came to what it says.
type PolicyOutcome struct {
	Entrypoint string `json:"entrypoint"`
	// Result is what it said; null where it said nothing.
	Result json.RawMessage        `json:"result"`
	Rules  []policies.RuleOutcome `json:"rules"`
	// Fault is why it gave no decision.
	Fault string `json:"fault,omitempty"`
	// NotCacheable says why decisions of this policy are not remembered; empty
	// where they are.
	NotCacheable string `json:"not_cacheable,omitempty"`
}

// StepOutcome is what came of one step.
type StepOutcome struct {
	Step    Step    `json:"step"`
	Outcome Outcome `json:"outcome"`
	// Saw is what the step looked at, a line each.
	Saw []string `json:"saw,omitempty"`
	// Why is why it did not pass.
	Why string `json:"why,omitempty"`
}

// Outcome is what can come of a step.
type Outcome string

// The outcomes.
const (
	Passed     Outcome = "passed"
	Failed     Outcome = "failed"
	NotKnown   Outcome = "unknown"
	NotReached Outcome = "not reached"
)

// Unknown is the decision of a question whose answer nobody can tell.
const Unknown = "unknown"
