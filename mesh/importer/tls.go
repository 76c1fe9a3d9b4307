package importer

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"meshseal/snapshot"
)

// The names under which a SPIFFE agent serves a workload's certificate and the
// trust bundle.
const (
	certificateSecret = "default"
	bundleSecret      = "ROOTCA"
)

// secretFrom is one secret of the SPIFFE agent.
func (j *job) secretFrom(name string) string {
	return fmt.Sprintf(`{name: %s, sds_config: {resource_api_version: V3, api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: %s}}]}}}`,
		name, quote(j.sds))
}

// sdsCluster is the cluster that serves secrets over gRPC in the source, if
// there is just one; it becomes the mesh's.
func (j *job) sdsCluster() string {
	names := map[string]*yaml.Node{}
	for _, r := range j.all {
		for _, m := range r.messages {
			if m.name == sdsConfig {
				if n := agentOf(m.node); n != nil {
					names[n.Value] = n
				}
			}
		}
	}
	if len(names) != 1 {
		return snapshot.DefaultSDSCluster
	}
	name := sorted(names)[0]
	j.decide(CodeIdentity, names[name], fmt.Sprintf("cluster %q", name), "it serves the certificates, and sds_cluster of meshseal.yaml names it",
		"make sure that it leads to the SPIFFE agent: `meshseal bootstrap --sds` gives its socket")
	return name
}

// agentOf is the name of the cluster that a secret comes from over gRPC.
func agentOf(secret *yaml.Node) *yaml.Node {
	services := items(at(secret, "sds_config", "api_config_source", "grpc_services"))
	if len(services) != 1 {
		return nil
	}
	return at(services[0], "envoy_grpc", "cluster_name")
}

// served: the secret comes from the SPIFFE agent.
func (j *job) served(secret *yaml.Node) bool {
	n := agentOf(secret)
	return n != nil && n.Value == j.sds
}

// certificate fields of a CommonTlsContext that are not the agent's.
var certificateFields = []string{
	"tls_certificates", "tls_certificate_sds_secret_configs", "tls_certificate_provider_instance", "tls_certificate_certificate_provider",
	"tls_certificate_certificate_provider_instance", "custom_tls_certificate_selector",
}

// certificate has the context take its certificate from the SPIFFE agent, and
// reports whether it took one from elsewhere.
func (j *job) certificate(common *yaml.Node) (changed bool) {
	from := items(child(common, "tls_certificate_sds_secret_configs"))
	if len(from) > 0 && !slices.ContainsFunc(from, func(s *yaml.Node) bool { return !j.served(s) }) {
		return len(drop(common, "tls_certificates")) > 0
	}
	changed = len(drop(common, certificateFields...)) > 0
	put(common, "tls_certificate_sds_secret_configs", fragment("[%s]", j.secretFrom(certificateSecret)))
	return changed
}

// contextOf is the TLS context of a transport socket, and its
// common_tls_context; nil for another transport socket.
func contextOf(socket *yaml.Node, kind string) (context, common *yaml.Node) {
	context = child(socket, "typed_config")
	if strings.TrimPrefix(text(context, typeURL), anyPrefix) != kind {
		return nil, nil
	}
	if common = child(context, "common_tls_context"); common == nil {
		common = fragment("{}")
		put(context, "common_tls_context", common)
	}
	return context, common
}

// plain: the transport socket does not encrypt.
func plain(socket *yaml.Node) bool {
	kind := text(socket, "typed_config", typeURL)
	return socket == nil || strings.HasSuffix(kind, ".RawBuffer")
}

// downstream has a chain of an inbound listener take mTLS with the identity
// that the SPIFFE agent gives, and one of an outbound listener no keys from
// files.
func (j *job) downstream(l *resource, chain *yaml.Node) {
	socket := child(chain, "transport_socket")
	context, common := contextOf(socket, downstreamTLS)
	switch {
	case l.direction == outbound && context != nil:
		if j.certificate(common) {
			j.change(l, CodeSDS, socket, "its certificate comes from the SPIFFE agent; the file or text that it came from is not taken over", "")
		}
		return
	case l.direction == outbound:
		return
	case plain(socket):
		j.change(l, CodeMTLS, chain, "it took connections without TLS and takes mTLS now: the certificate comes from the SPIFFE agent, and each caller has to show one",
			j.callersDo(l))
		put(chain, "transport_socket", j.downstreamSocket(alpn(chain)))
		return
	case context == nil:
		return // a guardrail speaks about it
	}
	if j.certificate(common) {
		j.change(l, CodeSDS, socket, "its certificate comes from the SPIFFE agent; the file or text that it came from is not taken over", "")
	}
	if !truth(text(context, "require_client_certificate")) {
		j.change(l, CodeCallers, socket, "each caller has to show a certificate of the SPIFFE agent", j.callersDo(l))
		put(context, "require_client_certificate", fragment("true"))
	}
	j.callers(l, socket, common)
	if names := drop(context, "session_ticket_keys", "session_ticket_keys_sds_secret_config"); len(names) > 0 {
		j.change(l, CodeSDS, socket, strings.Join(names, ", ")+" is not taken over: it is a key", "")
	}
	if policy := text(context, "ocsp_staple_policy"); policy != "" {
		drop(context, "ocsp_staple_policy")
		j.change(l, CodeTLS, socket, "ocsp_staple_policy is gone: an SVID is short-lived and has no OCSP response", "")
	}
	j.least(common)
}

func (j *job) callersDo(l *resource) string {
	return fmt.Sprintf("let callers come through an Envoy of the mesh; where a listener has to serve who has no SVID, have a waiver of LISTENER_OPEN for %q reviewed", l.name)
}

// alpn is what a chain that serves HTTP offers.
func alpn(chain *yaml.Node) string {
	for _, f := range items(child(chain, "filters")) {
		if strings.HasSuffix(text(f, "typed_config", typeURL), httpManager) {
			return "alpn_protocols: [h2, http/1.1], "
		}
	}
	return ""
}

func (j *job) downstreamSocket(alpn string) *yaml.Node {
	n := fragment(`
name: envoy.transport_sockets.tls
typed_config:
  "@type": %s
  require_client_certificate: true
  common_tls_context: {%stls_params: {tls_minimum_protocol_version: TLSv1_2}, tls_certificate_sds_secret_configs: [%s], validation_context_sds_secret_config: %s}
`, anyPrefix+downstreamTLS, alpn, j.secretFrom(certificateSecret), j.secretFrom(bundleSecret))
	block(n)
	return n
}

// block writes a fragment in block style.
func block(n *yaml.Node) { each(n, func(n *yaml.Node) { n.Style &^= yaml.FlowStyle }) }

// authorities are the fields that say whose certificates are trusted, or that
// trust more than they should.
var authorities = []string{
	"trusted_ca", "ca_certificate_provider_instance", "system_root_certs", "watched_directory", "crl", "custom_validator_config",
	"trust_chain_verification", "allow_expired_certificate", "max_verify_depth", "only_verify_leaf_cert_crl",
}

// callers has the callers' certificates verified by the trust bundle. What the
// source demands of their names stays.
func (j *job) callers(l *resource, socket, common *yaml.Node) {
	if j.served(child(common, "validation_context_sds_secret_config")) ||
		j.served(at(common, "combined_validation_context", "validation_context_sds_secret_config")) {
		return
	}
	rest := child(common, "validation_context")
	if c := at(common, "combined_validation_context", "default_validation_context"); c != nil {
		rest = c
	}
	if rest == nil {
		rest = clone(at(j.secret(child(common, "validation_context_sds_secret_config")), "validation_context"))
	}
	dropped := drop(common, "validation_context", "combined_validation_context", "validation_context_sds_secret_config",
		"validation_context_certificate_provider", "validation_context_certificate_provider_instance")
	bundle := fragment("%s", j.secretFrom(bundleSecret))
	drop(rest, authorities...)
	if rest != nil && len(rest.Content) > 0 {
		both := fragment("{}")
		both.Content = []*yaml.Node{scalar("default_validation_context"), rest, scalar("validation_context_sds_secret_config"), bundle}
		put(common, "combined_validation_context", both)
	} else {
		put(common, "validation_context_sds_secret_config", bundle)
	}
	if len(dropped) > 0 {
		j.change(l, CodeSDS, socket, "callers are verified by the trust bundle of the SPIFFE agent, not by the authority of the source", "say in the policy who of the mesh may come in here")
	}
}

// secret is the static secret that a configuration without a source names.
func (j *job) secret(config *yaml.Node) *yaml.Node {
	if child(config, "sds_config") != nil {
		return nil
	}
	return j.secrets[text(config, "name")]
}

// least writes the least version of TLS, where there is none.
func (j *job) least(common *yaml.Node) {
	if child(common, "tls_params") == nil {
		put(common, "tls_params", fragment("{tls_minimum_protocol_version: TLSv1_2}"))
	}
}

// tlsVersion raises a version below 1.2.
func (j *job) tlsVersion(r *resource, params *yaml.Node) {
	for _, key := range []string{"tls_minimum_protocol_version", "tls_maximum_protocol_version"} {
		n := child(params, key)
		if n == nil || !slices.Contains([]string{"TLSV1_0", "TLSV1_1", "1", "2"}, strings.ToUpper(n.Value)) {
			continue
		}
		j.change(r, CodeTLS, n, fmt.Sprintf("%s is TLS 1.2, not %s", key, n.Value), "")
		n.SetString("TLSv1_2")
	}
}
