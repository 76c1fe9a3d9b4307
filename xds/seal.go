package xds

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"meshseal/snapshot"
)

// guardOf is what a node says of a guard: "v1", or nothing.
func guardOf(said *corev3.Node) string {
	ours := said.GetMetadata().GetFields()["meshseal"].GetStructValue()
	return plain(ours.GetFields()["guard"].GetStringValue(), maxShown)
}

func isCarrier(t snapshot.TypeURL, name string) bool {
	return t == snapshot.ClusterType && snapshot.IsCarrier(name)
}

// sealed reports whether the client has both carriers of the view in force, or
// they are on their way to it.
func (st *stream) sealed() bool {
	return st.seal() != ""
}

// seal is what the client said about the carriers of the view in force. It is
// empty where one of them was not sent on this stream, and the client did not
// come back with it.
func (st *stream) seal() State {
	sub, set := st.subs[snapshot.ClusterType], st.caller.proxy.delta(snapshot.ClusterType)
	state := Synced
	for _, name := range []string{snapshot.StatementCluster, snapshot.SealCluster} {
		e, c := sub.entries[name], set.get(name)
		switch {
		case e == nil || e.version != c.version:
			return ""
		case e.state == stateNacked:
			state = worst(state, Mixed)
		case e.state == stateSent:
			state = worst(state, Pending)
		}
	}
	return state
}

// early reports whether a type has to wait because the client's guard would
// have to judge it by a seal that it does not have.
func (st *stream) early(t snapshot.TypeURL) bool {
	return st.node.Guard != "" && t != snapshot.ClusterType && !st.sealed()
}

// fromGuard reports whether a NACK is the guard's. What Envoy itself rejects is
// bad for as long as its bytes are the same; what the guard refuses, it refuses
// by its clock, by what it accepted before and by the statement it has.
func fromGuard(text string) bool {
	return strings.Contains(text, "meshseal-guard") ||
		names(text, snapshot.StatementCluster) || names(text, snapshot.SealCluster)
}
