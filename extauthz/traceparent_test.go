package extauthz

import (
	"context"
	"math/rand/v2"
	"testing"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// TestTraceparentIsReadAsOpenTelemetryDoes: what stands in records of a server
// that exports nothing is what it would be in the spans of one that does.
func TestTraceparentIsReadAsOpenTelemetryDoes(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 10))
	const honest, alphabet = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "0123456789abcdefABF-g "
	valid := 0
	for i := range 200_000 {
		text := []byte(honest)
		for range random.IntN(3) {
			text[random.IntN(len(text))] = alphabet[random.IntN(len(alphabet))]
		}
		switch random.IntN(8) {
		case 0:
			text = text[:random.IntN(len(text)+1)]
		case 1:
			text = append(text, "-more"[:random.IntN(6)]...)
		case 2:
			copy(text[3:], "00000000000000000000000000000000")
		case 3:
			copy(text[36:], "0000000000000000")
		case 4:
			copy(text, "fe")
		}
		want := trace.SpanContextFromContext(w3c.Extract(context.Background(), propagation.MapCarrier{traceparent: string(text)}))
		traceID, parentID, ok := parseTraceparent(string(text))
		if ok != want.IsValid() || ok && (traceID != want.TraceID().String() || parentID != want.SpanID().String()) {
			t.Fatalf("%d: %q: %q %q %v, OpenTelemetry has %q %q %v", i, text, traceID, parentID, ok, want.TraceID(), want.SpanID(), want.IsValid())
		}
		if ok {
			valid++
		}
	}
	if valid < 1000 {
		t.Errorf("only %d were valid", valid)
	}
}
