// Package policies runs the Rego of a mesh repository: the request policy on
// every check, and the guardrails when a snapshot is built.
//
// A request policy is compiled once for a snapshot and then evaluated for
// every request and TCP connection. Its input and decision documents are those
// of opa-envoy-plugin v1.14.1, so that policies written for it run unchanged;
// input.meshseal adds what meshseal has proven. docs/policy.md describes both.
//
// Rego here reaches nothing outside: capabilities leave out every built-in
// that opens a connection or a file, reads the machine it runs on, or cannot
// be stopped. What is missing, misspelt or of the wrong type is an error, and
// every error is a denial.
package policies

import "errors"

// File is one file of a mesh repository's policies.
type File struct {
	Path string // slash-separated, relative to the repository: policies/x.rego
	Data []byte
}

// The ways in which a request gets no decision. Each is a denial.
var (
	// ErrInput: the request cannot be made into an input document.
	ErrInput = errors.New("the request is malformed")
	// ErrUndefined: the policy says nothing about the request.
	ErrUndefined = errors.New("the policy's decision is undefined")
	// ErrResultType: the decision is neither a boolean nor an object of the
	// form that docs/policy.md describes.
	ErrResultType = errors.New("the policy's decision has the wrong type")
	// ErrEval: a built-in failed, or two rules contradict each other.
	ErrEval = errors.New("the policy failed")
	// ErrTimeout: the evaluation took longer than the context or MaxEval
	// allows.
	ErrTimeout = errors.New("the policy took too long")
)

// ErrNoTests: the files have no test, or none that was asked for.
var ErrNoTests = errors.New("no tests: write rules whose names begin with test_ in policies/*_test.rego or guardrails/*_test.rego")

// Names of the files that the package tells apart.
const (
	// DataPath is the one JSON file: the root of the document `data`.
	DataPath   = "policies/data.json"
	regoSuffix = ".rego"
	testSuffix = "_test.rego"
)
