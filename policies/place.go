package policies

import (
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Place is where something stands in a mesh repository. Line and column count
// from 1, columns in characters; 0 means that only what is before is known.
type Place struct {
	File         string // slash-separated, relative to the repository
	Line, Column int
}

// IsZero says that nothing is known of the place.
func (p Place) IsZero() bool { return p == Place{} }

// String writes the place as a compiler does: file:line:column.
func (p Place) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Column == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// FileError is what is wrong at one place of a mesh repository. Several of
// them come joined, as by errors.Join.
type FileError struct {
	At     Place
	Err    error
	Detail string // what follows in further lines: an excerpt, a hint; or ""
}

// Error is place, fault and detail.
func (e *FileError) Error() string { return fmt.Sprintf("%s: %v%s", e.At, e.Err, e.Detail) }

// Unwrap is the fault without its place.
func (e *FileError) Unwrap() error { return e.Err }

func placeOf(l *ast.Location) Place {
	if l == nil {
		return Place{File: "policies"}
	}
	return Place{File: l.File, Line: l.Row}
}

// at is where something in a Rego file stands, as text.
func at(l *ast.Location) string { return placeOf(l).String() }
