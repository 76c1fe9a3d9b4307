package importer

import (
	"fmt"
	"path"
	"slices"

	"go.yaml.in/yaml/v3"
)

// cluster has what leaves this host go to somebody who proves to be who was
// meant.
func (j *job) cluster(c *resource) error {
	if err := j.endpoints(c); err != nil {
		return err
	}
	for _, m := range items(child(c.node, "transport_socket_matches")) {
		j.upstream(c, m)
	}
	if text(c.node, "cluster_type", "typed_config", typeURL) == anyPrefix+"envoy.extensions.clusters.aggregate.v3.ClusterConfig" {
		return nil // it has no connections of its own
	}
	j.upstream(c, c.node)
	return nil
}

// upstream secures the transport socket that owner, a cluster or a match of
// one, has.
func (j *job) upstream(c *resource, owner *yaml.Node) {
	socket := child(owner, "transport_socket")
	context, common := contextOf(socket, upstreamTLS)
	if context == nil {
		if plain(socket) {
			j.secure(c, owner, "it sent plain text to another host")
		}
		return
	}
	if slices.ContainsFunc(certificateFields, func(f string) bool { return child(common, f) != nil }) && j.certificate(common) {
		j.change(c, CodeSDS, socket, "its certificate comes from the SPIFFE agent; the file or text that it came from is not taken over", "")
	}
	j.resolve(c, common)
	validation := child(common, "validation_context")
	if validation == nil {
		validation = at(common, "combined_validation_context", "default_validation_context")
	}
	drop(validation, "trust_chain_verification", "allow_expired_certificate")
	sds := child(common, "validation_context_sds_secret_config") != nil || at(common, "combined_validation_context", "validation_context_sds_secret_config") != nil
	if child(validation, "trusted_ca") == nil && child(validation, "system_root_certs") == nil && !sds {
		if text(context, "sni") == "" || j.Upstreams[c.name] != "" || stays(c.node) {
			j.secure(c, owner, "it took any certificate from another host")
			return
		}
		if validation == nil {
			validation = fragment("{}")
			drop(common, "combined_validation_context")
			put(common, "validation_context", validation)
		}
		put(validation, "system_root_certs", fragment("{}"))
		j.change(c, CodeServer, context, fmt.Sprintf("it took any certificate, and now one that an authority of the host's own list gave to %q", text(context, "sni")),
			fmt.Sprintf("if it is of the mesh, say --upstream %s=SPIFFE-ID", c.name))
	}
	if child(common, "validation_context_sds_secret_config") != nil {
		j.secure(c, owner, "whoever had a certificate of its authority could answer")
		return
	}
	j.serverName(c, context, common)
}

// resolve writes the authority of a static secret, which is public, in its
// place; an authority from elsewhere becomes the SPIFFE agent's.
func (j *job) resolve(c *resource, common *yaml.Node) {
	owner := common
	if combined := child(common, "combined_validation_context"); combined != nil {
		owner = combined
	}
	config := child(owner, "validation_context_sds_secret_config")
	static := clone(child(j.secret(config), "validation_context"))
	switch {
	case static != nil:
		more := child(owner, "default_validation_context")
		for i := 0; more != nil && i+1 < len(more.Content); i += 2 {
			put(static, more.Content[i].Value, more.Content[i+1])
		}
		drop(common, "combined_validation_context", "validation_context_sds_secret_config")
		put(common, "validation_context", static)
		j.change(c, CodeSDS, config, "the authority of the static secret stands in its place", "")
	case config != nil && !j.served(config):
		put(owner, "validation_context_sds_secret_config", fragment("%s", j.secretFrom(bundleSecret)))
		j.change(c, CodeSDS, config, "its peer is verified by the trust bundle of the SPIFFE agent; the source of the secret is not taken over",
			"if it is outside the mesh, write its authority in validation_context.trusted_ca.inline_string")
	}
}

// serverName demands the name that the cluster asks for.
func (j *job) serverName(c *resource, context, common *yaml.Node) {
	validation := child(common, "validation_context")
	sni := text(context, "sni")
	if validation == nil || sni == "" || len(items(child(validation, "match_typed_subject_alt_names"))) > 0 ||
		child(validation, "match_subject_alt_names") != nil || truth(text(context, "auto_sni_san_validation")) ||
		child(validation, "verify_certificate_hash") != nil || child(validation, "verify_certificate_spki") != nil {
		return
	}
	put(validation, "match_typed_subject_alt_names", fragment(`[{san_type: DNS, matcher: {exact: %s}}]`, quote(sni)))
	j.change(c, CodeServer, context, fmt.Sprintf("whoever answers has to prove the name %q, as the connection asks for it", sni), "")
}

// secure makes a connection that leaves this host mTLS to one SPIFFE ID.
func (j *job) secure(c *resource, owner *yaml.Node, why string) {
	id := j.Upstreams[c.name]
	switch {
	case stays(c.node) && id == "":
		return
	case id == Plaintext:
		j.item(Decide, CodePlain, c.node, c.label(), "the connection stays as it is, as --upstream says", "have a waiver reviewed, or say the SPIFFE ID of who answers")
		return
	case id == "":
		name := sanitise(c.name)
		if name == "" {
			name = "upstream"
		}
		id = "spiffe://" + path.Join(j.domain.Name(), name)
		j.decide(CodeUpstream, c.node, c.label(), fmt.Sprintf("%s; now it speaks mTLS, and who answers has to be %s with any digest", why, id),
			fmt.Sprintf("say --upstream %s=SPIFFE-ID, or --upstream %s=%s", c.name, c.name, Plaintext))
	}
	j.change(c, CodeMTLS, owner, fmt.Sprintf("it speaks mTLS to %s", id), "")
	n := fragment(`
name: envoy.transport_sockets.tls
typed_config:
  "@type": %s
  common_tls_context: {tls_params: {tls_minimum_protocol_version: TLSv1_2}, tls_certificate_sds_secret_configs: [%s], combined_validation_context: {default_validation_context: {match_typed_subject_alt_names: [{san_type: URI, matcher: {prefix: %s}}]}, validation_context_sds_secret_config: %s}}
`, anyPrefix+upstreamTLS, j.secretFrom(certificateSecret), quote(id+"/sha256/"), j.secretFrom(bundleSecret))
	block(n)
	put(owner, "transport_socket", n)
}
