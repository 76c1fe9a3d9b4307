package snapshot

import (
	"cmp"
	"fmt"
)

// DecidedBy is the rule that decides what a proxy asks that fronts w, as
// PolicyPath names one: w's own, or else the mesh's. A proxy that fronts no
// workload is decided about by that of the zero Workload, which is the mesh's.
func (m Mesh) DecidedBy(w Workload) string { return cmp.Or(w.Policy, m.PolicyPath) }

// encodeEntryPoints returns the leaves of the workloads that have a rule of
// their own. The others have none, so content in which no workload has one
// keeps the leaves that it always had.
func (c Content) encodeEntryPoints() [][]byte {
	var leaves [][]byte
	for _, l := range c.Workloads {
		if l.Policy != "" {
			var w writer
			w.str(l.Policy)
			leaves = append(leaves, encodeLeaf(entryPointLeaf, l.Name, w.b))
		}
	}
	return leaves
}

// readEntryPoints gives the workloads their rules.
func (l *leafReader) readEntryPoints() error {
	if len(l.entryPoints) == 0 {
		return nil
	}
	workloads := make(map[string]*Workload, len(l.c.Workloads))
	for i := range l.c.Workloads {
		workloads[l.c.Workloads[i].Name] = &l.c.Workloads[i]
	}
	for _, e := range l.entryPoints {
		w, ok := workloads[e.name]
		if !ok {
			return fmt.Errorf("%s %q: there is no such workload", entryPointLeaf, clip(e.name))
		}
		r := reader{b: e.body}
		w.Policy = r.str()
		if err := r.done(); err != nil {
			return fmt.Errorf("%s %q: %w", entryPointLeaf, clip(e.name), err)
		}
	}
	return nil
}

func checkPolicy(w Workload) error {
	if w.Policy == "" {
		return nil
	}
	return checkText("policy path", w.Policy, maxName)
}
