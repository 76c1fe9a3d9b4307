package request_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"testing"

	"meshseal/request"
)

// TestAppendString: as encoding/json, but for the control characters that it
// leaves as they are.
func TestAppendString(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	alphabet := []rune("aZ09 /?=~\x00\x1f\x20\"\\<>&'{}\x7e\t\n\r\b\fé\u00a0\u2027\u2028\u2029\u202a\ufffd\U0001f600")
	check := func(s string) {
		t.Helper()
		want, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := request.AppendString([]byte("x"), s); string(got) != "x"+string(want) {
			t.Fatalf("%q: %s, wanted x%s", s, got, want)
		}
	}
	for range 50_000 {
		s := make([]rune, random.IntN(20))
		for i := range s {
			s[i] = alphabet[random.IntN(len(alphabet))]
		}
		check(string(s))
	}
	for c := range 0x7f {
		check(string(rune(c)))
		check("abcdefg" + string(rune(c)))
		check(string(rune(c)) + "abcdefgh")
	}
	for range 50_000 { // bytes that are not UTF-8 too
		s := make([]byte, random.IntN(20))
		for i := range s {
			s[i] = byte(random.IntN(256))
		}
		if bytes.ContainsAny(s, "\x7f") || bytes.Contains(s, []byte{0xc2}) {
			continue
		}
		check(string(s))
	}
	for text, want := range map[string]string{"a\x7fb": `"a\u007fb"`, "abcdefg\x7f": `"abcdefg\u007f"`, "\u0080": `"\u0080"`, "x\u009fy": `"x\u009fy"`} {
		if got := string(request.AppendString(nil, text)); got != want {
			t.Errorf("%q: %s, wanted %s", text, got, want)
		}
	}
}
