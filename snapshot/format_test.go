package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"meshseal/identity"
)

// The encoding is held still: the same content has had these bytes since
// format v1. A value that changes here, by an edit or by a new version of a
// library, breaks every snapshot that was ever signed.
func TestGolden(t *testing.T) {
	d := build(t, shop(t), testCommit)
	const root = "sha256:39ad4b0075202874e6ca7395f704146f96cbfb1b7393ade3a1b54a995956c7f4"
	const file = "sha256:a448de7a1e512b9114915ec91ebc159d8ca4f2306b5bd5cccc44f12ed1da26b2"
	if got := d.Root().String(); got != root {
		t.Errorf("root %s, was %s", got, root)
	}
	if got := identity.SumDigest(d.Bytes()).String(); got != file {
		t.Errorf("file %s, was %s", got, file)
	}
	data, err := Canonical(manyMaps())
	if err != nil {
		t.Fatal(err)
	}
	const resource = "sha256:69849b7800614522c20f453e6df721e7c673ec02601780cfc0f59a71bcea1c9e"
	if got := identity.SumDigest(data).String(); got != resource {
		t.Errorf("canonical bytes of a cluster %s, were %s", got, resource)
	}
	for kind, want := range map[MarkKind]string{ListenerMark: "ujhdyevkw4tqpakehnnwn6twha", RouteMark: "g5zlxddpmdaq4eqd3icdadpuei", ClusterMark: "3u4s2gosfztm3uvqjdfb45rm5e"} {
		if got := Mark(kind, RouteScope("table", "host"), data); got != want {
			t.Errorf("mark of a %s %s, was %s", kind, got, want)
		}
	}
}

// manyMaps is a cluster whose maps have an order to lose.
func manyMaps() *clusterv3.Cluster {
	fields := map[string]*structpb.Value{}
	typed := map[string]*anypb.Any{}
	for _, k := range strings.Split("abcdefghijklmnopqrstuvwxyz", "") {
		fields[k] = structpb.NewStringValue(k)
		typed[k] = &anypb.Any{TypeUrl: "type.googleapis.com/google.protobuf.Value", Value: []byte{0x1a, 1, k[0]}}
	}
	return &clusterv3.Cluster{Name: "many", Metadata: &corev3.Metadata{
		FilterMetadata:      map[string]*structpb.Struct{"b": {Fields: fields}, "a": {Fields: fields}},
		TypedFilterMetadata: typed,
	}}
}

func TestCanonicalBytesStayThroughDecoding(t *testing.T) {
	for _, m := range []proto.Message{
		manyMaps(),
		&listenerv3.Listener{Name: "l", Metadata: manyMaps().Metadata, StatPrefix: "s"},
		&routev3.RouteConfiguration{Name: "r", TypedPerFilterConfig: manyMaps().Metadata.TypedFilterMetadata},
		&endpointv3.ClusterLoadAssignment{ClusterName: "e", NamedEndpoints: map[string]*endpointv3.Endpoint{"z": {Hostname: "z"}, "a": {Hostname: "a"}, "m": {}}},
	} {
		first, err := Canonical(m)
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			again := m.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(first, again); err != nil {
				t.Fatal(err)
			}
			second, err := Canonical(again)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(first, second) {
				t.Fatalf("%T changes by decoding and encoding", m)
			}
		}
	}
}

// An Any inside is kept to the byte, odd order and unknown fields included.
func TestCanonicalKeepsNestedAny(t *testing.T) {
	odd := []byte{0x12, 1, 'b', 0x0a, 1, 'a', 0xfa, 0x7f, 1, 'u'}
	m := &clusterv3.Cluster{Name: "c", TypedExtensionProtocolOptions: map[string]*anypb.Any{
		"x": {TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster", Value: odd},
	}}
	data, err := Canonical(m)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, odd) {
		t.Errorf("%x does not hold %x", data, odd)
	}
}

func TestMarks(t *testing.T) {
	seen := map[string]string{}
	for _, kind := range []MarkKind{ListenerMark, RouteMark, ClusterMark} {
		for _, scope := range []string{"", RouteScope("a", "bc"), RouteScope("ab", "c"), RouteScope("", ""), RouteScope("a/b", "c"), RouteScope("a", "b/c")} {
			for _, data := range []string{"", "x", "y"} {
				m := Mark(kind, scope, []byte(data))
				if !IsMark(m) {
					t.Errorf("%q does not have the form of a mark", m)
				}
				what := string(kind) + scope + data
				if other, ok := seen[m]; ok {
					t.Errorf("%q and %q have one mark", what, other)
				}
				seen[m] = what
			}
		}
	}
	for _, s := range []string{"", "a", strings.Repeat("a", 25), strings.Repeat("a", 27), strings.Repeat("A", 26), strings.Repeat("1", 26), strings.Repeat("é", 13)} {
		if IsMark(s) {
			t.Errorf("%q counts as a mark", s)
		}
	}
}

// Everything below writes the file as docs/snapshot.md says, by other means
// than the package's own.

func str(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch v := p.(type) {
		case string:
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
		case []byte:
			b = append(b, v...)
		case Digest:
			b = append(b, v[:]...)
		case int: // a count
			b = binary.BigEndian.AppendUint32(b, uint32(v))
		case uint64:
			b = binary.BigEndian.AppendUint64(b, v)
		}
	}
	return b
}

// merkle is MTH of RFC 6962 section 2.1.
func merkle(leaves [][]byte) []byte {
	h := sha256.New()
	if len(leaves) == 1 {
		h.Write([]byte{0})
		h.Write(leaves[0])
		return h.Sum(nil)
	}
	k := 1
	for k*2 < len(leaves) {
		k *= 2
	}
	h.Write([]byte{1})
	h.Write(merkle(leaves[:k]))
	h.Write(merkle(leaves[k:]))
	return h.Sum(nil)
}

func specified(t *testing.T) (leaves [][]byte, resources map[Digest]string) {
	cluster, in, out := "\x0a\x06orders", "\x0a\x02in", "\x0a\x03out"
	hash := func(s string) Digest { return sha256.Sum256([]byte(s)) }
	two := func(a, b Digest) []byte {
		if a.Compare(b) > 0 {
			a, b = b, a
		}
		return str(a, b)
	}
	sets := [][]byte{str(1, image("web-1")), str(1, image("web-2"))}
	slices.SortFunc(sets, bytes.Compare)
	return [][]byte{
		str("mesh", "shop", string(str("v1", 1, "shop.test", uint64(86400000), uint64(60000), "envoy/authz/allow", "meshseal-sds"))),
		str("policy", "policies/allow.rego", "package envoy.authz\n\ndefault allow := false\n"),
		str("policy", "policies/data.json", "{}\n"),
		str("proxy", "orders", string(str("spiffe://shop.test/orders", "orders", 2,
			[]byte{1}, "orders", hash(cluster), []byte{3}, "in", hash(in)))),
		str("proxy", "web", string(str("spiffe://shop.test/web", "web", 3,
			[]byte{1}, "orders", hash(cluster), []byte{3}, "out", hash(out), []byte{4}, "out", hash(out)))),
		str("waiver", "OPEN_LISTENER\x00web\x00health", string(str("probes", uint64(now.Unix()+86400)))),
		str("workload", "orders", string(str("spiffe://shop.test/orders", 1, 2, two(image("orders"), image("envoy")), 0))),
		str("workload", "web", string(str("spiffe://shop.test/web", 2, sets[0], sets[1], 1, image("web-0")))),
	}, map[Digest]string{hash(cluster): cluster, hash(in): in, hash(out): out}
}

func TestTheFileIsAsSpecified(t *testing.T) {
	leaves, resources := specified(t)
	root := Digest(merkle(leaves))
	statement := `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"shop","digest":{"sha256":"` + root.Hex() + `"}}],` +
		`"predicateType":"urn:meshseal:snapshot:v1","predicate":{"format":"v1","mesh":"shop","repository":"shop",` +
		`"commit":"0123456789abcdef0123456789abcdef01234567","commitTime":"2031-05-04T02:02:01Z","sequence":7,"treeSize":8}}`
	envelope := `{"payloadType":"application/vnd.in-toto+json","payload":"` + base64.StdEncoding.EncodeToString([]byte(statement)) + `","signatures":[]}`
	file := str([]byte("meshseal snapshot v1\n"), envelope, len(leaves))
	for _, l := range leaves {
		file = append(file, str(string(l))...)
	}
	file = append(file, str(len(resources))...)
	var hashes []Digest
	for h := range resources {
		hashes = append(hashes, h)
	}
	slices.SortFunc(hashes, Digest.Compare)
	for _, h := range hashes {
		file = append(file, str(resources[h])...)
	}
	d := build(t, shop(t), testCommit)
	if d.Root() != root {
		t.Errorf("root %s, by the specification %s", d.Root(), root)
	}
	if !bytes.Equal(d.Bytes(), file) {
		t.Errorf("the file is\n%q\nby the specification\n%q", d.Bytes(), file)
	}
	if _, err := Parse(file); err != nil {
		t.Error(err)
	}
}

// What is signed is an in-toto Statement v1, and the envelope is DSSE.
func TestStatementIsInToto(t *testing.T) {
	k := newKey(t, ECDSAP256)
	d := signed(t, build(t, shop(t), testCommit), k)
	var st intoto.Statement
	if err := protojson.Unmarshal(d.envelope.payload, &st); err != nil {
		t.Fatal(err)
	}
	if err := st.Validate(); err != nil {
		t.Error(err)
	}
	if got := st.GetSubject()[0].GetDigest()["sha256"]; got != d.Root().Hex() {
		t.Errorf("subject %s, root %s", got, d.Root())
	}
	if st.GetPredicate().GetFields()["issued"].GetStringValue() != "2031-05-04T03:02:01Z" ||
		st.GetPredicate().GetFields()["expires"].GetStringValue() != "2031-05-05T03:02:01Z" {
		t.Errorf("predicate %v", st.GetPredicate())
	}
	var env struct {
		PayloadType string
		Payload     []byte
		Signatures  []struct {
			KeyID string
			Sig   []byte
		}
	}
	if err := json.Unmarshal(d.envelope.raw, &env); err != nil {
		t.Fatal(err)
	}
	pae := "DSSEv1 28 application/vnd.in-toto+json " + jsonInt(len(env.Payload)) + " " + string(env.Payload)
	if env.PayloadType != PayloadType || !k.Public().verify([]byte(pae), env.Signatures[0].Sig) {
		t.Error("the signature is not over DSSE's pre-authentication encoding")
	}
}

func jsonInt(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}

// The parts that come to an Envoy, written by the documentation alone: protobuf
// by hand, a tag and a length before each field.
func TestCarriersAreAsSpecified(t *testing.T) {
	field := func(tag []byte, value []byte) []byte {
		out := binary.AppendUvarint(slices.Clone(tag), uint64(len(value)))
		return append(out, value...)
	}
	s, _ := sealedShop(t)
	seal, err := s.Seal("web")
	if err != nil {
		t.Fatal(err)
	}
	carriers, err := seal.Carriers()
	if err != nil {
		t.Fatal(err)
	}
	parts := []struct {
		name string
		data []byte
	}{{"meshseal-statement", seal.Statement}, {"meshseal-seal", seal.List}}
	if len(carriers) != len(parts) {
		t.Fatalf("%d carriers", len(carriers))
	}
	for i, part := range parts {
		value := field([]byte{1<<3 | 2}, part.data)
		payload := append(field([]byte{1<<3 | 2}, []byte("type.googleapis.com/google.protobuf.BytesValue")), field([]byte{2<<3 | 2}, value)...)
		entry := append(field([]byte{1<<3 | 2}, []byte("meshseal")), field([]byte{2<<3 | 2}, payload)...)
		cluster := slices.Concat(
			field([]byte{1<<3 | 2}, []byte(part.name)),
			[]byte{4<<3 | 2, 2, 1 << 3, 1}, // connect_timeout: seconds 1
			field([]byte{25<<3&0x7f | 2 | 0x80, 25 >> 4}, field([]byte{2<<3 | 2}, entry)),
			[]byte{2 << 3, 0}, // type: STATIC
		)
		if c := carriers[i]; c.Name != part.name || !bytes.Equal(c.Body, cluster) {
			t.Errorf("%s is\n%q\nby the specification\n%q", c.Name, c.Body, cluster)
		}
	}
}

func TestDeclaredKeysAreAsSpecified(t *testing.T) {
	a, b, c := newKey(t, Ed25519), newKey(t, ECDSAP256), newKey(t, Ed25519)
	ders := [][]byte{b.public.der, c.public.der}
	slices.SortFunc(ders, func(x, y []byte) int {
		hx, hy := sha256.Sum256(x), sha256.Sum256(y)
		return bytes.Compare(hx[:], hy[:])
	})
	declared := trust(t, 2, b, c)
	encoded := slices.Concat([]byte("meshseal trust v1\n\x00\x00\x00\x02\x00\x00\x00\x02"), str(string(ders[0]), string(ders[1])))
	if want := Digest(sha256.Sum256(encoded)); declared.ID() != want {
		t.Errorf("the set is named %s, by the specification %s", declared.ID(), want)
	}
	text := string(draftAt(t, 7, "", now, declared, a).envelope.payload)
	want := `,"issued":"2031-05-04T03:02:01Z","expires":"2031-05-05T03:02:01Z","keys":{"threshold":2,"keys":["` +
		base64.StdEncoding.EncodeToString(ders[0]) + `","` + base64.StdEncoding.EncodeToString(ders[1]) + `"]}}}`
	if !strings.HasSuffix(text, want) {
		t.Errorf("the statement is %s, by the specification it ends with %s", text, want)
	}
}
