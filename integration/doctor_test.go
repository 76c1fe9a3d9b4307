package integration

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"testing"

	"meshseal/internal/meshtest"
)

// diagnosis is what `meshseal doctor -o json` writes.
type diagnosis struct {
	Facts    []struct{ Name, Text string }
	Findings []struct{ Code, Level, Field, Text, Mend string }
}

func (g *guarded) doctor(args ...string) (diagnosis, int) {
	g.t.Helper()
	envoy, err := meshtest.EnvoyBinary()
	if err != nil {
		g.t.Fatal(err)
	}
	out, err := meshtest.Meshseal(g.t, append([]string{"doctor", "-o", "json", "--envoy", envoy, g.dir + "/envoy.yaml"}, args...)...).Output()
	code := 0
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		g.t.Fatal(err)
	}
	var d diagnosis
	if err := json.Unmarshal(out, &d); err != nil {
		g.t.Fatalf("exit code %d: %v\n%s", code, err, out)
	}
	return d, code
}

// TestDoctor looks at the real module and the real Envoy, before the Envoy has
// run and after it, and sees what somebody changes.
func TestDoctor(t *testing.T) {
	g := newGuarded(t)
	key := []string{"--key", g.dir + "/key.pub"}
	clean := func(what string) diagnosis {
		t.Helper()
		d, code := g.doctor(key...)
		if code != 0 || len(d.Findings) != 0 {
			t.Fatalf("%s: exit code %d, findings %v", what, code, d.Findings)
		}
		return d
	}
	clean("as bootstrap wrote it")
	g.inForce()
	remembers := false
	for _, f := range clean("while the Envoy runs").Facts {
		remembers = remembers || f.Name == "guard record" && len(f.Text) > 0
	}
	if !remembers {
		t.Error("it says nothing of what the guard remembers")
	}
	found := func(what, want string, args ...string) {
		t.Helper()
		d, code := g.doctor(args...)
		if code != 1 || !slices.ContainsFunc(d.Findings, func(f struct{ Code, Level, Field, Text, Mend string }) bool { return f.Code == want }) {
			t.Errorf("%s: exit code %d, findings %v, want %s", what, code, d.Findings, want)
		}
	}
	meshtest.Run(t, meshtest.Meshseal(t, "keygen", "--out", g.dir+"/other"))
	found("another key", "GUARD_KEYS_DIFFER", "--key", g.dir+"/other.pub")

	record := g.dir + "/record.json"
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	meshtest.Write(t, g.dir, "record.json", string(text)+" ")
	found("a record with a byte more", "GUARD_RECORD", key...)
	meshtest.Write(t, g.dir, "record.json", string(text))

	// A module that is none: the program itself.
	program, err := meshtest.Binary()
	if err != nil {
		t.Fatal(err)
	}
	module, err := meshtest.GuardModule()
	if err != nil {
		t.Fatal(err)
	}
	g.editBootstrap(module, program)
	found("a module that is no guard", "GUARD_MODULE", key...)
	g.editBootstrap(program, module)
	g.editBootstrap("api_type: DELTA_GRPC", "api_type: GRPC")
	found("state of the world", "ADS_NOT_DELTA", key...)
}
