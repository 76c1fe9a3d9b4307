package importer

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.yaml.in/yaml/v3"

	"meshseal/identity"
)

// name settles what the mesh, the proxy and their identities are called.
func (j *job) name() error {
	if err := j.named(&j.Proxy, "--proxy", "the proxy", text(j.node, "id"), strings.TrimSuffix(path.Base(j.File), path.Ext(j.File)), "envoy"); err != nil {
		return err
	}
	if err := j.named(&j.Mesh, "--mesh", "the mesh", text(j.node, "cluster"), j.Proxy); err != nil {
		return err
	}
	j.report.Source, j.report.Mesh, j.report.Proxy = j.File, j.Mesh, j.Proxy
	if err := j.trustDomain(); err != nil {
		return err
	}
	guess := fmt.Sprintf("spiffe://%s/%s", j.domain, j.Proxy)
	var err error
	if j.proxyID, err = j.id(j.ProxyID, "--proxy-id", "the proxy's SPIFFE ID", guess); err != nil {
		return err
	}
	if j.workloadID, err = j.id(j.WorkloadID, "--workload-id", "the SPIFFE ID of the workload beside the proxy", j.proxyID.String()); err != nil {
		return err
	}
	j.workload = sanitise(path.Base(j.workloadID.Path()))
	if j.workload == "" {
		j.workload = j.Proxy
	}
	for _, name := range sorted(j.Upstreams) {
		if j.index["Cluster/"+name] == nil {
			return fmt.Errorf("--upstream %s: %s has no such cluster", name, j.File)
		}
		if id := j.Upstreams[name]; id != Plaintext {
			if _, err := identity.ParseBaseID(id); err != nil {
				return fmt.Errorf("--upstream %s: %w, and it is not the word %s either", name, err, Plaintext)
			}
		}
	}
	return nil
}

// named settles a name: the one given, or the first guess that gives one.
func (j *job) named(into *string, flag, what string, guesses ...string) error {
	if *into != "" {
		if sanitise(*into) != *into {
			return fmt.Errorf("%s %q is not a name: 1 to 63 lower-case letters, digits, dots, dashes and underscores, a letter or digit at both ends", flag, *into)
		}
		return nil
	}
	for _, g := range guesses {
		if *into = sanitise(g); *into != "" {
			break
		}
	}
	j.decide(CodeName, j.node, what, fmt.Sprintf("it is called %q", *into), "say "+flag+" if it has another name")
	return nil
}

func (j *job) trustDomain() error {
	guess := j.TrustDomain
	if guess == "" {
		guess = strings.ReplaceAll(j.Mesh, "_", "-") + ".test"
		why := "nothing in the file names one; .test is nobody's"
		if len(j.domains) > 0 {
			if _, err := spiffeid.TrustDomainFromString(j.domains[0]); err == nil {
				guess, why = j.domains[0], "it is in the SPIFFE IDs of the file"
			}
		}
		j.decide(CodeIdentity, nil, "the trust domain", fmt.Sprintf("it is taken to be %q: %s", guess, why), "say --trust-domain")
	}
	var err error
	if j.domain, err = spiffeid.TrustDomainFromString(guess); err != nil || j.domain.Name() != guess {
		return fmt.Errorf("--trust-domain %q: not the bare name of a trust domain (%v)", guess, err)
	}
	return nil
}

func (j *job) id(given, flag, what, guess string) (spiffeid.ID, error) {
	id, err := identity.ParseBaseID(cmp.Or(given, guess))
	switch {
	case err != nil:
		return id, fmt.Errorf("%s: %w", flag, err)
	case id.TrustDomain() != j.domain:
		return id, fmt.Errorf("%s: %s is not in the trust domain %s", flag, id, j.domain)
	case given == "":
		j.decide(CodeIdentity, nil, what, "it is taken to be "+id.String(), "say "+flag+", as the SPIFFE agent issues it")
	}
	return id, nil
}

// Directions of a listener.
const (
	inbound  = "inbound"
	outbound = "outbound"
)

// direct settles which way each listener faces.
func (j *job) direct() error {
	for _, name := range sorted(j.Directions) {
		d := j.Directions[name]
		switch {
		case d != inbound && d != outbound:
			return fmt.Errorf("--direction %s=%s: %q is neither inbound nor outbound", name, d, d)
		case j.index["Listener/"+name] == nil:
			return fmt.Errorf("--direction %s=%s: %s has no listener of this name that can be taken over", name, d, j.File)
		}
	}
	for _, l := range j.of("Listener") {
		why := ""
		if l.direction = j.Directions[l.name]; l.direction == "" {
			l.direction, why = j.guessDirection(l)
		}
		// The build writes the direction that proxy.yaml says.
		drop(l.node, "traffic_direction")
		if why != "" {
			j.decide(CodeDirection, l.node, l.label(), fmt.Sprintf("taken as %s: %s", l.direction, why),
				fmt.Sprintf("say --direction %s=%s or =%s", l.name, inbound, outbound))
		}
	}
	return nil
}

// guessDirection takes a listener for outbound only where it says so, or where
// nobody but this host reaches it, without TLS, and it leads to other hosts.
func (j *job) guessDirection(l *resource) (direction, why string) {
	switch strings.ToUpper(text(l.node, "traffic_direction")) {
	case "INBOUND", "1":
		return inbound, ""
	case "OUTBOUND", "2":
		return outbound, ""
	}
	tls := slices.ContainsFunc(l.messages, func(m *message) bool { return m.name == downstreamTLS })
	if tls || !slices.ContainsFunc(addresses(l.node), local) || slices.ContainsFunc(addresses(l.node), remote) {
		return inbound, "who calls it proves itself by a certificate"
	}
	for _, c := range j.ledTo(l) {
		if !stays(c.node) {
			return outbound, "only this host reaches it, and it leads to others: whoever reaches it speaks as the workload"
		}
	}
	return inbound, "it leads to this host only"
}

// ledTo are the clusters that a listener names.
func (j *job) ledTo(l *resource) []*resource {
	var out []*resource
	seen := map[string]bool{}
	each(l.node, func(n *yaml.Node) {
		if c := j.index["Cluster/"+n.Value]; c != nil && n.Kind == yaml.ScalarNode && !seen[n.Value] {
			seen[n.Value] = true
			out = append(out, c)
		}
	})
	return out
}

// addresses are the addresses that a listener binds.
func addresses(listener *yaml.Node) []*yaml.Node {
	out := []*yaml.Node{child(listener, "address")}
	for _, a := range items(child(listener, "additional_addresses")) {
		out = append(out, child(a, "address"))
	}
	return out
}

// local: only this host reaches the address.
func local(address *yaml.Node) bool {
	if child(address, "pipe") != nil {
		return true
	}
	host := strings.ToLower(text(address, "socket_address", "address"))
	if at(address, "socket_address", "network_namespace_filepath") != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback() && !ip.Is4In6()
}

func remote(address *yaml.Node) bool { return !local(address) }

// stays: all endpoints of a cluster are on this host.
func stays(cluster *yaml.Node) bool {
	n := 0
	all := true
	for _, locality := range items(at(cluster, "load_assignment", "endpoints")) {
		for _, e := range items(child(locality, "lb_endpoints")) {
			n++
			all = all && local(at(e, "endpoint", "address"))
			for _, more := range items(at(e, "endpoint", "additional_addresses")) {
				all = all && local(child(more, "address"))
			}
		}
		if child(locality, "load_balancer_endpoints") != nil || child(locality, "leds_cluster_locality_config") != nil {
			return false
		}
	}
	return n > 0 && all && at(cluster, "load_assignment", "named_endpoints") == nil
}

var shared = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598

// public: the address is every one of the host, or one of the internet, as the
// guardrail ADDRESS_PUBLIC sees it.
func public(address *yaml.Node) bool {
	host := text(address, "socket_address", "address")
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return child(address, "pipe") == nil
	}
	return ip.Is4In6() || ip.IsUnspecified() || !ip.IsPrivate() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() && !shared.Contains(ip)
}
