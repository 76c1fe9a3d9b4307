package mesh

import "fmt"

// String is the notice on one line, as a compiler writes a warning.
func (n Notice) String() string {
	return fmt.Sprintf("%s: %s: %s", position{n.File, n.Line, n.Column}, n.Code, n.Text)
}
