package guard_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"

	"meshseal/guard"
	"meshseal/guard/guardtest"
	"meshseal/identity"
	"meshseal/snapshot"
)

// FuzzValidate: whatever a sender puts in the place of a resource of an update,
// it is refused with a rule's code, or it is a resource that was sealed; and a
// refusal leaves a guard that goes on with what it had.
func FuzzValidate(f *testing.F) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	key, stranger := fixedKey(f, "guard"), fixedKey(f, "stranger")
	cluster := &clusterv3.Cluster{Name: "app", AltStatName: "app"}
	listener := &listenerv3.Listener{Name: "in"}
	known := map[string]bool{} // what was sealed, by type, name and hash
	update := func(sequence uint64, signer snapshot.Signer, resources ...proto.Message) []guard.Resource {
		sealed := guardtest.Seal(f, guardtest.Options{Issued: now, Sequence: sequence, Signers: []snapshot.Signer{signer}, Resources: resources})
		all := append(sealed.Carriers(f), sealed.Of(snapshot.ClusterType)...)
		if signer == key && sequence > 1 {
			for _, m := range append(all, sealed.Of(snapshot.ListenerType)...) {
				known[described(f, m)] = true
			}
		}
		return guardtest.Wrap(f, all...)
	}
	current := update(2, key, cluster, listener)
	next := update(3, key, &clusterv3.Cluster{Name: "app", AltStatName: "other"}, listener)
	in := guardtest.Wrap(f, listener)
	types := guard.TypeURLs()

	f.Add(uint8(0), uint8(0), "app", current[2].Body, "", "", []byte(nil))
	f.Add(uint8(2), uint8(0), "in", in[0].Body, "gone", "", []byte(nil))
	f.Add(uint8(0), uint8(4), "app", []byte(nil), "app", "", []byte(nil))
	for i, u := range [][]guard.Resource{current, next, update(1, key, cluster), update(9, stranger, cluster)} {
		f.Add(uint8(0), uint8(i), u[0].Name, u[0].Body, "", u[1].Name, u[1].Body)
		f.Add(uint8(0), uint8(0), u[0].Name, u[0].Body, "in", u[1].Name, u[1].Body)
	}
	f.Fuzz(func(t *testing.T, at, flags uint8, name string, body []byte, removed, second string, secondBody []byte) {
		g := open(t, key, now)
		if err := g.Validate(snapshot.ClusterType, current, nil); err != nil {
			t.Fatal(err)
		}
		url := types[int(at)%len(types)]
		added := []guard.Resource{{Name: name, Body: body, HasTTL: flags&1 != 0, Aliases: int(flags & 2), HasBody: flags&4 == 0}}
		if second != "" {
			added = append(added, guard.Resource{Name: second, Body: secondBody, HasBody: true})
		}
		var gone []string
		if removed != "" {
			gone = append(gone, removed)
		}
		err := g.Validate(url, added, gone)
		if err == nil {
			for _, r := range added {
				wasSealed(t, known, url, r)
			}
			return
		}
		var refusal *guard.Refusal
		if !errors.As(err, &refusal) || refusal.Code == "" || refusal.Code == guard.CodeInternal || len(err.Error()) > 4096 {
			t.Fatalf("refused with %v", err)
		}
		if err := g.Validate(snapshot.ListenerType, in, nil); err != nil {
			t.Fatalf("after a refusal: %v", err)
		}
		if err := g.Validate(snapshot.ClusterType, next, nil); err != nil {
			t.Fatalf("after a refusal the next snapshot is refused: %v", err)
		}
	})
}

// wasSealed fails where an accepted resource is neither sealed nor a part of a
// seal.
func wasSealed(t *testing.T, known map[string]bool, url snapshot.TypeURL, r guard.Resource) {
	t.Helper()
	var m proto.Message = &clusterv3.Cluster{}
	if url == snapshot.ListenerType {
		m = &listenerv3.Listener{}
	}
	if err := proto.Unmarshal(r.Body, m); err != nil {
		t.Fatal(err)
	}
	if guardtest.NameOf(m) != r.Name || !known[described(t, m)] || guardtest.TypeOf(m) != url || !r.HasBody || r.HasTTL || r.Aliases != 0 {
		t.Fatalf("accepted as %s: %q %x", url, r.Name, r.Body)
	}
}

// described is type, name and hash.
func described(t testing.TB, m proto.Message) string {
	data, err := snapshot.Canonical(m)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(guardtest.TypeOf(m), " ", guardtest.NameOf(m), " ", identity.SumDigest(data))
}

// fixedKey is the same key in every process of a fuzzing run, so that what one
// of them has signed counts for the others.
func fixedKey(t testing.TB, name string) *snapshot.PrivateKey {
	seed := identity.SumDigest([]byte(name))
	der, err := x509.MarshalPKCS8PrivateKey(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	k, err := snapshot.ParsePrivateKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return k
}
