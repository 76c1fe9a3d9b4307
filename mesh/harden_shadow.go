package mesh

import (
	"fmt"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
)

// shadow is the shadow mode of an ext_authz filter of l: that of the file, or
// the one that proxy.yaml asks for. The guardrail SHADOW_MODE then wants a
// waiver.
func (h *hardener) shadow(l *listenerv3.Listener, inFile bool) bool {
	on := inFile || h.reports[l.GetName()]
	h.shadows[on] = true
	return on
}

// oneMode refuses a listener that only reports in one place and denies in
// another: its waiver, its records and its status speak of the whole listener.
func (h *hardener) oneMode(l *listenerv3.Listener, open bool) error {
	switch {
	case open && h.reports[l.GetName()]:
		return fmt.Errorf("it cannot be report_only: a waiver of %s leaves it without the filter that would ask", ruleListenerOpen)
	case h.shadows[true] && h.shadows[false]:
		return fmt.Errorf("shadow_mode is set in some of its ext_authz filters and not in others, so that it would only report here and deny there; write report_only: true for the listener in %s, or take shadow_mode out", h.file)
	}
	return nil
}
