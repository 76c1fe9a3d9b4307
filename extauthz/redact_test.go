package extauthz

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"meshseal/request"
	"meshseal/request/requesttest"
)

// documents is how many requests are compared; DOCUMENTS sets another number.
const documents = 10_000

// TestShownAsDecoded: what a record shows of a request is the same whether its
// bytes were read or it was decoded.
func TestShownAsDecoded(t *testing.T) {
	n, direct := documents, 0
	if text := os.Getenv("DOCUMENTS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	random := rand.New(rand.NewPCG(5, 6))
	for range n {
		m := requesttest.Random(random)
		wire, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if sameShown(t, m, wire) {
			direct++
		}
	}
	if direct < n/100 {
		t.Errorf("only %d of %d were read without decoding", direct, n)
	}
	t.Logf("%d of %d were read without decoding", direct, n)
}

// sameShown compares the two ways, where both can be gone.
func sameShown(t *testing.T, m *authv3.CheckRequest, wire []byte) bool {
	t.Helper()
	var r request.Request
	if err := r.Read(wire); err != nil {
		t.Fatal(err)
	}
	f := Facts{SPIFFEID: "spiffe://shop.test/web", EvidenceAgreed: []string{"jwt-svid"}, Route: "<r>"}
	var c check
	f.tell(&c.told)
	secret := secrets([]string{"x-token"})
	input, erased, ok := r.AppendDocument([]byte("before"), nil, request.DocumentOptions{Secret: secret, Meshseal: appendTold(nil, &c.told)})
	if !ok {
		if string(input) != "before" {
			t.Fatalf("%q was appended", input)
		}
		return false
	}
	var decoded request.Request
	decoded.From(m)
	want, pointers, err := redact(proto.CloneOf(decoded.Message()), c.told, secret)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(asJSON(t, want), asJSON(t, input[len("before"):])); diff != "" {
		t.Fatalf("decoded (-), read (+):\n%s", diff)
	}
	var got []string
	if err := json.Unmarshal(erased, &got); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	slices.Sort(pointers)
	if !slices.Equal(got, pointers) {
		t.Fatalf("erased, decoded %q, read %q", pointers, got)
	}
	return true
}

func asJSON(t *testing.T, text []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}
